"""How a path becomes items: every file behind it, read, recognised and converted, with all that is said on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from trainer_core.data import cells, read, shape
from trainer_core.data.convert import Columns
from trainer_core.data.limits import LIMITS, Limits
from trainer_core.data.read import Flaw, Row
from trainer_core.data.rows import Item
from trainer_core.errors import DataError

SAMPLE = 200
"""Rows looked at to find the shape."""


@dataclass(frozen=True)
class Note:
    """A sentence about a file that is no row's fault: its encoding, or files left aside."""

    text: str


@dataclass(frozen=True)
class Found:
    """A file begins: what it is and what its rows become."""

    file: str
    format: str
    shape: shape.Shape


@dataclass(frozen=True)
class Example:
    """One usable row."""

    file: str
    row: int
    line: int | None
    item: Item


@dataclass(frozen=True)
class Misfit:
    """A row that was read but does not fit the shape. `code` groups rows with the same fault."""

    file: str
    row: int
    line: int | None
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{read.place(self.file, self.row, self.line)}: {self.reason}"


News = Note | Found | Example | Flaw | Misfit


@dataclass(frozen=True)
class Request:
    """What to read: a file or folder, columns given by hand, and how many rows from the top (None: all)."""

    path: Path
    columns: Columns | None = None
    rows: int | None = None


def examples(request: Request, limits: Limits = LIMITS) -> Iterator[News]:
    """Everything in the files behind the path, in order; `rows` counts over all of them.

    Raises:
        DataError: a file cannot be read at all, has no known shape, or the files hold both pairs and chats.
    """
    found = read.files(request.path)
    yield from (Note(text) for text in found.notes)
    left, kinds = request.rows, {}
    for path in found.paths:
        if left == 0:
            return
        for news in islice_rows(one_file(path, request.columns, limits), left):
            if isinstance(news, Found):
                kinds[news.shape.kind] = path.name
            elif left is not None and not isinstance(news, Note):
                left -= 1
            if len(kinds) > 1:
                both = f"{kinds['pairs']} holds pairs, but {kinds['chat']} holds chats"
                raise DataError(f"{request.path}: {both}. Put them in folders of their own.")
            yield news


def islice_rows(news: Iterator[News], count: int | None) -> Iterator[News]:
    """Everything up to and including that many rows, good or bad."""
    left = count
    for one in news:
        yield one
        if left is not None and isinstance(one, Example | Flaw | Misfit):
            left -= 1
            if left == 0:
                return


def one_file(path: Path, columns: Columns | None, limits: Limits) -> Iterator[News]:
    """What one file holds, its shape found from its first rows."""
    with read.opened(path, limits) as file:
        if file.encoding.note:
            yield Note(f"{file.name}: {file.encoding.note}.")
        first = list(islice(file.rows, SAMPLE))
        table = file.format == "csv"
        sample = [cells.unpacked(row.values) if table else row.values for row in first if isinstance(row, Row)]
        if not sample:
            yield from (row for row in first if isinstance(row, Flaw))
            return
        found = shape.find(sample, file.name, columns)
        yield Found(file.name, file.format, found)
        for row in chain(first, file.rows):
            yield row if isinstance(row, Flaw) else converted(row, found, file.name, table)


def converted(row: Row, found: shape.Shape, name: str, table: bool) -> Example | Misfit:
    """The row as an item; CSV cells that spell messages are unpacked first."""
    try:
        item = found.convert(cells.unpacked(row.values) if table else row.values)
    except cells.BadRow as bad:
        return Misfit(name, row.number, row.line, bad.code, str(bad))
    return Example(name, row.number, row.line, item)
