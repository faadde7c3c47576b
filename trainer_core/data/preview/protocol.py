"""What the token preview is asked, and what it answers. Nothing here imports a heavy library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from trainer_core.config.recipe import Columns, RemedyName, Template
from trainer_core.data.quality.report import DataFinding
from trainer_core.schema import StrictModel


class RowsRequest(StrictModel):
    """Which rows, through which model's eyes. `model` is named as in a recipe."""

    source: str
    columns: Columns = Columns()
    steps: tuple[RemedyName, ...] = ()
    model: str
    template: Template = "own"
    length: int = Field(ge=1)


class TokenRowRequest(RowsRequest):
    """Show one usable row, counted from 0."""

    kind: Literal["look"] = "look"
    at: int = Field(ge=0)


class MeasureRequest(RowsRequest):
    """Say how long the rows are, and what the length does to them."""

    kind: Literal["measure"] = "measure"


@dataclass(frozen=True)
class TokenSide:
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
class RowPreview:
    """A row as tokens: one side for a chat, two for a pair. `left_out`: why training does not get it, else empty."""

    at: int
    rows: int
    item: Any
    sides: tuple[TokenSide, ...]
    left_out: str = ""
    differ: int | None = None
    """Of a pair: the first token in which the sides differ."""


@dataclass(frozen=True)
class MeasuredLengths:
    """Tokens per measured row, ascending, and what is wrong with rows at this length. `of`: all usable rows read."""

    lengths: list[int]
    of: int
    findings: tuple[DataFinding, ...]


@dataclass(frozen=True)
class NoTemplate:
    """The model has no chat template: the first row as each template of `config/recipe.py` would write it."""

    examples: dict[str, str]
