"""Reads message objects in all common spellings: roles, content parts, weights, reasoning."""

from __future__ import annotations

import math
from typing import Any

from trainer_core.data.schema.cells import (
    PICTURES,
    TOOLS,
    BadRow,
    RowCells,
    conversation_turns,
    find_role,
    has_content,
    is_columns,
    is_question_round,
    message_keys,
    parse_literal,
    parse_written_messages,
)
from trainer_core.data.schema.messages import Message, Role
from trainer_core.texts import Text

CALL_KEYS = ("function_call", "tool_call")
"""Roles whose turn is a tool call written as text."""
WEIGHT_KEYS = ("weight", "loss_weight", "train", "training", "trainable", "loss")
"""Fields that say whether a message is learned: OpenAI and Mistral, LLaMA-Factory, Axolotl, ms-swift."""
MASKED = "masked"
"""The inverse of those: torchtune."""
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "on"), ("false", "no", "off", "")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking", "thoughts")
REASONING_TYPES = ("thinking", "reasoning", "redacted_thinking")
"""Types of a content part that is reasoning."""
TOOL_PARTS = ("tool_use", "tool_call", "tool_result", "function", "function_call")
PART_TEXTS = ("text", "value", "content", "thinking", "reasoning", "data")
TEXT_TYPES = (None, "text", "input_text", "output_text")


def cell_messages(row: RowCells, column: str) -> tuple[Message, ...]:
    """A cell with one message object, a list of them, or a list of questions with their answers.

    Raises:
        BadRow: the cell is empty, or something in it is not a message.
    """
    value = row.values.get(column)
    if isinstance(value, dict):
        keys = message_keys(value)
        turns = transpose_lists(value) if keys and is_columns(value, keys) else [value]
        return tuple([convert_message(row, one, column) for one in turns])
    if not has_content(value, spelled_out=True):
        raise BadRow("missing", Text("cells.no_messages", column=column))
    if not isinstance(value, list):
        raise BadRow("not a message", Text("cells.not_messages", column=column))
    turns = conversation_turns(value)
    if all(is_question_round(one) for one in turns):
        return tuple(turn for one, said in turns for turn in (Message("user", one), Message("assistant", said)))
    return tuple([convert_message(row, one, column) for one in turns])


def transpose_lists(value: dict[str, Any]) -> list[dict[str, Any]]:
    """One object of lists as a list of objects; values that are not lists of that length stay with the first."""
    count = next(len(one) for one in value.values() if isinstance(one, list) and one)
    lists = {key: one for key, one in value.items() if isinstance(one, list) and len(one) == count}
    turns = [{key: one[at] for key, one in lists.items()} for at in range(count)]
    return [{**turns[0], **{key: one for key, one in value.items() if key not in lists}}, *turns[1:]]


def convert_message(row: RowCells, value: Any, column: str) -> Message:
    """One message object in any of the known spellings.

    Raises:
        BadRow: it has no role and content, an unknown role, tool calls, or content that is not text.
    """
    if isinstance(value, str):
        value = parse_written_messages(value)
    keys = message_keys(value) if isinstance(value, dict) else None
    if keys is None:
        raise BadRow("not a message", Text("cells.not_message", column=column))
    role, content = str(value[keys[0]]).strip().casefold(), value[keys[1]]
    known = find_role(role)
    if known is None:
        raise BadRow("unknown role", Text("cells.unknown_role", column=column, role=str(value[keys[0]])[:40]))
    if has_content(value.get("tool_calls"), True) or has_content(value.get("function_call"), True):
        raise BadRow("tool calls", Text("cells.tool_calls", column=column))
    if role in CALL_KEYS:
        row.add_remark("tools", role, content)
    said, thought = (
        (content, "") if isinstance(content, str) and content[:1] != "[" else join_content(row, content, column)
    )
    if len(value) == 2:
        return Message(known, said, True, thought)
    if known == "assistant":
        thought = "\n\n".join(filter(None, (message_reasoning(value), thought)))
    learned = is_learned(row, value, known)
    remark_fields(row, value, keys, known)
    return Message(known, said, learned, thought)


