"""How a file on disk becomes rows: which formats are read, where each row stands, and what no file may ask for."""

from __future__ import annotations

import csv
import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import orjson

from trainer_core.data import encoding, json_text
from trainer_core.data.limits import LIMITS, Limits
from trainer_core.errors import DataError

Format = Literal["jsonl", "json", "csv", "parquet"]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "state.json")
BINARY = {
    b"PK\x03\x04": "a zip archive (or Excel file)", b"7z\xbc\xaf": "a 7z archive", b"\xfd7zXZ": "an xz archive",
    b"BZh": "a bzip2 archive", b"\x28\xb5\x2f\xfd": "a zstd archive", b"ARROW1": "an Arrow file",
    b"\x80\x02": "a Python pickle", b"\x80\x03": "a Python pickle", b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle", b"%PDF": "a PDF", b"\x89PNG": "an image", b"\xff\xd8\xff": "an image",
    b"\x1f\x8b": "a gzip file inside another", b"SQLite": "a database", b"\x7fELF": "a program", b"GGUF": "a GGUF model",
}  # fmt: skip
CSV_WORDS = {
    "unexpected end of data": "a quote is opened and never closed",
    "expected after": "something other than a comma follows a closing quote",
    "new-line character seen": "a line ends with a carriage return alone",
}
DELIMITERS = ",\t;|"


class Row(NamedTuple):
    """One row, counted from 1, with the line it begins in where the format has lines."""

    number: int
    line: int | None
    values: dict[str, Any]


@dataclass(frozen=True)
class Flaw:
    """One row that cannot be read, and why. `fatal`: nothing after it can be read either."""

    file: str
    row: int
    line: int | None
    column: int | None
    reason: str
    snippet: str = ""
    fatal: bool = False

    def __str__(self) -> str:
        return f"{place(self.file, self.row, self.line, self.column)}: {self.reason}" + (
            f": {self.snippet}" if self.snippet else ""
        )


def place(file: str, row: int, line: int | None, column: int | None = None) -> str:
    """Where a row stands, as people say it: by line where there are lines, else by row."""
    at = f"{file}, line {line}" if line is not None else f"{file}, row {row}"
    return at if column is None else f"{at}, column {column}"


@dataclass(frozen=True)
class Files:
    """The data files behind one path, and sentences about what else lies there."""

    paths: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def files(path: Path) -> Files:
    """The file itself, or every data file in the folder and below it, sorted by name.

    Raises:
        DataError: nothing there, no permission, a folder without data files, or neither file nor folder.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return in_folder(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: not a file but a device or a pipe. Give a data file or a folder.")
    return Files((path,))


def in_folder(folder: Path) -> Files:
    root, found, notes = folder.resolve(), [], []
    list(folder.iterdir())  # rglob says nothing about a folder that may not be read
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if not path.resolve().is_relative_to(root):
            notes.append(f"{path.name} was not read: it is a link to a place outside the folder.")
        elif (
            path.is_file()
            and path.name.lower() not in NOT_ROWS
            and path.name.lower().removesuffix(".gz").endswith(SUFFIXES)
        ):
            found.append(path)
        else:
            notes.append(f"{path.name} was not read: it is no data file by its name.")
    if not found:
        kinds = ", ".join(SUFFIXES)
        raise DataError(
            f"{folder}: no data file in this folder ({kinds}, also with .gz). {' '.join(notes[:3])}".strip()
        )
    return Files(tuple(found), tuple(notes))


def unreadable(path: Path, error: OSError) -> DataError:
    if isinstance(error, PermissionError):
        return DataError(f"{path}: no permission to read it.")
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: there is no such file or folder. Check the path.")
    return DataError(f"{path}: cannot be read: {error.strerror or error}.")


@dataclass(frozen=True)
class Opened:
    """One file, its format, its encoding, and its rows as they are read."""

    name: str
    format: Format
    encoding: encoding.Encoding
    rows: Iterator[Row | Flaw]
    size: int
    position: Callable[[], int]
    """Bytes of the file read so far."""


@contextmanager
def opened(path: Path, limits: Limits = LIMITS) -> Iterator[Opened]:
    """A file with its rows one by one, in bounded memory.

    Raises:
        DataError: here or while the rows are read: not readable, empty, no known format, or beyond a limit.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error
    with raw, guarded(path):
        size = path.stat().st_size
        if size == 0:
            raise DataError(f"{path.name}: the file is empty.")

        def again() -> BinaryIO:
            raw.seek(0)
            return unpacked(raw, path.name, limits)

        form = recognised(path, again)
        found = encoding.UTF8 if form == "parquet" else encoding.find(again)
        rows = ROWS[form](encoding.as_utf8(again(), found, path.name), path.name, limits)
        yield Opened(path.name, form, found, bounded(rows, path, limits), size, raw.tell)


