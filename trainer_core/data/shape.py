"""Which columns play which part. A shape is found by the structure of the rows, never by a file's name, and turns rows into items."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import orjson

from trainer_core.data.rows import Chat, Item, Message, Pair, Role
from trainer_core.errors import DataError

Kind = Literal["chat", "pairs"]
Structure = Literal["text", "transcript", "number", "truth", "message", "messages", "scored", "other"]
Values = dict[str, Any]

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
}  # fmt: skip

MESSAGE_KEYS = (("role", "content"), ("from", "value"), ("role", "value"), ("from", "content"), ("role", "text"))
SCORE_KEYS = ("overall_score", "score", "rating", "overall_rating")
ANSWER_KEYS = ("response", "completion", "answer", "output", "content", "text")

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "query", "user", "problem", "input"),
    "input": ("input", "context"),
    "system": ("system", "system_prompt", "system_message"),
    "history": ("history",),
    "answer": ("completion", "output", "response", "answer", "assistant", "target", "solution"),
    "chosen": ("chosen", "chosen_messages", "chosen_response", "preferred", "accepted"),
    "rejected": ("rejected", "rejected_messages", "rejected_response", "dispreferred", "reject"),
    "messages": ("messages", "conversations", "conversation", "dialogue", "chat"),
    "scored": ("completions", "responses", "answers", "candidates"),
    "label": ("label", "kto_tag"),
    "text": ("text", "content"),
}

TRANSCRIPT = re.compile(r"(?:^\s*|\n\n)(Human|Assistant|System): ?")
SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant", "System": "system"}


class BadRow(Exception):
    """One row does not fit its shape. `code` is for counting, the message is the sentence's end ("...: no answer")."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class Columns:
    """Which column plays which part; None where no column does. What a mapping by hand fills in."""

    prompt: str | None = None
    input: str | None = None
    system: str | None = None
    history: str | None = None
    answer: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    messages: str | None = None
    scored: str | None = None
    label: str | None = None
    text: str | None = None

    @property
    def used(self) -> dict[str, str]:
        """Part -> column, without the parts nobody plays."""
        return {part: column for part, column in asdict(self).items() if column is not None}


@dataclass(frozen=True)
class Shape:
    """What was found in a file: a name for people, what a row becomes, and the columns it is made of."""

    name: str
    kind: Kind
    columns: Columns
    unused: tuple[str, ...] = ()

    def convert(self, values: Values) -> Item:
        """One row as a chat or a pair.

        Raises:
            BadRow: the row lacks a part, or a part is not what it should be.
        """
        return to_pair(values, self.columns) if self.kind == "pairs" else to_chat(values, self.columns)


@dataclass(frozen=True)
class Rule:
    """One known shape: the parts it needs, with the structures each may have. `names` narrows a part's column names."""

    name: str
    kind: Kind | Literal["kto"]
    needs: dict[str, frozenset[str]]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)


TEXT = frozenset(("text", "transcript", "number"))
TALK = frozenset(("message", "messages"))
TURNS = frozenset(("messages",))

RULES = (
    Rule("ShareGPT pairs", "pairs", {"messages": TURNS, "chosen": TALK, "rejected": TALK}, {"messages": ("conversations", "conversation")}),
    Rule("preference pairs as messages", "pairs", {"prompt": TEXT | TALK, "chosen": TALK, "rejected": TALK}),
    Rule("preference pairs as whole conversations", "pairs", {"chosen": TURNS, "rejected": TURNS}),
    Rule("preference pairs", "pairs", {"prompt": TEXT | TALK, "chosen": TEXT, "rejected": TEXT}),
    Rule("preference pairs after a conversation", "pairs", {"messages": TURNS, "chosen": TEXT | TALK, "rejected": TEXT | TALK}),
    Rule("Anthropic HH transcripts", "pairs", {"chosen": frozenset(("transcript",)), "rejected": frozenset(("transcript",))}),
    Rule("scored answers", "pairs", {"prompt": TEXT | TALK, "scored": frozenset(("scored",))}),
    Rule("KTO", "kto", {"prompt": TEXT | TALK, "answer": TEXT | TALK, "label": frozenset(("truth", "text", "number"))}),
    Rule("KTO", "kto", {"messages": TURNS, "label": frozenset(("truth", "text", "number"))}),
    Rule("chat messages", "chat", {"messages": TURNS}),
    Rule("Alpaca", "chat", {"prompt": TEXT, "answer": TEXT}, {"prompt": ("instruction",), "answer": ("output", "response")}),
    Rule("question and answer", "chat", {"prompt": TEXT, "answer": TEXT}, {"prompt": ("question",), "answer": ("answer",)}),
    Rule("prompt and completion", "chat", {"prompt": TEXT | TALK, "answer": TEXT | TALK}),
    Rule("plain text", "chat", {"text": TEXT}),
)  # fmt: skip