def message_reasoning(value: dict[str, Any]) -> str:
    """The reasoning beside a message's content, from the first filled key."""
    return next((value[key] for key in REASONING_KEYS if isinstance(value.get(key), str) and value[key].strip()), "")


def is_learned(row: RowCells, value: dict[str, Any], role: Role) -> bool:
    """Do a message's weights allow learning it? Weights act as 0 or 1; any other value gets a remark."""
    learned = True
    for key in WEIGHT_KEYS:
        given = value.get(key)
        if given is None:
            continue
        weight = parse_weight(given)
        if weight not in (0, 1):
            row.add_remark("weight", key, given)
        if role == "assistant":
            learned = learned and not (weight is not None and weight <= 0)
        elif weight:
            row.add_remark("weight_of_others", key, f"{role}: {key} {given}")
    return learned and not (role == "assistant" and parse_weight(value.get(MASKED)))


def parse_weight(value: Any) -> float | None:
    """A weight as a number: 0, 1.0, false, "0", "true"; None if it is not a weight."""
    if isinstance(value, str):
        word = value.strip().casefold()
        if word in TRUE_WORDS or word in FALSE_WORDS:
            return float(word in TRUE_WORDS)
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def remark_fields(row: RowCells, value: dict[str, Any], keys: tuple[str, str], role: Role) -> None:
    """Remarks on the unused fields of a message."""
    thought = next((key for key in REASONING_KEYS if isinstance(value.get(key), str) and value[key].strip()), None)
    used = {*keys, *WEIGHT_KEYS, MASKED, thought if role == "assistant" else None}
    for key, one in value.items():
        if key not in used and has_content(one, spelled_out=True):
            row.add_remark("tools" if key in TOOLS else "pictures" if key in PICTURES else "field", key, one)


def join_content(row: RowCells, content: Any, column: str) -> tuple[str, str]:
    """A message's content as text and reasoning, from text, parts, or parts as JSON text.

    Raises:
        BadRow: it has parts of another type, such as images, or no text at all.
    """
    if isinstance(content, str):
        parts = parse_content_parts(content)
        if parts is None:
            return content, ""
        row.add_remark("json_text", column, content)
        content = parts
    if content is None:
        raise BadRow("missing", Text("cells.no_words", column=column))
    if isinstance(content, dict):
        content = content["parts"] if isinstance(content.get("parts"), list) else [content]
    if not isinstance(content, list):
        raise BadRow("not text", Text("cells.not_words", column=column))
    said, thought = list[str](), list[str]()
    for part in content:
        (thought if isinstance(part, dict) and part.get("type") in REASONING_TYPES else said).append(
            part_text(row, part, column)
        )
    return "".join(said), "\n\n".join(filter(None, thought))


def part_text(row: RowCells, part: Any, column: str) -> str:
    """The text of one content part.

    Raises:
        BadRow: it has none.
    """
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise BadRow("not text", Text("cells.not_words", column=column))
    kind = part.get("type")
    if kind in TOOL_PARTS:
        raise BadRow("tool calls", Text("cells.tool_calls", column=column))
    for key in PART_TEXTS:
        words = part.get(key)
        words = words.get("value") if isinstance(words, dict) else words
        if isinstance(words, str) and (words or kind in TEXT_TYPES):
            for other, one in part.items():
                if other not in ("type", key) and has_content(one):
                    row.add_remark("field", other, one)
            return words
    raise BadRow(f"part {kind!s:.40}", Text("cells.other_part", column=column, type=str(kind)[:40]))


def parse_content_parts(text: str) -> list[Any] | None:
    """Content parts in JSON text, such as [{"type": "text", "text": "Hi"}]; None for other text."""
    if text[:2] not in ("[{", "[ ", "[\n"):
        return None
    value = parse_literal(text)
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) and "type" in one for one in value):
        return None
    return (
        value if all(one["type"] in (*TEXT_TYPES, *REASONING_TYPES, *PICTURES, "image_url") for one in value) else None
    )