def bounded(rows: Iterator[Row | Flaw], path: Path, limits: Limits) -> Iterator[Row | Flaw]:
    """The rows, up to the first fatal flaw and never more than the limit allows."""
    with guarded(path):
        for row in rows:
            if isinstance(row, Row) and row.number > limits.rows:
                raise DataError(f"{path.name}: more than {limits.rows:,} rows. Split the file and use a part of it.")
            yield row
            if isinstance(row, Flaw) and row.fatal:
                return


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """Broken gzip data and failing disks, as sentences."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path.name}: the gzip data is damaged or cut off ({error}). Get the file again.") from error
    except OSError as error:
        raise unreadable(path, error) from error


def unpacked(raw: BinaryIO, name: str, limits: Limits) -> BinaryIO:
    """The file's bytes, out of gzip where it is packed."""
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return io.BufferedReader(Unpacking(raw, name, limits), encoding.CHUNK) if packed else raw


class Unpacking(io.RawIOBase):
    """A gzip stream that stops where a real data set would have ended long before."""

    def __init__(self, raw: BinaryIO, name: str, limits: Limits) -> None:
        self.file, self.name = gzip.GzipFile(fileobj=raw), name
        self.left = self.most = limits.unpacked(os.fstat(raw.fileno()).st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        count = self.file.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise too_much(self.name, self.most)
        return count


def recognised(path: Path, again: Callable[[], BinaryIO]) -> Format:
    """The format by the file's content; the name decides only between kinds of text that look alike.

    Raises:
        DataError: an archive, a picture or another kind of file that holds no rows.
    """
    head = again().read(encoding.SAMPLE)
    if head.startswith(b"PAR1"):
        return "parquet"
    for mark, what in BINARY.items():
        if head.startswith(mark):
            raise DataError(
                f"{path.name}: this is {what}. Tunebench reads JSONL, JSON, CSV, TSV and Parquet, also with gzip."
            )
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    start = head.translate(None, b"\0\xef\xbb\xbf\xff\xfe").lstrip()[:1]
    if start == b"[":
        return "json"
    if start == b"{":
        return "jsonl" if suffix in (".jsonl", ".ndjson") or starts_with_row(again(), head) else "json"
    if not start:
        raise DataError(f"{path.name}: there is nothing but white space or zeros in it.")
    return {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}.get(suffix, "csv")  # type: ignore[return-value]


def starts_with_row(file: BinaryIO, head: bytes) -> bool:
    """Whether the first line is an object on its own, or at least looks like one followed by another."""
    found = encoding.find(lambda: io.BytesIO(head))
    lines = encoding.as_utf8(file, found, "")
    first, second = (lines.readline(LIMITS.line_bytes).strip() for _ in range(2))
    try:
        return isinstance(orjson.loads(first), dict) and not (json_text.only_list(orjson.loads(first)) and not second)
    except orjson.JSONDecodeError:
        return first.endswith(b"}") and second.startswith(b"{")


# --- formats ----------------------------------------------------------------------------------------------------------


def lines(file: BinaryIO, limits: Limits) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their number; None stands for a line beyond the limit, which is skipped without being held."""
    number = 0
    while line := file.readline(limits.line_bytes + 1):
        number += 1
        if len(line) <= limits.line_bytes:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(encoding.CHUNK)
        yield number, None


def jsonl_rows(file: BinaryIO, name: str, limits: Limits) -> Iterator[Row | Flaw]:
    row = 0
    for number, line in lines(file, limits):
        if line is None:
            row += 1
            yield Flaw(name, row, number, None, f"longer than {limits.line_bytes >> 20} MB")
        elif not line.isspace():
            row += 1
            yield as_row(json_text.parsed(line.rstrip(b"\r\n"), limits), name, row, number, 1)


def as_row(found: dict[str, Any] | json_text.Fault, name: str, row: int, line: int | None, column: int) -> Row | Flaw:
    """What the parser found, with its place in the file."""
    if isinstance(found, json_text.Fault):
        return Flaw(name, row, line, column + found.at, found.reason, found.snippet)
    return Row(row, line, found)


def json_rows(file: BinaryIO, name: str, limits: Limits) -> Iterator[Row | Flaw]:
    """The objects of a list, of an object that holds one list, or written one after the other over several lines."""
    for row, piece in enumerate(json_text.pieces(file, limits), start=1):
        if piece.fault:
            yield Flaw(name, row, piece.line, piece.column, piece.fault, fatal=True)
            return
        found = json_text.parsed(piece.text, limits)
        inner = json_text.only_list(found) if piece.alone and isinstance(found, dict) else None
        if inner is not None:
            yield from (as_row(json_text.as_object(one), name, at, None, 1) for at, one in enumerate(inner, start=1))
        elif isinstance(found, json_text.Fault):
            line, column = json_text.moved(piece, found.at)
            yield Flaw(name, row, line, column, found.reason, found.snippet, fatal=found.syntax)
        else:
            yield Row(row, piece.line, found)


def csv_rows(file: BinaryIO, name: str, limits: Limits) -> Iterator[Row | Flaw]:
    """Rows of a table whose first line names the columns."""
    csv.field_size_limit(limits.line_bytes)
    texts = decoded(file, name, limits)
    first = next(texts)
    delimiter = max(DELIMITERS, key=first.count)
    header = next(csv.reader([first], delimiter=delimiter))
    check_header(header, name)
    table = csv.reader(texts, delimiter=delimiter, strict=True)
    row = 0
    while True:
        line = table.line_num + 2
        try:
            cells = next(table, None)
        except csv.Error as error:
            row += 1
            why = next((words for mark, words in CSV_WORDS.items() if mark in str(error)), str(error))
            yield Flaw(name, row, line, None, f"not valid CSV, {why}")
            continue
        if cells is None:
            return
        if cells:
            row += 1
            yield cells_as_row(cells, header, name, row, line)


def cells_as_row(cells: list[str], header: list[str], name: str, row: int, line: int) -> Row | Flaw:
    wrong = wrong_cells(cells, header)
    return Flaw(name, row, line, None, *wrong) if wrong else Row(row, line, dict(zip(header, cells, strict=True)))


def wrong_cells(cells: list[str], header: list[str]) -> tuple[str, str] | None:
    """What is wrong with the fields of a row, with a snippet; None where nothing is."""
    if len(cells) != len(header):
        fields = f"{len(cells)} field{'s' if len(cells) > 1 else ''}"
        return f"{fields}, but the first line names {len(header)}", json_text.shown(cells[0])
    for number, (cell, column) in enumerate(zip(cells, header, strict=True), start=1):
        if "\0" in cell:
            return f"field {number} ({column[:40]}) has a zero byte", json_text.shown(cell)
        if not cell.isascii() and any("\ud800" <= letter <= "\udfff" for letter in cell):
            return f"field {number} ({column[:40]}) has a byte that is not UTF-8", json_text.shown(cell)
    return None


def decoded(file: BinaryIO, name: str, limits: Limits) -> Iterator[str]:
    for number, line in lines(file, limits):
        if line is None:
            raise DataError(f"{name}, line {number}: longer than {limits.line_bytes >> 20} MB.")
        yield line.decode(errors="surrogateescape")


def check_header(header: list[str], name: str) -> None:
    double = next((column for column in header if header.count(column) > 1), None)
    if double is not None:
        raise DataError(f"{name}, line 1: the column {double!r:.60} is named twice. Each column needs its own name.")


def parquet_rows(file: BinaryIO, name: str, limits: Limits) -> Iterator[Row | Flaw]:
    """Rows in batches of 256. The sizes that a Parquet file declares are not trusted; what comes out is counted."""
    import pyarrow
    from pyarrow import parquet

    try:
        packed = isinstance(file, io.BufferedReader) and not isinstance(file.raw, io.FileIO)
        source = pyarrow.BufferReader(whole(file, name, limits)) if packed else file
        most = limits.unpacked(source.seek(0, io.SEEK_END))
        row, size = 0, 0
        for batch in parquet.ParquetFile(source).iter_batches(batch_size=256):
            size += batch.nbytes
            if size > most or batch.nbytes > limits.batch_bytes:
                raise too_much(name, min(most, limits.batch_bytes), row + 1)
            for values in batch.to_pylist():
                row += 1
                yield Row(row, None, values)
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{name}: damaged, or no Parquet file ({first_line(error)}). Get it again.") from error


def too_much(name: str, most: int, row: int | None = None) -> DataError:
    at = name if row is None else f"{name}, row {row}"
    return DataError(f"{at}: unpacks to more than {most >> 20:,} MB, far more than honest data of its size would.")


def whole(file: BinaryIO, name: str, limits: Limits) -> bytes:
    data = file.read(limits.batch_bytes + 1)
    if len(data) > limits.batch_bytes:
        raise DataError(f"{name}: unpacks to more than {limits.batch_bytes >> 20} MB. Unpack it first.")
    return data


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


ROWS: dict[Format, Callable[[BinaryIO, str, Limits], Iterator[Row | Flaw]]] = {
    "jsonl": jsonl_rows,
    "json": json_rows,
    "csv": csv_rows,
    "parquet": parquet_rows,
}