EXTRAS: dict[str, frozenset[str]] = {"system": TEXT, "input": TEXT, "history": frozenset(("other",))}
NEEDED = "Pairs need prompt, chosen and rejected; chats need messages, or a prompt and an answer"


def find(sample: Iterable[Values], where: str, given: Columns | None = None) -> Shape:
    """The shape of the rows, or the shape that the columns given by hand make.

    Raises:
        DataError: nothing known fits, or it is KTO. Names the columns found and those needed.
    """
    rows = list(sample)
    columns = structures(rows)
    if given is not None:
        return by_hand(given, columns, where)
    for rule in RULES:
        found = match(rule, columns)
        if found and rule.kind == "kto":
            if not labelled(rows, found["label"]):
                continue
            raise DataError(
                f"{where}: these are single answers with a label (KTO). Tunebench trains on pairs and on chats; "
                "give each prompt a chosen and a rejected answer."
            )
        if found:
            return shaped(rule, found, columns, rows)
    raise DataError(f"{where}: found {listed(columns)}. {NEEDED}. Say which column is which, or rename them.")


def structures(rows: Iterable[Values]) -> dict[str, Structure]:
    """Column -> what most of its filled cells are. Columns that are empty throughout count as text."""
    seen: dict[str, Counter[Structure]] = {}
    for row in rows:
        for column, value in row.items():
            counts = seen.setdefault(column, Counter())
            if value is not None and value != "" and value != []:
                counts[structure(value)] += 1
    return {column: counts.most_common(1)[0][0] if counts else "text" for column, counts in seen.items()}


def structure(value: Any) -> Structure:
    """What one cell is, by its type and, for objects, by their keys."""
    match value:
        case str():
            return "transcript" if is_transcript(value) else "text"
        case bool():
            return "truth"
        case int() | float():
            return "number"
        case dict():
            return "message" if message_keys(value) else "other"
        case list() if value and all(isinstance(one, dict) for one in value):
            if all(message_keys(one) for one in value):
                return "messages"
            return "scored" if all(scored(one) for one in value) else "other"
    return "other"


def match(rule: Rule, columns: dict[str, Structure]) -> dict[str, str] | None:
    """Part -> column for every part the rule needs, or None where one is missing."""
    found: dict[str, str] = {}
    for part, allowed in rule.needs.items():
        free = {column: kind for column, kind in columns.items() if column not in found.values()}
        column = pick(rule.names.get(part) or NAMES[part], free, allowed)
        if column is None and part == "messages" and not rule.names:
            column = only(free, allowed)
        if column is None:
            return None
        found[part] = column
    return found


def pick(names: tuple[str, ...], columns: dict[str, Structure], allowed: frozenset[str]) -> str | None:
    """The column with the first of the names that has an allowed structure; case and separators do not count."""
    simple = {re.sub(r"[\s-]+", "_", column.strip()).casefold(): column for column in columns}
    return next((simple[name] for name in names if name in simple and columns[simple[name]] in allowed), None)


def only(columns: dict[str, Structure], allowed: frozenset[str]) -> str | None:
    """The one column with an allowed structure, whatever its name; None where there are several."""
    fitting = [column for column, kind in columns.items() if kind in allowed]
    return fitting[0] if len(fitting) == 1 else None


def shaped(rule: Rule, found: dict[str, str], columns: dict[str, Structure], rows: list[Values]) -> Shape:
    """The rule's shape with the optional parts added, and the columns left over."""
    for part, allowed in EXTRAS.items():
        free = {column: kind for column, kind in columns.items() if column not in found.values()}
        column = pick(NAMES[part], free, allowed)
        if column is not None and "text" not in found:
            found[part] = column
    assert rule.kind != "kto"
    unused = tuple(column for column in columns if column not in found.values())
    name = "ShareGPT" if rule.name == "chat messages" and sharegpt(rows, found["messages"]) else rule.name
    return Shape(name, rule.kind, Columns(**found), unused)


def sharegpt(rows: list[Values], column: str) -> bool:
    """Whether the first filled cell writes its turns as from and value."""
    first = next((row[column] for row in rows if row.get(column)), [{}])
    return isinstance(first, list) and "from" in first[0]


def labelled(rows: list[Values], column: str) -> bool:
    """Whether a column says yes or no in every row, as KTO's label does."""
    return all(str(row.get(column)).strip().casefold() in ("true", "false", "0", "1") for row in rows)


