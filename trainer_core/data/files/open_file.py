"""Finds readable files, detects their format and opens them. `raw_rows.py` turns them into rows."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from trainer_core.data.files import encoding, json_stream
from trainer_core.data.files.limits import FILE_LIMITS, FileLimits
from trainer_core.data.files.raw_rows import ROW_READERS, FileFormat, RawRow, UnreadableRow, too_large_error
from trainer_core.errors import DataError
from trainer_core.texts import Text

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
TABLE_SUFFIXES = (".csv", ".tsv")
LINE_SUFFIXES = (".jsonl", ".ndjson")
METADATA_FILES = ("dataset_info.json", "dataset_infos.json", "state.json")
BINARY_SIGNATURES = {
    b"PK\x03\x04": Text("binary.zip"), b"7z\xbc\xaf": Text("binary.seven_zip"), b"\xfd7zXZ": Text("binary.xz"),
    b"BZh": Text("binary.bzip2"), b"\x28\xb5\x2f\xfd": Text("binary.zstd"), b"ARROW1": Text("binary.arrow"),
    b"\x80\x02": Text("binary.pickle"), b"\x80\x03": Text("binary.pickle"), b"\x80\x04": Text("binary.pickle"),
    b"\x80\x05": Text("binary.pickle"), b"%PDF": Text("binary.pdf"), b"\x89PNG": Text("binary.image"),
    b"\xff\xd8\xff": Text("binary.image"), b"\x1f\x8b": Text("binary.gzip"), b"SQLite": Text("binary.database"),
    b"\x7fELF": Text("binary.program"), b"GGUF": Text("binary.gguf"), b"\xff\xff\xff\xff": Text("binary.arrow"),
    b"Obj\x01": Text("binary.avro"), b"\x89HDF": Text("binary.hdf5"), b"\x93NUMPY": Text("binary.numpy"),
}  # fmt: skip


@dataclass(frozen=True)
class DataFiles:
    """The data files at one path, and notes about other files there."""

    paths: tuple[Path, ...]
    notes: tuple[Text, ...] = ()


def find_data_files(path: Path) -> DataFiles:
    """The file itself, or every data file in the folder and below it, sorted by name.

    Raises:
        DataError: nothing there, no permission, a folder without data files, or neither file nor folder.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return files_in_folder(path)
    except OSError as error:
        raise unreadable_error(path, error) from error
    if not stat.S_ISREG(mode):
        raise DataError("files.no_file", path=path)
    return DataFiles((path,))


def files_in_folder(folder: Path) -> DataFiles:
    root, found, notes = folder.resolve(), list[Path](), list[Text]()
    list(folder.iterdir())  # rglob silently skips an unreadable folder
    for path in sorted(folder.rglob("*")):
        if not is_text_name(path):
            notes.append(Text("files.bad_name", file=ascii(path.name)))
            continue
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if not path.resolve().is_relative_to(root):
            notes.append(Text("files.outside", file=path.name))
        elif (
            path.is_file()
            and path.name.lower() not in METADATA_FILES
            and path.name.lower().removesuffix(".gz").endswith(SUFFIXES)
        ):
            found.append(path)
        else:
            notes.append(Text("files.other_name", file=path.name))
    if not found and notes:
        raise DataError(
            "files.others_only", folder=folder, kinds=", ".join(SUFFIXES), notes=" ".join(map(str, notes[:3]))
        )
    if not found:
        raise DataError("files.none", folder=folder, kinds=", ".join(SUFFIXES))
    return DataFiles(tuple(found), tuple(notes))


