"""How a path becomes items: every file behind it, read, recognised and converted, with all that is said on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.data import cells, read, shape
from trainer_core.data.formats import Flaw, Row, place
from trainer_core.data.limits import LIMITS, Limits
from trainer_core.data.rows import Item
from trainer_core.errors import DataError

if TYPE_CHECKING:
    from trainer_core.config import Columns, Data, Method

SAMPLE = 200
"""Rows looked at to find the shape."""
EVERY = 2000
"""Rows between two words on progress."""


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


@dataclass(slots=True)
class Example:
    """One usable row. Not frozen like the others, since there is one for each row and a frozen one takes four times as long."""

    file: str
    row: int
    line: int | None
    item: Item
    margin: float | None = None
    """Score of the chosen answer less that of the rejected one, where the file has such columns."""


@dataclass(frozen=True)
class Misfit:
    """A row that was read but does not fit the shape. `code` groups rows with the same fault."""

    file: str
    row: int
    line: int | None
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{place(self.file, self.row, self.line)}: {self.reason}"


@dataclass(frozen=True)
class Progress:
    """Bytes of the file read so far."""

    file: str
    bytes: int
    of: int
    rows: int


News = Note | Found | Progress | Example | Flaw | Misfit
A_ROW = (Example, Flaw, Misfit)


@dataclass(frozen=True)
class Checkup:
    """What a check looks at besides the rows: a tokenizer.json, the training length in tokens, a held-out file."""

    tokenizer: Path | None = None
    length: int | None = None
    held_out: Path | None = None
    steps: tuple[str, ...] = ()
    """Remedies applied before the rows are looked at."""


@dataclass(frozen=True)
class Request:
    """What to read: a file or folder, columns given by hand, and how many rows from the top (None: all)."""

    path: Path
    columns: Columns | None = None
    rows: int | None = None
    checkup: Checkup | None = None
    """Also look at the rows' health, and give a report instead of the rows."""

    def absolute(self) -> Request:
        """The same request for a process in another folder."""
        return replace(self, path=self.path.expanduser().absolute())

    def size(self) -> int:
        """Bytes of all files behind the path; 0 where there is none."""
        return bytes_behind(self.path)


def bytes_behind(path: Path) -> int:
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    return path.stat().st_size if path.is_file() else 0


@dataclass(frozen=True)
class Glance:
    """Asks for what can be seen in the first rows of a path, before its shape is known."""

    path: Path

    def absolute(self) -> Glance:
        return replace(self, path=self.path.expanduser().absolute())

    def size(self) -> int:
        return 0


@dataclass(frozen=True)
class Count:
    """Asks for what a run would train on, in numbers. With a tokenizer.json its rows are measured in real tokens."""

    data: Data
    method: Method
    tokenizer: Path | None = None

    @property
    def names(self) -> dict[str, str]:
        """Field -> the file or folder it names; bundled data is not among them."""
        from trainer_core.config import SAMPLE as bundled

        named = {field: getattr(self.data, field) for field in ("chat", "pairs", "held_out")}
        return {field: name for field, name in named.items() if name not in (None, bundled)}

    @property
    def path(self) -> Path:
        """What a refusal names."""
        return Path(next(iter(self.names.values()), "sample"))

    def absolute(self) -> Count:
        files = {field: str(Path(name).expanduser().absolute()) for field, name in self.names.items()}
        return replace(self, data=self.data.model_copy(update=files))

    def size(self) -> int:
        return sum(bytes_behind(Path(name)) for name in self.names.values())


@dataclass(frozen=True)
class Counts:
    """Rows for each stage, rows held out, and a sentence about each thing left out or noteworthy.

    lengths: of each stage's rows in tokens, ascending (share, tokens) as in `advice.Lengths`. measured: by the model's own
    tokenizer; else taken from the letters.
    """

    sft: int
    dpo: int
    held_out: int
    notes: tuple[str, ...]
    lengths: dict[str, tuple[tuple[float, int], ...]] = field(default_factory=dict)
    measured: bool = False


