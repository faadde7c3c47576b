"""Parses one file's bytes into rows: JSONL, JSON, CSV and Parquet, each row with its position in the file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, Literal, NamedTuple

from trainer_core.data.files import encoding, json_stream
from trainer_core.data.files.limits import FileLimits
from trainer_core.errors import DataError
from trainer_core.texts import VERBATIM, Text

FileFormat = Literal["jsonl", "json", "csv", "parquet"]
CSV_REASONS = {
    "unexpected end of data": Text("csv.open_quote"),
    "expected after": Text("csv.after_quote"),
    "new-line character seen": Text("csv.carriage_return"),
}
DELIMITERS = ",\t;|"
MAX_CSV_COLUMNS = 10_000
"""A row's cells are checked one by one, and columns by twos."""
SEPARATOR_LINE = re.compile(r"\ufeff?sep=([,\t;|])\r?\n?", re.IGNORECASE)
"""The first line by which a file tells Excel its separator."""


class RawRow(NamedTuple):
    """One row, counted from 1, with its first line if the format has lines."""

    number: int
    line: int | None
    values: dict[str, Any]


@dataclass(frozen=True)
class UnreadableRow:
    """One unreadable row, and the reason. `fatal`: everything after it is unreadable too."""

    file: str
    row: int
    line: int | None
    column: int | None
    reason: Text
    snippet: str = ""
    fatal: bool = False

    @property
    def text(self) -> Text:
        place = row_place(self.file, self.row, self.line, self.column)
        if self.snippet:
            return Text("rows.fault_at", place=place, reason=self.reason, snippet=self.snippet)
        return Text("rows.fault", place=place, reason=self.reason)

    def __str__(self) -> str:
        return str(self.text)


def row_place(file: str, row: int, line: int | None, column: int | None = None) -> Text:
    """A row's position as text: by line if the format has lines, else by row."""
    if column is not None:
        return Text("rows.column", place=row_place(file, row, line), column=column)
    return Text("rows.row", file=file, row=row) if line is None else Text("rows.line", file=file, line=line)


def number_lines(file: BinaryIO, limits: FileLimits) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their number; None stands for a line beyond the limit, which is skipped without loading it."""
    number = 0
    while line := file.readline(limits.line_bytes + 1):
        number += 1
        if len(line) <= limits.line_bytes:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(encoding.CHUNK_BYTES)
        yield number, None


def jsonl_rows(file: BinaryIO, name: str, limits: FileLimits) -> Iterator[RawRow | UnreadableRow]:
    row = 0
    for number, line in number_lines(file, limits):
        if line is None:
            row += 1
            yield UnreadableRow(name, row, number, None, Text("rows.too_long", limit=limits.line_bytes >> 20))
        elif not line.isspace():
            row += 1
            yield as_raw_row(json_stream.parse_row(line.rstrip(b"\r\n"), limits), name, row, number, 1)


def as_raw_row(
    found: dict[str, Any] | json_stream.JsonError, name: str, row: int, line: int | None, column: int
) -> RawRow | UnreadableRow:
    """The parser's result, with its position in the file."""
    if isinstance(found, json_stream.JsonError):
        return UnreadableRow(name, row, line, column + found.at, found.reason, found.snippet)
    return RawRow(row, line, found)


def json_rows(file: BinaryIO, name: str, limits: FileLimits) -> Iterator[RawRow | UnreadableRow]:
    """The objects of a list, of an object that holds one list, or of a sequence over several lines."""
    for row, piece in enumerate(json_stream.stream_values(file, limits), start=1):
        if piece.fault:
            yield UnreadableRow(name, row, piece.line, piece.column, piece.fault, fatal=True)
            return
        found = json_stream.parse_row(piece.text, limits)
        inner = json_stream.rows_of_object(found) if piece.alone and isinstance(found, dict) else None
        if inner is not None:
            yield from (
                as_raw_row(json_stream.as_object(one), name, at, None, 1) for at, one in enumerate(inner, start=1)
            )
        elif isinstance(found, json_stream.JsonError):
            line, column = json_stream.advance_position(piece, found.at)
            yield UnreadableRow(name, row, line, column, found.reason, found.snippet, fatal=found.syntax)
        else:
            yield RawRow(row, piece.line, found)


def csv_rows(file: BinaryIO, name: str, limits: FileLimits) -> Iterator[RawRow | UnreadableRow]:
    """Rows of a table whose first line names the columns."""
    csv.field_size_limit(limits.line_bytes)
    texts = decode_lines(file, name, limits)
    first, skipped = next(texts), 0
    delimiter = max(DELIMITERS, key=first.count)
    if named := SEPARATOR_LINE.fullmatch(first):
        delimiter, first, skipped = named[1], next(texts, ""), 1
    spaced = f"{delimiter} " in first and first.count(f"{delimiter} ") == first.count(delimiter)
    table = csv.reader(chain([first], texts), delimiter=delimiter, strict=True, skipinitialspace=spaced)
    header = read_column_names(table, name)
    row = 0
    while True:
        line = table.line_num + 1 + skipped
        try:
            cells = next(table, None)
        except csv.Error as error:
            row += 1
            yield UnreadableRow(name, row, line, None, csv_fault(error))
            continue
        if cells is None:
            return
        if cells:
            row += 1
            yield cells_as_row(cells, header, name, row, line)