def by_hand(given: Columns, columns: dict[str, Structure], where: str) -> Shape:
    """The shape that a mapping by hand makes.

    Raises:
        DataError: a column that is not there, or parts that make neither a pair nor a chat.
    """
    for part, column in given.used.items():
        if column not in columns:
            raise DataError(f"{where}: no column {column!r} for {part}; found {listed(columns)}.")
    unused = tuple(column for column in columns if column not in given.used.values())
    if (given.chosen and given.rejected) or given.scored:
        return Shape("columns chosen by hand", "pairs", given, unused)
    if given.messages or given.text or (given.prompt and given.answer):
        return Shape("columns chosen by hand", "chat", given, unused)
    raise DataError(f"{where}: the chosen columns make neither pairs nor chats. {NEEDED}.")


def listed(columns: Iterable[str]) -> str:
    names = [f"{name:.40}" or "(no name)" for name in columns]
    if not names:
        return "no columns"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"column{'s' if len(names) > 1 else ''} {', '.join(names[:12])}{more}"


# --- rows to items ----------------------------------------------------------------------------------------------------


def to_chat(values: Values, columns: Columns) -> Chat:
    """A row of a chat shape as one conversation.

    Raises:
        BadRow: see `Shape.convert`.
    """
    if columns.text:
        return Chat((Message("assistant", text(values, columns.text)),))
    messages = opening(values, columns)
    if columns.answer:
        messages += spoken(values, columns.answer, "assistant")
    if not any(message.role == "assistant" for message in messages):
        raise BadRow("no answer", "no turn of the assistant to learn from")
    return Chat(messages)


def to_pair(values: Values, columns: Columns) -> Pair:
    """A row of a pair shape; what both sides begin with becomes part of the prompt.

    Raises:
        BadRow: see `Shape.convert`.
    """
    if columns.scored:
        return best_and_worst(values, columns)
    assert columns.chosen and columns.rejected
    chosen, rejected = (
        spoken(values, side, "assistant", columns.prompt is None) for side in (columns.chosen, columns.rejected)
    )
    if chosen[0].role == "assistant" and rejected[0].role == "assistant":
        return checked(Pair(opening(values, columns), chosen, rejected))
    shared = shared_turns(chosen, rejected)
    prompt = with_system(chosen[:shared], values, columns)
    return checked(Pair(prompt, chosen[shared:], rejected[shared:]))


