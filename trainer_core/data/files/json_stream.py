"""Parses JSON of any size piece by piece, with the position of each piece and errors in plain words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from trainer_core.data.files.limits import FileLimits
from trainer_core.system.format import MIB
from trainer_core.texts import NO_TEXT, VERBATIM, Text

TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}"]', re.DOTALL)
LONG_INTEGER = re.compile(rb"[\s:,\[]-?\d{19,}+(?![\d.eE])")
SEPARATORS = re.compile(rb"[\s,]*+")
SYNTAX_REASONS = {
    "unexpected end of data": Text("json.cut_off"),
    "unexpected control character in string": Text("json.control_character"),
    "surrogate": Text("json.half_surrogate"),
    "depth limit exceeded": Text("json.too_deep"),
    "trailing comma is not allowed": Text("json.trailing_comma"),
    "unexpected content after document": Text("json.after_row"),
    "invalid escaped sequence in string": Text("json.unknown_escape"),
    "unexpected character, expected a string key": Text("json.bare_key"),
    "unexpected character, expected ':' after key": Text("json.no_colon"),
    "unexpected character, expected ',' or '}'": Text("json.open_object"),
    "unexpected character, expected ',' or ']'": Text("json.open_list"),
    "unexpected character, expected a JSON value": Text("json.unknown_value"),
}
VALUE_KINDS = {
    list: Text("json.list"),
    str: Text("json.string"),
    bool: Text("json.truth"),
    type(None): Text("json.null"),
}


@dataclass(frozen=True)
class JsonError:
    """Why a piece of JSON is not a row. `at`: characters before the fault; `syntax`: the text after it cannot be trusted."""

    reason: Text
    at: int = 0
    snippet: str = ""
    syntax: bool = False


@dataclass(frozen=True)
class JsonValue:
    """One value of a document and its position. `alone`: it is the only value; `fault`: why there is no value."""

    text: bytes
    line: int
    column: int
    alone: bool = False
    fault: Text = NO_TEXT


def parse_row(text: bytes, limits: FileLimits) -> dict[str, Any] | JsonError:
    """One JSON object, or why the text is not one."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return syntax_error(text, error)
    if LONG_INTEGER.search(text):
        value = parse_long_integers(text, value)
    found = as_object(value)
    if isinstance(found, JsonError):
        return found
    try:
        quotes = count_value_quotes(found, limits.depth - 1)
    except RecursionError:
        return JsonError(Text("json.deeper", levels=limits.depth))
    return found if quotes == count_text_quotes(text) else reject_duplicate_keys(text, found)


def parse_long_integers(text: bytes, rounded: Any) -> Any:
    """The same value with its integers of more than 64 bits digit by digit, where orjson has rounded them."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # more digits than Python reads
        return rounded


def as_object(value: Any) -> dict[str, Any] | JsonError:
    if isinstance(value, dict):
        return value
    if is_conversation(value):
        return {"messages": value}
    return JsonError(Text("json.no_object", kind=VALUE_KINDS.get(type(value), Text("json.number"))))


def syntax_error(text: bytes, error: orjson.JSONDecodeError) -> JsonError:
    try:
        text.decode()
    except UnicodeDecodeError as bad:
        before = text[: bad.start].decode()
        around = before[-30:] + text[bad.start : bad.start + 30].decode(errors="replace")
        return JsonError(Text("json.not_utf8", byte=text[bad.start]), len(before), clean_snippet(around), syntax=True)
    found = (reason for mark, reason in SYNTAX_REASONS.items() if mark in error.msg)
    return JsonError(
        Text("json.not_valid", reason=next(found, Text(VERBATIM, text=error.msg))),
        error.pos,
        clean_snippet(error.doc[max(0, error.pos - 30) : error.pos + 30]),
        syntax=True,
    )


def clean_snippet(text: str) -> str:
    """A short piece of a file, on one line and without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:60]).strip()


def count_value_quotes(value: dict[str, Any] | list[Any], left: int) -> int:
    """Quotes needed to write the keys and strings of a value; RecursionError if it is deeper than `left` levels.

    A text with more quotes repeats a key, of which a parser keeps only the last.
    """
    if left < 0:
        raise RecursionError
    quotes = 0
    for one in [*value, *value.values()] if isinstance(value, dict) else value:
        if isinstance(one, str):
            quotes += 2 + one.count('"') if '"' in one else 2
        elif isinstance(one, dict | list):
            quotes += count_value_quotes(one, left - 1)
    return quotes


def count_text_quotes(text: bytes) -> int:
    """Quotes in a text, in either spelling."""
    return text.count(b'"') + (text.count(b"\\u0022") if b"\\" in text else 0)


def reject_duplicate_keys(text: bytes, value: dict[str, Any]) -> dict[str, Any] | JsonError:
    """The value, or an error if one of its objects repeats a key, of which a parser keeps only the last."""
    doubles: list[str] = []

    def note_doubles(pairs: list[tuple[str, Any]]) -> None:
        seen = set[str]()
        for key, _ in pairs:
            if key in seen:
                doubles.append(key)
            seen.add(key)

    json.loads(text, object_pairs_hook=note_doubles)
    return JsonError(Text("json.repeated_key", key=doubles[0][:60])) if doubles else value


