"""What one cell of a row is, and how people spell a message: keys, roles, parts, JSON in a CSV cell."""

from __future__ import annotations

import ast
from typing import Any, Literal

import orjson

from trainer_core.data import dialects
from trainer_core.data.rows import Message, Role

Structure = Literal["text", "transcript", "number", "truth", "message", "messages", "scored", "other"]
Values = dict[str, Any]
Parts = dict[str, str]
"""Part -> the column that plays it."""

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant",
    "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
}  # fmt: skip
KEYS = (("role", "content"), ("from", "value"), ("role", "value"), ("from", "content"), ("role", "text"))
SCORES = ("overall_score", "score", "rating", "overall_rating")
ANSWERS = ("response", "completion", "answer", "output", "content", "text")


class BadRow(Exception):
    """One row does not fit its shape. `code` is for counting; the message ends the sentence that names the row."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def structure(value: Any) -> Structure:
    """What a cell is, by its type and, for objects, by their keys."""
    match value:
        case str():
            return "transcript" if dialects.spoken_in(value) else "text"
        case bool():
            return "truth"
        case int() | float():
            return "number"
        case dict():
            return "message" if keys_of(value) else "other"
        case list() if value and all(isinstance(one, dict) for one in value):
            if all(keys_of(one) for one in value):
                return "messages"
            return "scored" if all(is_scored(one) for one in value) else "other"
    return "other"


def text(values: Values, column: str) -> str:
    """A cell of text; numbers are written out.

    Raises:
        BadRow: the cell is missing or holds something else.
    """
    value = values.get(column)
    if isinstance(value, str):
        return value
    if value is None:
        raise BadRow("missing", f"{column!r} is missing")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise BadRow("not text", f"{column!r} is not text")


def messages(values: Values, column: str) -> tuple[Message, ...]:
    """A cell that holds one message object or a list of them.

    Raises:
        BadRow: the cell is empty, or something in it is no message.
    """
    value = values.get(column)
    if isinstance(value, dict):
        return (message(value, column),)
    if not value:
        raise BadRow("missing", f"{column!r} has no messages")
    if not isinstance(value, list):
        raise BadRow("not a message", f"{column!r} is not a list of messages")
    return tuple([message(one, column) for one in value])


def message(value: Any, column: str) -> Message:
    """One message object in any of the known spellings.

    Raises:
        BadRow: no role and content in it, an unknown role, tool calls, or content that is not text.
    """
    keys = keys_of(value) if isinstance(value, dict) else None
    if keys is None:
        raise BadRow("not a message", f"{column!r} holds something that is not a message with role and content")
    role, content = value[keys[0]], value[keys[1]]
    known = ROLES.get(str(role).casefold())
    if known is None:
        raise BadRow("unknown role", f"{column!r} has the unknown role {str(role)[:40]!r}")
    if value.get("tool_calls"):
        raise BadRow("tool calls", f"{column!r} has tool calls, which Tunebench does not train on")
    return Message(known, content if isinstance(content, str) else joined(content, column))


def joined(content: Any, column: str) -> str:
    """A message's content that is a list of text parts.

    Raises:
        BadRow: parts of another type, such as images, or no text at all.
    """
    if content is None:
        raise BadRow("missing", f"{column!r} has a turn without text")
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise BadRow("not text", f"{column!r} has a turn that is not text")
    for part in content:
        if not isinstance(part.get("text"), str):
            kind = str(part.get("type"))[:40]
            raise BadRow("not text", f"{column!r} has a part of type {kind!r}; Tunebench trains on text")
    return "".join(part["text"] for part in content)


def keys_of(value: dict[str, Any]) -> tuple[str, str] | None:
    """How a message object spells role and content, or None where it is no message."""
    for keys in KEYS:
        if keys[0] in value and keys[1] in value:
            return keys
    return None


def is_scored(value: dict[str, Any]) -> bool:
    """Whether an object is an answer with a score."""
    has_score = any(isinstance(value.get(key), int | float) for key in SCORES)
    return has_score and any(isinstance(value.get(key), str) for key in ANSWERS)


def score_of(value: dict[str, Any]) -> float:
    return next(value[key] for key in SCORES if isinstance(value.get(key), int | float))


def answer_of(value: dict[str, Any]) -> str:
    return next(value[key] for key in ANSWERS if isinstance(value.get(key), str))


def unpacked(values: Values) -> Values:
    """A CSV row whose cells with messages or scored answers, written as JSON or as Python, are made into objects."""
    return {
        column: spelled(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
        for column, value in values.items()
    }


def spelled(value: str) -> Any:
    """The list or object that a cell spells, if a shape can use it; else the text itself."""
    try:
        found = orjson.loads(value) if '"' in value[:4] else ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value
    return found if structure(found) in ("message", "messages", "scored") else value