def shared_turns(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> int:
    """How many turns both sides begin with; at least one turn stays for each answer."""
    most = min(len(chosen), len(rejected)) - 1
    return next((at for at in range(most) if chosen[at] != rejected[at]), most)


def checked(pair: Pair) -> Pair:
    """The pair, if both sides answer the same prompt.

    Raises:
        BadRow: a side begins with another role than the assistant's, or there is no prompt.
    """
    if pair.chosen[0].role != "assistant" or pair.rejected[0].role != "assistant":
        raise BadRow("different prompts", "chosen and rejected do not answer the same prompt")
    if not any(message.role == "user" for message in pair.prompt):
        raise BadRow("no prompt", "no prompt before the answers")
    return pair


def best_and_worst(values: Values, columns: Columns) -> Pair:
    """The answers with the highest and the lowest score.

    Raises:
        BadRow: fewer than two scored answers, or all with the same score.
    """
    assert columns.scored
    answers = values.get(columns.scored)
    if not isinstance(answers, list) or not all(isinstance(one, dict) and scored(one) for one in answers):
        raise BadRow("not scored", f"{columns.scored!r} is not a list of answers with scores")
    ranked = sorted(answers, key=score, reverse=True)
    if len(ranked) < 2 or score(ranked[0]) == score(ranked[-1]):
        raise BadRow("no preference", "no two answers with different scores")
    best, worst = ((Message("assistant", answer_of(one)),) for one in (ranked[0], ranked[-1]))
    return checked(Pair(opening(values, columns), best, worst))


def opening(values: Values, columns: Columns) -> tuple[Message, ...]:
    """What stands before the answer: system, earlier turns, prompt with its input."""
    if columns.messages:
        return with_system(turns(values, columns.messages), values, columns)
    if columns.prompt is None:
        return ()
    messages = earlier(values, columns) + spoken(values, columns.prompt, "user", True)
    more = values.get(columns.input) if columns.input else None
    if more:
        last = messages[-1]
        messages = (*messages[:-1], replace(last, content=f"{last.content}\n\n{text(values, columns.input or '')}"))
    return with_system(messages, values, columns)


def earlier(values: Values, columns: Columns) -> tuple[Message, ...]:
    """The turns of a history column: a list of question and answer."""
    rounds = values.get(columns.history) if columns.history else None
    if not rounds:
        return ()
    if not isinstance(rounds, list) or not all(isinstance(one, list) and len(one) == 2 for one in rounds):
        raise BadRow("history", f"{columns.history!r} is not a list of question and answer")
    return tuple(
        Message(role, said if isinstance(said, str) else str(said or ""))
        for one in rounds
        for role, said in zip(("user", "assistant"), one, strict=True)
    )  # type: ignore[arg-type]


def with_system(messages: tuple[Message, ...], values: Values, columns: Columns) -> tuple[Message, ...]:
    """The messages with the system column's text in front, where there is one and the messages have none."""
    if not columns.system or not values.get(columns.system) or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", text(values, columns.system)), *messages)


def spoken(values: Values, column: str, role: Role, whole: bool = False) -> tuple[Message, ...]:
    """A cell as messages: text is one turn of `role`; with `whole`, a transcript is taken apart into its turns."""
    value = values.get(column)
    if isinstance(value, list | dict):
        return turns(values, column)
    said = text(values, column)
    return transcript(said) if whole and is_transcript(said) else (Message(role, said),)


def turns(values: Values, column: str) -> tuple[Message, ...]:
    """A cell with one message object or a list of them.

    Raises:
        BadRow: the cell is empty or no list of messages.
    """
    value = values.get(column)
    if isinstance(value, dict):
        return (message(value, column),)
    if not isinstance(value, list) or not value:
        raise BadRow("empty", f"{column!r} has no messages" if not value else f"{column!r} is not a list of messages")
    return tuple(message(one, column) for one in value)


def message(value: Any, column: str) -> Message:
    """One message object in any of the known spellings.

    Raises:
        BadRow: no role and content in it, an unknown role, tool calls, or content that is not text.
    """
    keys = message_keys(value) if isinstance(value, dict) else None
    if keys is None:
        raise BadRow("not a message", f"{column!r} holds something that is not a message with role and content")
    role, content = value[keys[0]], value[keys[1]]
    known = ROLES.get(str(role).casefold())
    if known is None:
        raise BadRow("unknown role", f"{column!r} has the unknown role {str(role)!r:.40}")
    if content is None and value.get("tool_calls"):
        raise BadRow("tool calls", f"{column!r} has tool calls, which Tunebench does not train on")
    return Message(known, content_text(content, column))


def content_text(content: Any, column: str) -> str:
    """A message's content: text, or a list of text parts.

    Raises:
        BadRow: parts of other types, such as images, or no text at all.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        other = next((part.get("type") for part in content if not isinstance(part.get("text"), str)), None)
        if other is None:
            return "".join(part["text"] for part in content)
        raise BadRow("not text", f"{column!r} has a part of type {other!r:.40}; Tunebench trains on text")
    raise BadRow(
        "not text",
        f"{column!r} has content that is not text" if content is not None else f"{column!r} has an empty turn",
    )


def text(values: Values, column: str) -> str:
    """A text cell; numbers are written out.

    Raises:
        BadRow: the cell is missing or holds something else.
    """
    value = values.get(column)
    if isinstance(value, str):
        return value
    if value is None:
        raise BadRow("missing", f"{column!r} is missing")
    if isinstance(value, bool | list | dict):
        raise BadRow("not text", f"{column!r} is not text")
    return str(value)


def message_keys(value: dict[str, Any]) -> tuple[str, str] | None:
    """The spelling of role and content in a message object, or None where it is none."""
    return next((keys for keys in MESSAGE_KEYS if keys[0] in value and keys[1] in value), None)


def scored(value: dict[str, Any]) -> bool:
    """Whether an object is an answer with a score."""
    return any(isinstance(value.get(key), int | float) for key in SCORE_KEYS) and any(
        isinstance(value.get(key), str) for key in ANSWER_KEYS
    )


def score(value: dict[str, Any]) -> float:
    return next(value[key] for key in SCORE_KEYS if isinstance(value.get(key), int | float))


def answer_of(value: dict[str, Any]) -> str:
    return next(value[key] for key in ANSWER_KEYS if isinstance(value.get(key), str))


def is_transcript(said: str) -> bool:
    """Whether a text is a conversation written as "Human: ... Assistant: ...", each speaker on a paragraph of its own."""
    return said.lstrip().startswith(("Human:", "System:")) and "\n\nAssistant:" in said


def transcript(said: str) -> tuple[Message, ...]:
    """The turns of a transcript; an empty last turn of the assistant, the mark of a bare prompt, is left out."""
    parts = TRANSCRIPT.split(said)[1:]
    found = tuple(Message(SPEAKERS[who], words) for who, words in zip(parts[::2], parts[1::2], strict=True))
    return found[:-1] if found[-1].role == "assistant" and not found[-1].content.strip() else found


def unpacked(values: Values) -> Values:
    """A CSV row with the cells that hold messages or scored answers, written as JSON or as Python, made into objects."""
    return {
        column: cell(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
        for column, value in values.items()
    }


def cell(value: str) -> Any:
    """The list or object that a cell spells, if it is one that a shape can use; else the text itself."""
    try:
        found = orjson.loads(value) if '"' in value[:3] else ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value
    return found if structure(found) in ("message", "messages", "scored") else value
