"""Requests and answers of the token preview. Imports no heavy library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from trainer_core.config.recipe import Columns, EncodingName, RemedyName, Template
from trainer_core.data.quality.report import DataFinding
from trainer_core.schema import StrictModel


class RowsRequest(StrictModel):
    """Rows and the model to tokenise them for. `model` is named as in a recipe."""

    source: str
    columns: Columns = Columns()
    steps: tuple[RemedyName, ...] = ()
    model: str
    template: Template = "own"
    encoding: EncodingName = ""
    length: int = Field(ge=1)


class TokenRowRequest(RowsRequest):
    """Show one usable row, counted from 0."""

    kind: Literal["look"] = "look"
    at: int = Field(ge=0)


class MeasureRequest(RowsRequest):
    """Measure the rows, and the effect of the training length on them."""

    kind: Literal["measure"] = "measure"


@dataclass(frozen=True)
class TokenSide:
    """One whole sequence as the model reads it; `cut`: tokens left after truncation.

    `texts` joined are the rendered text. `trained[i]`: token i carries loss. `special`: positions of control tokens.
    """

    name: str
    ids: list[int]
    texts: list[str]
    trained: list[bool]
    special: list[int]
    cut: int


@dataclass(frozen=True)
class RowPreview:
    """A row as tokens: one side for a chat, two for a pair. `left_out`: why training skips it, else empty."""

    at: int
    rows: int
    item: Any
    sides: tuple[TokenSide, ...]
    left_out: str = ""
    differ: int | None = None
    """Of a pair: the first token where the sides differ."""


@dataclass(frozen=True)
class MeasuredLengths:
    """Tokens per measured row, ascending, and the faults at this length. `of`: all usable rows read."""

    lengths: list[int]
    of: int
    findings: tuple[DataFinding, ...]


@dataclass(frozen=True)
class NoTemplate:
    """The model has no chat template: the first row in each template of `config/recipe.py`."""

    examples: dict[str, str]
