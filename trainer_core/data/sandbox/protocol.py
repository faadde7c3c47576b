"""How the limited child and its parent speak: one JSON line per object, [class name, fields]. Never pickle.

What the child says is checked against its class, since it has met files from outside. What it is asked comes from the app
itself and is not: so the child starts without pydantic and the settings, whose import takes longer than most files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from trainer_core.data.files.raw_rows import Flaw
from trainer_core.data.quality.report import Report
from trainer_core.data.stream import (
    Checkup,
    Count,
    Counts,
    Example,
    Found,
    Glance,
    Glimpse,
    LeftAside,
    Misfit,
    Note,
    Progress,
    Request,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class Done:
    """The request is served."""


@dataclass(frozen=True)
class Refused:
    """The request ended in a sentence for the user."""

    sentence: str


@dataclass(frozen=True)
class Broke:
    """The request ended in a bug."""

    traceback: str


ANSWERS = {
    kind.__name__: kind
    for kind in (Done, Refused, Broke, Note, Found, Progress, Example, Flaw, Misfit, LeftAside, Report, Glimpse, Counts)
}


def line(thing: Any) -> bytes:
    """One request or answer as a line."""
    return orjson.dumps([type(thing).__name__, thing], default=plain, option=orjson.OPT_APPEND_NEWLINE)


def plain(value: Any) -> Any:
    """What orjson does not know: settings as their fields, paths as text."""
    return str(value) if isinstance(value, Path) else value.model_dump()


def answer(text: bytes) -> Any:
    """The answer that a line holds, checked against its class."""
    name, fields = orjson.loads(text)
    return checked(name).validate_python(fields)


@cache
def checked(name: str) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(ANSWERS[name])


def request(text: bytes) -> Request | Glance | Count:
    """The request that a line holds."""
    name, fields = orjson.loads(text)
    if name == "Count":
        return counting(fields)
    path = Path(fields.pop("path"))
    if name == "Glance":
        return Glance(path)
    if fields["columns"]:
        from trainer_core.config.recipe import Columns

        fields["columns"] = Columns(**fields["columns"])
    if fields["checkup"]:
        fields["checkup"] = checkup(**fields["checkup"])
    return Request(path, **fields)


def checkup(tokenizer: str | None, length: int | None, held_out: str | None, steps: list[str]) -> Checkup:
    return Checkup(located(tokenizer), length, located(held_out), tuple(steps))


def counting(fields: dict[str, Any]) -> Count:
    from trainer_core.config.recipe import Data, Method

    return Count(Data(**fields["data"]), Method(fields["method"]), located(fields["tokenizer"]))


def located(path: str | None) -> Path | None:
    return None if path is None else Path(path)
