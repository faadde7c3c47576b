"""Classifies a cell of a row by its type and keys, also if it contains messages as JSON text."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import orjson

from trainer_core.data.schema import transcripts
from trainer_core.data.schema.messages import Role
from trainer_core.texts import Text

Structure = Literal[
    "text", "transcript", "number", "truth", "binary", "date", "texts", "message", "messages", "scored", "rounds", "other"
]  # fmt: skip
Values = dict[str, Any]
Parts = dict[str, str]
"""Part → column."""
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "ai": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "tool_response": "tool",
    "ipython": "tool",
}  # fmt: skip
MESSAGE_KEYS = (
    ("role", "content"), ("from", "value"), ("role", "value"), ("from", "content"), ("role", "text"), ("role", "parts"),
)  # fmt: skip
TOOLS = ("tools", "functions", "tool_calls", "function_call")
"""Columns and fields with a list of tools or with calls."""
PICTURES = ("image", "images", "video", "videos", "audio", "audios", "image_path", "image_url")
SCORES = ("overall_score", "score", "rating", "overall_rating")
ANSWERS = ("response", "completion", "answer", "output", "content", "text")
MAX_NESTING = 3
"""Maximum nesting of JSON as text inside JSON."""


class BadRow(Exception):
    """One row does not fit its schema. `code` is for counting; `reason` ends the sentence that names the row."""

    def __init__(self, code: str, reason: Text) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class RowRemark(NamedTuple):
    """Content of a row that is unused, or used differently from the file. `name`: its column or field."""

    code: str
    name: str
    snippet: str


@dataclass(slots=True)
class RowCells:
    """One row's cells by column and by part, with remarks on unused content."""

    values: Values
    columns: Parts
    remarks: list[RowRemark] = field(default_factory=list)

    def part_cell(self, name: str) -> Any:
        """The cell of a part; None if the part has no column or the cell is empty."""
        value = self.values.get(self.columns[name]) if name in self.columns else None
        return value if has_content(value, spelled_out=name == "history") else None

    def add_remark(self, code: str, name: str, value: Any = "") -> None:
        self.remarks.append(RowRemark(code, name[:60], cell_snippet(value)))


def cell_snippet(value: Any) -> str:
    """The start of a value, on one line."""
    return " ".join(str(value)[:200].split())[:80]


EMPTY_JSON = ("[]", "{}", "null")


def has_content(value: Any, spelled_out: bool = False) -> bool:
    """Is a cell filled? `spelled_out`: a list or object is expected, so empty JSON text counts as empty."""
    return value not in (None, "", [], {}) and not (spelled_out and value in EMPTY_JSON)


def cell_structure(value: Any) -> Structure:
    """The structure of a cell, by its type and, for objects, by their keys."""
    match value:
        case str():
            return "transcript" if transcripts.detect_transcript(value) else "text"
        case bool():
            return "truth"
        case int() | float() | Decimal():
            return "number"
        case bytes():
            return "binary"
        case date() | time():
            return "date"
        case dict():
            keys = message_keys(value)
            return "other" if keys is None else "messages" if is_columns(value, keys) else "message"
        case list() if value:
            return list_structure(value)
    return "other"


def list_structure(value: list[Any]) -> Structure:
    if isinstance(value[0], str):
        value = [parse_written_messages(one) if isinstance(one, str) else one for one in value]
    value = conversation_turns(value)
    if all(isinstance(one, dict) for one in value):
        if all(message_keys(one) for one in value):
            return "messages"
        return "scored" if all(is_scored_answer(one) for one in value) else "other"
    if all(is_question_round(one) for one in value):
        return "rounds"
    return "texts" if all(isinstance(one, str) for one in value) else "other"


def conversation_turns(value: list[Any]) -> list[Any]:
    """The turns of a list: those of the only list in it, and role and text in a list as an object."""
    if len(value) == 1 and isinstance(value[0], list) and value[0] and not isinstance(value[0][0], str):
        value = value[0]
    if not all(is_question_round(one) and find_role(one[0]) for one in value):
        return value
    return [{"role": role, "content": content} for role, content in value]