def is_text_name(path: Path) -> bool:
    """Is a file's name valid text? Linux also allows other bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def unreadable_error(path: Path, error: OSError) -> DataError:
    if isinstance(error, PermissionError):
        return DataError("files.no_permission", path=path)
    if isinstance(error, FileNotFoundError):
        return DataError("files.missing", path=path)
    return DataError("files.unreadable", path=path, error=error.strerror or str(error))


@dataclass(frozen=True)
class OpenFile:
    """One file, its format, its encoding, and its rows. Each call of `rows` reads from the start."""

    name: str
    format: FileFormat
    encoding: encoding.TextEncoding
    rows: Callable[[], Iterator[RawRow | UnreadableRow]]
    size: int
    position: Callable[[], int]
    """Bytes of the file read so far."""

    @property
    def may_be_prose(self) -> bool:
        """Is it read as a table only because it is nothing else, such as a .txt file?"""
        return self.format == "csv" and not self.name.lower().removesuffix(".gz").endswith(TABLE_SUFFIXES)


@contextmanager
def open_data_file(path: Path, limits: FileLimits = FILE_LIMITS, named: str = "") -> Iterator[OpenFile]:
    """A file with its rows one by one, in bounded memory. named: the user's encoding for files that are not UTF-8.

    Raises:
        DataError: here or while the rows are read: unreadable, empty, of unknown format, or beyond a limit.
    """
    try:
        raw = path.open("rb", encoding.SAMPLE_BYTES)
    except OSError as error:
        raise unreadable_error(path, error) from error
    with raw, explain_read_errors(path):
        size = path.stat().st_size
        if size == 0:
            raise DataError("files.empty", file=path.name)

        def rewind() -> BinaryIO:
            raw.seek(0)
            return unpack_gzip(raw, path.name, limits)

        form = detect_format(path, rewind)
        found = encoding.UTF8 if form == "parquet" else encoding.detect_encoding(rewind, path.name, named)

        def rows() -> Iterator[RawRow | UnreadableRow]:
            return limit_rows(
                ROW_READERS[form](encoding.open_as_utf8(rewind(), found, path.name), path.name, limits), path, limits
            )

        yield OpenFile(path.name, form, found, rows, size, raw.tell)


def limit_rows(
    rows: Iterator[RawRow | UnreadableRow], path: Path, limits: FileLimits
) -> Iterator[RawRow | UnreadableRow]:
    """The rows, up to the first fatal error and the row limit."""
    with explain_read_errors(path):
        for row in rows:
            if isinstance(row, RawRow) and row.number > limits.rows:
                raise DataError("files.too_many_rows", file=path.name, limit=limits.rows)
            yield row
            if isinstance(row, UnreadableRow) and row.fatal:
                return


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Turns damaged gzip data and disk errors into sentences."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError("files.damaged_gzip", file=path.name, error=str(error)) from error
    except OSError as error:
        raise unreadable_error(path, error) from error


def unpack_gzip(raw: BinaryIO, name: str, limits: FileLimits) -> BinaryIO:
    """The file's bytes, unpacked if it is gzip."""
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    return io.BufferedReader(GzipStream(raw, name, limits), encoding.CHUNK_BYTES) if packed else raw


class GzipStream(io.RawIOBase):
    """A gzip stream that stops at the size limit, far above real data sets."""

    def __init__(self, raw: BinaryIO, name: str, limits: FileLimits) -> None:
        self.file, self.name = gzip.GzipFile(fileobj=raw), name
        self.left = self.most = limits.max_unpacked(os.fstat(raw.fileno()).st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        count = self.file.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise too_large_error(self.name, self.most)
        return count


def detect_format(path: Path, rewind: Callable[[], BinaryIO]) -> FileFormat:
    """The format by the file's content; the name only decides between similar kinds of text.

    Raises:
        DataError: an archive, an image or another kind of file without rows.
    """
    head = rewind().read(encoding.SAMPLE_BYTES)
    if head.startswith(b"PAR1"):
        return "parquet"
    for mark, kind in BINARY_SIGNATURES.items():
        if head.startswith(mark):
            raise DataError("files.binary", file=path.name, kind=kind)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    start = head.translate(None, b"\0\xef\xbb\xbf\xff\xfe").lstrip()[:1]
    if start == b"[":
        return "jsonl" if suffix in LINE_SUFFIXES and starts_with_conversation(rewind(), head) else "json"
    if start == b"{":
        return "jsonl" if suffix in LINE_SUFFIXES or starts_with_row(rewind(), head) else "json"
    if not start:
        raise DataError("files.blank", file=path.name)
    return {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}.get(suffix, "csv")  # type: ignore[return-value]


def starts_with_row(file: BinaryIO, head: bytes) -> bool:
    """Is the first line an object on its own, or does it look like one followed by another?"""
    first, second = first_lines(file, head)
    try:
        return isinstance(orjson.loads(first), dict) and not (
            json_stream.rows_of_object(orjson.loads(first)) and not second
        )
    except orjson.JSONDecodeError:
        return first.endswith(b"}") and second.startswith(b"{")


def starts_with_conversation(file: BinaryIO, head: bytes) -> bool:
    """Is the first line a whole conversation: the list of its turns?"""
    try:
        return json_stream.is_conversation(orjson.loads(first_lines(file, head)[0]))
    except orjson.JSONDecodeError:
        return False


def first_lines(file: BinaryIO, head: bytes) -> list[bytes]:
    """The first two lines, as UTF-8 if the file is Unicode; JSON's own marks are ASCII in all other encodings."""
    found = encoding.detect_unicode(head) or encoding.TextEncoding("latin-1")
    lines = encoding.open_as_utf8(file, found, "")
    return [lines.readline(FILE_LIMITS.line_bytes).strip() for _ in range(2)]
