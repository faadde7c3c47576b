"""What is asked of the lens and what it answers. Nothing here imports a heavy library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, TypeAdapter

from trainer_core.config.recipe import Columns, Step, Template
from trainer_core.data.quality.report import Finding
from trainer_core.schema import Strict


class Rows(Strict):
    """Which rows, through which model's eyes. `model` is named as in a recipe."""

    source: str
    columns: Columns = Columns()
    steps: tuple[Step, ...] = ()
    model: str
    template: Template = "own"
    length: int = Field(ge=1)


class Look(Rows):
    """Show one usable row, counted from 0."""

    kind: Literal["look"] = "look"
    at: int = Field(ge=0)


class Measure(Rows):
    """Say how long the rows are, and what the length does to them."""

    kind: Literal["measure"] = "measure"


REQUEST: TypeAdapter[Look | Measure] = TypeAdapter(Annotated[Look | Measure, Field(discriminator="kind")])


@dataclass(frozen=True)
class Side:
    """One sequence as the model reads it, whole; `cut` is how many tokens the length leaves of it.

    `texts` put together are the rendered text. `trained[i]`: token i carries loss. `special`: places of control tokens.
    """

    name: str
    ids: list[int]
    texts: list[str]
    trained: list[bool]
    special: list[int]
    cut: int


@dataclass(frozen=True)
class Seen:
    """A row as tokens: one side for a chat, two for a pair. `left_out`: why training does not get it, else empty."""

    at: int
    rows: int
    item: Any
    sides: tuple[Side, ...]
    left_out: str = ""
    differ: int | None = None
    """Of a pair: the first token in which the sides differ."""


@dataclass(frozen=True)
class Measured:
    """Tokens per measured row, ascending, and what is wrong with rows at this length. `of`: all usable rows read."""

    lengths: list[int]
    of: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Undressed:
    """The model has no chat template: the first row as each template of `config.Template` would write it."""

    examples: dict[str, str]


@dataclass(frozen=True)
class Working:
    """Not ready yet: what is being done."""

    words: str


@dataclass(frozen=True)
class Refused:
    """The last word about a request that a person can mend."""

    sentence: str


@dataclass(frozen=True)
class Broke:
    """The last word about a request that met a bug."""

    traceback: str


def line(thing: Any) -> bytes:
    return orjson.dumps([type(thing).__name__, thing], option=orjson.OPT_APPEND_NEWLINE)