def find_role(name: Any) -> Role | None:
    """The role of a name, in any of its spellings; None if it is unknown."""
    return ROLES.get(str(name).strip().casefold())


def is_question_round(value: Any) -> bool:
    """Is a value a question with its answer?"""
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(one, str) for one in value)


def is_columns(value: dict[str, Any], keys: tuple[str, str]) -> bool:
    """Is an object a list of roles beside a list of contents, as the `datasets` library stores messages?"""
    roles, contents = value[keys[0]], value[keys[1]]
    return isinstance(roles, list) and isinstance(contents, list) and len(roles) == len(contents) > 0


def cell_text(row: RowCells, column: str) -> str:
    """A text cell; numbers are converted to text.

    Raises:
        BadRow: the cell is missing or of another type.
    """
    value = row.values.get(column)
    if isinstance(value, str):
        return value
    if value is None:
        raise BadRow("missing", Text("cells.missing", column=column))
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    raise BadRow("not text", Text("cells.not_text", column=column))


def message_keys(value: dict[str, Any]) -> tuple[str, str] | None:
    """The keys of role and content in a message object, or None if it is not a message. Keys with a null value come last."""
    there = [keys for keys in MESSAGE_KEYS if keys[0] in value and keys[1] in value]
    if len(there) > 1:
        there.sort(key=lambda keys: value[keys[0]] is None or value[keys[1]] is None)
    return there[0] if there else None


def is_scored_answer(value: dict[str, Any]) -> bool:
    """Is an object an answer with a score?"""
    has_score = any(isinstance(value.get(key), int | float) for key in SCORES)
    return has_score and any(isinstance(value.get(key), str) for key in ANSWERS)


def answer_score(value: dict[str, Any]) -> float:
    return next(value[key] for key in SCORES if isinstance(value.get(key), int | float))


def answer_text(value: dict[str, Any]) -> str:
    return next(value[key] for key in ANSWERS if isinstance(value.get(key), str))


JSON_STARTS = frozenset('[{" \t\r\n')


def parse_written_messages(text: str, also: Structure | None = None, answer: bool = False) -> Any:
    """The messages that a text contains as JSON or Python literal; otherwise the text itself.

    Only known roles count, so that an answer in JSON stays an answer. `also`: another structure to accept.
    `answer`: the text is the answer to a prompt, so only pure assistant turns count, and a chat in JSON stays text.
    """
    if text[:1] not in JSON_STARTS:
        return text
    value: Any = text
    for _ in range(MAX_NESTING):
        if isinstance(value, str):
            value = parse_literal(value)
    if not isinstance(value, list | dict):
        return text
    kind = cell_structure(value)
    if kind in ("message", "messages"):
        roles = list_roles(value)
        return value if all(roles) and (not answer or set(roles) == {"assistant"}) else text
    return value if kind == also else text


def parse_literal(text: str) -> Any:
    """The value of a JSON or Python literal; otherwise the text itself."""
    start = text.lstrip()[:8]
    if start[:1] not in ("[", "{", '"'):
        return text
    try:
        return orjson.loads(text)
    except ValueError:
        if "'" not in start:
            return parse_lenient_json(text) if "\n" in text and start[0] != '"' else text
    bare = text.strip()
    for one in (bare, BETWEEN_OBJECTS.sub("}, {", bare)):  # numpy omits the comma at the end of a line
        try:
            return ast.literal_eval(one)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


BETWEEN_OBJECTS = re.compile(r"\}\s*\n\s*\{")


def parse_lenient_json(text: str) -> Any:
    """JSON with raw line breaks in its strings, as spreadsheets produce it."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text


def list_roles(value: list[Any] | dict[str, Any]) -> list[Role | None]:
    """The role of every message in a value; None for an unknown role."""
    several = [
        parse_written_messages(one) if isinstance(one, str) else one
        for one in (conversation_turns(value) if isinstance(value, list) else [value])
    ]
    named = [one[keys[0]] for one in several if isinstance(one, dict) and (keys := message_keys(one))]
    flat = [role for one in named for role in (one if isinstance(one, list) else [one])]
    return [find_role(role) for role in flat]