def single_list(value: dict[str, Any]) -> list[Any] | None:
    """The rows of an object that wraps one list of objects, as in {"data": [...]}; the turns of a chat are not rows."""
    lists = [inner for inner in value.values() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
    return lists[0] if len(lists) == 1 and not is_chat_turn(lists[0][0]) else None


def rows_of_object(value: dict[str, Any]) -> list[Any] | None:
    """The rows of an object that is a whole file; None if it is itself one row."""
    table = rows_from_columns(value)
    return single_list(value) if table is None else table


def rows_from_split(columns: list[str], data: list[Any]) -> list[Any] | None:
    """The rows of a table that has its column names once; None if a row has another length."""
    whole = all(isinstance(row, list) and len(row) == len(columns) for row in data)
    return [dict(zip(columns, row, strict=True)) for row in data] if whole else None


def rows_from_columns(value: dict[str, Any]) -> list[Any] | None:
    """The rows of an object that holds a table column by column, as pandas writes it: lists of equal length, or objects
    with the same row numbers, or `columns` beside `data` (orient "list", "dict" and "split"). None if it is not a table."""
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list) and all(isinstance(one, str) for one in columns):
        return rows_from_split(columns, data)
    cells = list(value.values())
    if len(cells) > 1 and all(isinstance(one, dict) and one and all(map(str.isdigit, one)) for one in cells):
        rows = list(dict.fromkeys(number for one in cells for number in one))
        return [{name: one.get(row) for name, one in value.items()} for row in rows]
    if not all(isinstance(one, list) for one in cells) or len({len(one) for one in cells}) != 1 or not cells[0]:
        return None
    if any(is_chat_turn(cell) for one in cells for cell in one):
        return None
    if len(cells) == 1 and not all(isinstance(cell, list) for cell in cells[0]):
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]


def is_chat_turn(value: Any) -> bool:
    """Does a value look like one message of a chat, so that a list of it is one conversation?"""
    return isinstance(value, dict) and any(key in value for key in ("role", "from", "content", "value"))


def is_conversation(value: Any) -> bool:
    """Is a row no object, but the list of a conversation's turns?"""
    return isinstance(value, list) and bool(value) and all(is_chat_turn(one) or is_text_pair(one) for one in value)


def is_text_pair(value: Any) -> bool:
    """Is a value a role with its text, or a question with its answer?"""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)


def advance_position(piece: JsonValue, characters: int) -> tuple[int, int]:
    """Line and column after this many characters of the piece."""
    before = piece.text.decode(errors="replace")[:characters]
    lines = before.count("\n")
    return piece.line + lines, len(before) - before.rfind("\n") if lines else piece.column + characters


def stream_values(file: BinaryIO, limits: FileLimits) -> Iterator[JsonValue]:
    """The values of a top-level list, or a sequence of values, in bounded memory.

    The last piece has a `fault` if the text breaks off or contains something else.
    """
    text = JsonWindow(file)
    inside = text.peek() == b"["
    if inside:
        text.advance(text.at + 1)
    most = limits.line_bytes if inside else limits.document_bytes
    count = 0
    while (start := text.peek()) in (b"{", b"["):
        count += 1
        line, column = text.line, text.column
        value, why = text.read_value(most, limits.depth)
        alone = count == 1 and not inside and not text.peek()
        yield JsonValue(value, line, column, alone, why)
        if why:
            return
    if inside and start == b"]":
        text.advance(text.at + 1)
        if text.peek():
            yield JsonValue(b"", text.line, text.column, fault=Text("json.after_list"))
    elif start:
        fault = Text("json.no_row", snippet=clean_snippet(text.next_characters()))
        yield JsonValue(b"", text.line, text.column, fault=fault)
    elif inside:
        yield JsonValue(b"", text.line, text.column, fault=Text("json.unclosed_list"))


class JsonWindow:
    """A window on a stream of JSON text that tracks its line and column."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.buffer, self.at, self.line, self.column = file, b"", 0, 1, 1

    def read_more(self) -> bool:
        """Reads more, twice as much each time, so that a long value is scanned only a few times."""
        chunk = self.file.read(max(MIB, len(self.buffer) - self.at))
        self.buffer, self.at = self.buffer[self.at :] + chunk, 0
        return bool(chunk)

    def peek(self) -> bytes:
        """The next byte except white space and commas; empty at the end."""
        while True:
            self.advance(SEPARATORS.match(self.buffer, self.at).end())  # type: ignore[union-attr]
            if self.at < len(self.buffer) or not self.read_more():
                return self.buffer[self.at : self.at + 1]

    def next_characters(self) -> str:
        return self.buffer[self.at : self.at + 60].decode(errors="replace")

    def advance(self, to: int) -> None:
        passed = self.buffer[self.at : to]
        if lines := passed.count(b"\n"):
            self.line, self.column = self.line + lines, 1
            passed = passed[passed.rfind(b"\n") + 1 :]
        self.column += len(passed.decode(errors="replace"))
        self.at = to

    def read_value(self, most: int, depth: int) -> tuple[bytes, Text]:
        """The object or list that starts here, or why it has no end."""
        while True:
            try:
                end = find_value_end(self.buffer, self.at, depth)
            except RecursionError:
                return b"", Text("json.deeper", levels=depth)
            if end is not None and end - self.at <= most:
                value = self.buffer[self.at : end]
                self.advance(end)
                return value, NO_TEXT
            if len(self.buffer) - self.at > most:
                return b"", Text("json.long_row", limit=most // MIB)
            if not self.read_more():
                return b"", Text("json.unclosed_row")


def find_value_end(text: bytes, start: int, depth: int) -> int | None:
    """The index after the value at `start`; None if the text ends first; RecursionError beyond `depth` levels."""
    level = 0
    for token in TOKEN.finditer(text, start):
        first = text[token.start()]
        if first in b"{[":
            level += 1
            if level > depth:
                raise RecursionError
        elif first in b"}]":
            level -= 1
            if level == 0:
                return token.end()
        elif token.end() - token.start() == 1:
            return None
    return None
