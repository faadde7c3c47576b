"""The protocol between the limited child and its parent: one JSON line per object, [class name, fields]. Never pickle.

What the child says is checked against its class, since it has met files from outside. What it is asked comes from the app
itself and is not: so the child starts without pydantic and the settings, whose import takes longer than most files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from trainer_core.data.files.raw_rows import UnreadableRow
from trainer_core.data.quality.report import DataReport
from trainer_core.data.read_events import FileNote, IgnoredContent, ReadProgress, SchemaDetected, UnusableRow, UsableRow
from trainer_core.data.stream import CheckOptions, CountRequest, Preview, PreviewRequest, ReadRequest, RowCounts

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class Finished:
    """The request is served."""


@dataclass(frozen=True)
class Rejected:
    """The request ended in a sentence for the user."""

    sentence: str


@dataclass(frozen=True)
class Crashed:
    """The request ended in a bug."""

    traceback: str


ANSWER_TYPES = {
    kind.__name__: kind
    for kind in (
        Finished,
        Rejected,
        Crashed,
        FileNote,
        SchemaDetected,
        ReadProgress,
        UsableRow,
        UnreadableRow,
        UnusableRow,
        IgnoredContent,
        DataReport,
        Preview,
        RowCounts,
    )
}


def encode_line(thing: Any) -> bytes:
    """One request or answer as a line."""
    return orjson.dumps([type(thing).__name__, thing], default=as_json_value, option=orjson.OPT_APPEND_NEWLINE)


def as_json_value(value: Any) -> Any:
    """What orjson does not know: settings as their fields, paths as text."""
    return str(value) if isinstance(value, Path) else value.model_dump()


def decode_answer_line(text: bytes) -> Any:
    """The answer that a line holds, checked against its class."""
    name, fields = orjson.loads(text)
    return answer_adapter(name).validate_python(fields)


@cache
def answer_adapter(name: str) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(ANSWER_TYPES[name])


def decode_request_line(text: bytes) -> ReadRequest | PreviewRequest | CountRequest:
    """The request that a line holds."""
    name, fields = orjson.loads(text)
    if name == CountRequest.__name__:
        return decode_count_request(fields)
    path = Path(fields.pop("path"))
    if name == PreviewRequest.__name__:
        return PreviewRequest(path)
    if fields["columns"]:
        from trainer_core.config.recipe import Columns

        fields["columns"] = Columns(**fields["columns"])
    if fields["checkup"]:
        fields["checkup"] = decode_check_options(**fields["checkup"])
    return ReadRequest(path, **fields)


def decode_check_options(held_out: str | None, steps: list[str]) -> CheckOptions:
    return CheckOptions(optional_path(held_out), tuple(steps))


def decode_count_request(fields: dict[str, Any]) -> CountRequest:
    from trainer_core.config.recipe import Data, MethodChain

    return CountRequest(Data(**fields["data"]), MethodChain(fields["method"]), optional_path(fields["tokenizer"]))


def optional_path(path: str | None) -> Path | None:
    return None if path is None else Path(path)