def read_column_names(table: Iterator[list[str]], name: str) -> list[str]:
    """The column names of the first row.

    Raises:
        DataError: it is damaged, or repeats a column name.
    """
    try:
        header = next(table)
    except csv.Error as error:
        raise DataError("csv.bad_header", file=name, fault=csv_fault(error)) from error
    if len(header) > MAX_CSV_COLUMNS:
        raise DataError("csv.too_many_columns", file=name, columns=len(header), limit=MAX_CSV_COLUMNS)
    if wrong := find_cell_error(header, header):
        raise DataError("csv.bad_header", file=name, fault=wrong[0])
    # pandas' index and Excel's empty columns have no name
    header = [column or f"column {number}" for number, column in enumerate(header, start=1)]
    double = next((column for column in header if header.count(column) > 1), None)
    if double is not None:
        raise DataError("csv.repeated_column", file=name, column=double[:40])
    return header


def csv_fault(error: csv.Error) -> Text:
    found = (reason for mark, reason in CSV_REASONS.items() if mark in str(error))
    return Text("csv.not_valid", reason=next(found, Text(VERBATIM, text=str(error))))


def cells_as_row(cells: list[str], header: list[str], name: str, row: int, line: int) -> RawRow | UnreadableRow:
    wrong = find_cell_error(cells, header)
    return (
        UnreadableRow(name, row, line, None, *wrong)
        if wrong
        else RawRow(row, line, dict(zip(header, cells, strict=True)))
    )


def find_cell_error(cells: list[str], header: list[str]) -> tuple[Text, str] | None:
    """The fault in the fields of a row, with a snippet; None if there is none."""
    clean = json_stream.clean_snippet
    if len(cells) != len(header):
        return Text("csv.field_count", fields=len(cells), columns=len(header)), clean(cells[0])
    for number, (cell, column) in enumerate(zip(cells, header, strict=True), start=1):
        if "\0" in cell:
            return Text("csv.zero_byte", number=number, column=clean(column[:40])), clean(cell)
        if not cell.isascii() and any("\ud800" <= letter <= "\udfff" for letter in cell):
            return Text("csv.not_utf8", number=number, column=clean(column[:40])), clean(cell)
    return None


def decode_lines(file: BinaryIO, name: str, limits: FileLimits) -> Iterator[str]:
    for number, line in number_lines(file, limits):
        if line is None:
            raise DataError("csv.long_line", file=name, line=number, limit=limits.line_bytes >> 20)
        yield line.decode(errors="surrogateescape")


def parquet_rows(file: BinaryIO, name: str, limits: FileLimits) -> Iterator[RawRow | UnreadableRow]:
    """Rows in batches of 256. The sizes that a Parquet file declares are not trusted; the decoded bytes are counted."""
    import pyarrow
    from pyarrow import parquet

    try:
        packed = isinstance(file, io.BufferedReader) and not isinstance(file.raw, io.FileIO)
        source = pyarrow.BufferReader(read_whole_file(file, name, limits)) if packed else file
        most = limits.max_unpacked(source.seek(0, io.SEEK_END))
        row, size = 0, 0
        for batch in parquet.ParquetFile(source).iter_batches(batch_size=256):
            size += batch.nbytes
            if size > most or batch.nbytes > limits.batch_bytes:
                raise too_large_error(name, min(most, limits.batch_bytes), row + 1)
            for values in batch.to_pylist():
                row += 1
                yield RawRow(row, None, values)
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError("parquet.damaged", file=name, error=first_error_line(error)) from error


def too_large_error(name: str, most: int, row: int | None = None) -> DataError:
    if row is None:
        return DataError("packed.too_large", file=name, limit=most >> 20)
    return DataError("packed.row_too_large", file=name, row=row, limit=most >> 20)


def read_whole_file(file: BinaryIO, name: str, limits: FileLimits) -> bytes:
    data = file.read(limits.batch_bytes + 1)
    if len(data) > limits.batch_bytes:
        raise DataError("packed.unpack_first", file=name, limit=limits.batch_bytes >> 20)
    return data


def first_error_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


ROW_READERS: dict[FileFormat, Callable[[BinaryIO, str, FileLimits], Iterator[RawRow | UnreadableRow]]] = {
    "jsonl": jsonl_rows,
    "json": json_rows,
    "csv": csv_rows,
    "parquet": parquet_rows,
}
