"""Streams items from a path: reads every file, detects its schema and converts its rows, with events on the way."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.data.files import open_file
from trainer_core.data.files.limits import FILE_LIMITS, FileLimits
from trainer_core.data.files.raw_rows import RawRow, UnreadableRow
from trainer_core.data.read_events import (
    ROW_EVENTS,
    FileNote,
    IgnoredContent,
    ReadEvent,
    ReadProgress,
    SchemaDetected,
    UnusableRow,
    UsableRow,
)
from trainer_core.data.schema import cells, detect
from trainer_core.data.schema.data_schema import DataSchema
from trainer_core.data.schema.survey import MAX_COLUMNS, FileSurvey
from trainer_core.errors import DataError
from trainer_core.system.project import expand_home
from trainer_core.texts import Text

if TYPE_CHECKING:
    from trainer_core.config.recipe import Columns, Data, MethodChain


PREVIEW_BYTES = 64 << 20
"""Bytes of a file read to preview its columns; training reads all rows it uses."""
ROWS_PER_PROGRESS = 2000
"""Rows between two progress events."""
MAX_SILENT_CUT = 0.05
"""Start does not mention truncation up to this share of rows; Data and the run do."""
MARK_CODES = ("tools", "pictures")
MAX_IGNORED_NAMES = 200
"""Distinct column and field names counted per file."""


@dataclass(frozen=True)
class CheckOptions:
    """Options of a data check."""

    held_out: Path | None = None
    """A file with held-out rows, whose prompts are searched for among the rows."""
    steps: tuple[str, ...] = ()
    """Remedies to apply before checking."""


@dataclass(frozen=True)
class ReadRequest:
    """What to read: a file or folder, a manual column mapping, the number of rows from the top (None: all), and the encoding of
    files that are not UTF-8 (empty: detected)."""

    path: Path
    columns: Columns | None = None
    rows: int | None = None
    checkup: CheckOptions | None = None
    """Also check the rows, and return a report instead of the rows."""
    encoding: str = ""

    def with_absolute_paths(self) -> ReadRequest:
        """The same request for a process in another folder."""
        checkup, held_out = self.checkup, self.held_out
        if checkup and held_out:
            checkup = replace(checkup, held_out=absolute_path(held_out))
        return replace(self, path=absolute_path(self.path), checkup=checkup)

    @property
    def held_out(self) -> Path | None:
        return self.checkup.held_out if self.checkup else None

    def total_bytes(self) -> int:
        """Bytes of all files to read; 0 if there are none."""
        return path_bytes(self.path) + (path_bytes(self.held_out) if self.held_out else 0)


def absolute_path(path: Path) -> Path:
    """The absolute path with ~ expanded; ~ of an unknown user stays, and is reported as missing."""
    return expand_home(path).absolute()


def path_bytes(path: Path) -> int:
    """The size of a file or of all files in a folder; 0 if unknown, in which case opening it raises the reason."""
    try:
        if path.is_dir():
            return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


@dataclass(frozen=True)
class PreviewRequest:
    """Requests the columns of a path and the detected schema."""

    path: Path
    encoding: str = ""

    def with_absolute_paths(self) -> PreviewRequest:
        return replace(self, path=absolute_path(self.path))

    def total_bytes(self) -> int:
        return path_bytes(self.path)


@dataclass(frozen=True)
class CountRequest:
    """Requests the row counts of a run. With a tokenizer.json its rows are measured in real tokens."""

    data: Data
    method: MethodChain
    tokenizer: Path | None = None

    @property
    def file_names(self) -> dict[str, str]:
        """Field → the file or folder it names, without bundled data."""
        from trainer_core.config.recipe import SAMPLE as bundled

        named = {field: getattr(self.data, field) for field in ("chat", "pairs", "held_out")}
        return {field: name for field, name in named.items() if name not in (None, bundled)}

    @property
    def path(self) -> Path:
        """The path for error messages."""
        return Path(next(iter(self.file_names.values()), "sample"))

    def with_absolute_paths(self) -> CountRequest:
        files = {field: str(absolute_path(Path(name))) for field, name in self.file_names.items()}
        return replace(self, data=self.data.model_copy(update=files))

    def total_bytes(self) -> int:
        return sum(path_bytes(Path(name)) for name in self.file_names.values())


@dataclass(frozen=True)
class RowCounts:
    """Rows per stage, held-out rows, and notes on everything left out or noteworthy.

    lengths: of each stage's rows in tokens, ascending (share, tokens) as in `planning/recommendations.py`.
    measured: with the model's own tokenizer; otherwise estimated from characters.
    """

    rows: dict[str, int]
    held_out: int
    notes: tuple[Text, ...]
    lengths: dict[str, tuple[tuple[float, int], ...]] = field(default_factory=dict)
    measured: bool = False
    needs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Per stage, ascending: tokens up to the first learned one, for each measured row."""
    wholes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """All tokens of the same rows, ascending."""

    def after_truncation(self, lengths: Mapping[str, int]) -> RowCounts:
        """The rows left after truncation to these lengths in tokens, with a note for each stage that loses some."""
        left, notes = dict(self.rows), list[Text]()
        for stage, length in lengths.items():
            needs, wholes = self.needs.get(stage), self.wholes.get(stage)
            if not needs or not wholes:
                continue
            rows, share = left[stage], bisect_right(needs, length) / len(needs)
            left[stage] = round(rows * share)
            cut = rows - round(rows * bisect_right(wholes, length) / len(wholes)) - (rows - left[stage])
            if left[stage] == rows and cut <= MAX_SILENT_CUT * rows:
                continue
            code = "row_counts.kept" if self.measured and len(needs) == rows else "row_counts.about_kept"
            fits = next(-(-tokens // 64) * 64 for held, tokens in self.lengths[stage] if held >= 0.95)
            counts = {"kept": left[stage], "rows": rows, "length": length, "cut": cut, "fits": fits}
            notes.append(Text(code, stage=stage.upper(), **counts))
        return replace(self, rows=left, notes=(*self.notes, *notes))


@dataclass(frozen=True)
class ColumnPreview:
    """One column of a file; `samples` are its first filled cells, each shortened to one line."""

    name: str
    structure: str
    samples: tuple[str, ...]


@dataclass(frozen=True)
class Preview:
    """The first file of a path. `problem`: why no known schema fits. `parts`: part → column, a guess if there is a problem."""

    file: str
    columns: tuple[ColumnPreview, ...]
    parts: dict[str, str]
    shape: str = ""
    problem: str = ""


def read_preview(glance: PreviewRequest, limits: FileLimits = FILE_LIMITS) -> Preview:
    """The columns of the first file, with samples, and the detected schema.

    Raises:
        DataError: the file cannot be read, or none of its rows can.
    """
    first = open_file.find_data_files(glance.path).paths[0]
    with open_file.open_data_file(first, limits, glance.encoding) as file:
        survey, flaw = FileSurvey(), None
        for row in file.rows():
            if isinstance(row, RawRow):
                survey.add(row.values)
            else:
                flaw = flaw or row
            if file.position() > PREVIEW_BYTES:
                break
        if not survey.rows:
            raise no_rows_error(file, flaw)
        columns = tuple(ColumnPreview(name, one.structure, tuple(one.samples)) for name, one in survey.columns.items())
        try:
            found = detect.detect_schema(survey, file.name, file.may_be_prose)
        except DataError as error:
            return Preview(file.name, columns, detect.guess_parts(survey.column_structures()), problem=str(error))
        return Preview(file.name, columns, found.columns, found.name)


def no_rows_error(file: open_file.OpenFile, flaw: UnreadableRow | None) -> DataError:
    """Why a file without a readable row has none."""
    if flaw and not file.may_be_prose:
        return DataError(flaw.text)
    return DataError("files.prose" if flaw else "files.no_rows", file=file.name)


def stream_rows(request: ReadRequest, limits: FileLimits = FILE_LIMITS) -> Iterator[ReadEvent]:
    """All events of the files at the path, in order; `rows` counts over all of them.

    Raises:
        DataError: a file cannot be read at all, has no known schema, or the files hold both pairs and chats.
    """
    found = open_file.find_data_files(request.path)
    yield from (FileNote(text) for text in found.notes)
    left, kinds = request.rows, dict[str, str]()
    for path in found.paths:
        for news in stream_file(path, replace(request, rows=left), limits):
            if isinstance(news, SchemaDetected):
                kinds[news.shape.kind] = path.name
                check_kinds(kinds, request.path)
            left = left - 1 if left is not None and isinstance(news, ROW_EVENTS) else left
            yield news
        if left == 0:
            return


def check_kinds(kinds: dict[str, str], path: Path) -> None:
    """Raises DataError if one file holds pairs and another chats."""
    if len(kinds) > 1:
        raise DataError("files.both_kinds", folder=path, pairs=kinds["pairs"], chats=kinds["chat"])


def stream_file(path: Path, request: ReadRequest, limits: FileLimits) -> Iterator[ReadEvent]:
    """The events of one file's first rows, which also determine its schema.

    Raises:
        DataError: it has no rows at all, or see `detect.detect_schema`.
    """
    with open_file.open_data_file(path, limits, request.encoding) as file:
        if file.encoding.note:
            yield FileNote(Text("encoding.note", file=file.name, note=file.encoding.note))
        survey, clock = FileSurvey(request.columns), ReadTracker(file)
        for row in islice(file.rows(), request.rows):
            if isinstance(row, RawRow):
                survey.add(row.values)
            yield from clock.count_row()
        if not clock.rows:
            raise DataError("files.no_rows", file=file.name)
        if not survey.rows and file.may_be_prose:
            raise DataError("files.prose", file=file.name)
        if not survey.rows:
            yield from (row for row in islice(file.rows(), request.rows) if isinstance(row, UnreadableRow))
            return
        if survey.beyond:
            yield FileNote(Text("files.many_columns", file=file.name, limit=MAX_COLUMNS))
        found = detect.detect_schema(survey, file.name, file.may_be_prose)
        yield SchemaDetected(file.name, file.format, found)
        clock.start_second_pass()
        yield from convert_rows(islice(file.rows(), request.rows), found, file, clock)


def convert_rows(
    rows: Iterable[RawRow | UnreadableRow], found: DataSchema, file: open_file.OpenFile, clock: ReadTracker
) -> Iterator[UsableRow | UnusableRow | UnreadableRow | ReadProgress | IgnoredContent]:
    """The rows as items, then their unused content."""
    aside: dict[tuple[str, str], IgnoredContent] = {}
    for row in rows:
        if isinstance(row, UnreadableRow):
            yield row
        else:
            its = found.read_cells(row.values)
            yield convert_raw_row(row, its, found, file)
            count_remarks(aside, row, its.remarks, file)
        yield from clock.count_row()
    yield from aside.values()


class ReadTracker:
    """Progress of the two passes over a file, schema detection and conversion: bytes of both, out of twice its size."""

    def __init__(self, file: open_file.OpenFile) -> None:
        self.file, self.rows, self.passed = file, 0, 0

    def start_second_pass(self) -> None:
        self.rows, self.passed = 0, self.file.size

    def count_row(self) -> Iterator[ReadProgress]:
        """Count a row; yields progress at intervals."""
        self.rows += 1
        if self.rows % ROWS_PER_PROGRESS == 0:
            done = min(self.file.position(), self.file.size)
            yield ReadProgress(self.file.name, self.passed + done, 2 * self.file.size, self.rows)


def convert_raw_row(
    row: RawRow, its: cells.RowCells, found: DataSchema, file: open_file.OpenFile
) -> UsableRow | UnusableRow:
    """The row as an item, or why it is not one."""
    try:
        item = found.convert_row(its)
    except cells.BadRow as bad:
        return UnusableRow(file.name, row.number, row.line, bad.code, bad.reason)
    return UsableRow(file.name, row.number, row.line, item, found.score_margin(its.values), mark_codes(its.remarks))


def mark_codes(remarks: list[cells.RowRemark]) -> tuple[str, ...]:
    """The codes of lost content for which a step can drop the row."""
    return tuple({one.code for one in remarks if one.code in MARK_CODES}) if remarks else ()


def count_remarks(
    aside: dict[tuple[str, str], IgnoredContent],
    row: RawRow,
    remarks: Iterable[cells.RowRemark],
    file: open_file.OpenFile,
) -> None:
    """Count each remark once per row; the first row is the example."""
    for code, name, snippet in {(one.code, one.name): one for one in remarks}.values():
        known = aside.get((code, name))
        if known is None and len(aside) < MAX_IGNORED_NAMES:
            aside[code, name] = IgnoredContent(file.name, code, name, 1, row.number, row.line, snippet)
        elif known:
            aside[code, name] = replace(known, count=known.count + 1)
