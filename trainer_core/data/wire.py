"""How the limited child and its parent speak: one JSON line per object, [class name, fields]. Never pickle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter

from trainer_core.data.formats import Flaw
from trainer_core.data.report import Report
from trainer_core.data.source import (
    Count,
    Counts,
    Example,
    Found,
    Glance,
    Glimpse,
    Misfit,
    Note,
    Progress,
    Request,
)


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


KINDS = {
    kind.__name__: TypeAdapter(kind)
    for kind in (
        Request,
        Glance,
        Count,
        Done,
        Refused,
        Broke,
        Note,
        Found,
        Progress,
        Example,
        Flaw,
        Misfit,
        Report,
        Glimpse,
        Counts,
    )  # fmt: skip
}


def line(thing: Any) -> bytes:
    """One object of a class in `KINDS` as a line."""
    return orjson.dumps([type(thing).__name__, thing], default=plain, option=orjson.OPT_APPEND_NEWLINE)


def thing(text: bytes) -> Any:
    """The object that a line holds, checked against its class."""
    name, fields = orjson.loads(text)
    return KINDS[name].validate_python(fields)


def plain(value: Any) -> Any:
    """What orjson does not know: models as their fields, paths as text."""
    return value.model_dump() if isinstance(value, BaseModel) else str(value)