@dataclass(frozen=True)
class Column:
    """One column as the first rows have it; `samples` are its first filled cells on one line each, cut short."""

    name: str
    structure: str
    samples: tuple[str, ...]


@dataclass(frozen=True)
class Glimpse:
    """What the first file of a path looks like. `parts`: part -> column, a mere guess where there is a `problem`, which says
    why no known shape was found."""

    file: str
    columns: tuple[Column, ...]
    parts: dict[str, str]
    shape: str = ""
    problem: str = ""


def glanced(glance: Glance, limits: Limits = LIMITS) -> Glimpse:
    """The columns of the first file, with samples, and the shape that is found by itself.

    Raises:
        DataError: the file cannot be read, or none of its first rows can.
    """
    with read.opened(read.files(glance.path).paths[0], limits) as file:
        first = list(islice(file.rows, SAMPLE))
        unpack = cells.unpacked if file.format == "csv" else dict
        sample = [unpack(row.values) for row in first if isinstance(row, Row)]
        if not sample:
            raise DataError(str(first[0]) if first else f"{file.name}: there are no rows in it.")
        kinds = shape.structures(sample)
        columns = tuple(column(name, kind, sample) for name, kind in kinds.items())
        try:
            found = shape.find(sample, file.name)
        except DataError as error:
            return Glimpse(file.name, columns, shape.guess(kinds), problem=str(error))
        return Glimpse(file.name, columns, found.columns, found.name)


def column(name: str, kind: str, rows: list[cells.Values]) -> Column:
    filled = (row[name] for row in rows if row.get(name) not in (None, "", []))
    return Column(name, kind, tuple(" ".join(str(value)[:400].split())[:160] for value in islice(filled, 3)))


def examples(request: Request, limits: Limits = LIMITS) -> Iterator[News]:
    """Everything in the files behind the path, in order; `rows` counts over all of them.

    Raises:
        DataError: a file cannot be read at all, has no known shape, or the files hold both pairs and chats.
    """
    found = read.files(request.path)
    yield from (Note(text) for text in found.notes)
    left, kinds = request.rows, dict[str, str]()
    for path in found.paths:
        for news in one_file(path, request.columns, limits):
            if isinstance(news, Found):
                kinds[news.shape.kind] = path.name
                check_kinds(kinds, request.path)
            yield news
            if left is not None and isinstance(news, A_ROW):
                left -= 1
                if left == 0:
                    return


def check_kinds(kinds: dict[str, str], path: Path) -> None:
    """Raises DataError where one file holds pairs and another chats."""
    if len(kinds) > 1:
        both = f"{kinds['pairs']} holds pairs, but {kinds['chat']} holds chats"
        raise DataError(f"{path}: {both}. Put them in folders of their own.")


def one_file(path: Path, columns: Columns | None, limits: Limits) -> Iterator[News]:
    """What one file holds, its shape found from its first rows.

    Raises:
        DataError: it has no rows at all, or see `examples`.
    """
    with read.opened(path, limits) as file:
        if file.encoding.note:
            yield Note(f"{file.name}: {file.encoding.note}.")
        first = list(islice(file.rows, SAMPLE))
        if not first:
            raise DataError(f"{file.name}: there are no rows in it.")
        unpack = cells.unpacked if file.format == "csv" else dict
        sample = [unpack(row.values) for row in first if isinstance(row, Row)]
        if not sample:
            yield from (row for row in first if isinstance(row, Flaw))
            return
        found = shape.find(sample, file.name, columns)
        yield Found(file.name, file.format, found)
        for count, row in enumerate(chain(first, file.rows), start=1):
            yield row if isinstance(row, Flaw) else converted(row, found, file)
            if count % EVERY == 0:
                yield Progress(file.name, file.position(), file.size, count)


def converted(row: Row, found: shape.Shape, file: read.Opened) -> Example | Misfit:
    """The row as an item; CSV cells that spell messages are unpacked first."""
    values = cells.unpacked(row.values) if file.format == "csv" else row.values
    try:
        return Example(file.name, row.number, row.line, found.convert(values), found.margin(values))
    except cells.BadRow as bad:
        return Misfit(file.name, row.number, row.line, bad.code, str(bad))
