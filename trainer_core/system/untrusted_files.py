"""Opens the files of a run folder as untrusted data: folders are copied, mailed and unpacked, and can contain anything.

Only regular files are opened, never a link, a pipe or a device. Reads are bounded in bytes. JSON is bounded in depth and integer
size, and its text is valid Unicode. Unknown keys are dropped and reported.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from trainer_core.texts import Text

MAX_FILE_BYTES = 16 << 20
"""Limit for a file read at once. The largest of ours are manifests and scores, with some hundred KB."""
MAX_JSON_DEPTH = 32
"""Nesting of lists and objects; ours have at most eight levels."""
MAX_INTEGER = 2**63 - 1
"""The largest integer that the page and most other programs can hold."""
MAX_NAME_LENGTH = 1024
FILE_KINDS = {
    stat.S_IFLNK: "untrusted_files.link",
    stat.S_IFIFO: "untrusted_files.pipe",
    stat.S_IFDIR: "untrusted_files.folder",
    stat.S_IFSOCK: "untrusted_files.socket",
    stat.S_IFCHR: "untrusted_files.device",
    stat.S_IFBLK: "untrusted_files.device",
}
"""Text codes, each the end of a sentence."""
LINK = FILE_KINDS[stat.S_IFLNK]
SAFE_OPEN_FLAGS = sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT")
)
"""Never through a link, never waiting for the other end of a pipe, not inherited by child processes, binary on Windows."""
JUNCTION = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)

M = TypeVar("M", bound=BaseModel)


class UnsafeFile(OSError):
    """A file of a run folder that must not be opened or is too large; `strerror` says why."""

    def __init__(self, path: Path, why: Text):
        super().__init__(errno.EINVAL, str(why), str(path))


def special_file_kind(path: Path) -> str:
    """Text code for a path that is not a regular file, such as `LINK`; empty for a regular file.

    Raises:
        FileNotFoundError: the path does not exist.
    """
    about = path.lstat()
    if getattr(about, "st_reparse_tag", 0) == JUNCTION:  # Windows' link between folders
        return LINK
    return FILE_KINDS.get(stat.S_IFMT(about.st_mode), "")


def is_link(path: Path) -> bool:
    try:
        return special_file_kind(path) == LINK
    except OSError:
        return False


def open_regular_file(folder: Path, name: str) -> io.BufferedReader:
    """A regular file of a folder to read, by its name in it, such as "adapter-sft/MANIFEST.json".

    Raises:
        UnsafeFile: it is a link, a pipe, a device or a folder, or is behind a link.
        OSError: it is missing or cannot be read.
    """
    return io.BufferedReader(io.FileIO(open_descriptor(folder, name, os.O_RDONLY), "r"))


def open_descriptor(folder: Path, name: str, flags: int) -> int:
    """A regular file, opened with these os.open flags; errors as in `open_regular_file`. Only the owner can read a new file."""
    path = folder
    for part in Path(name).parts:
        if path != folder and is_link(path):
            raise UnsafeFile(path, Text("untrusted_files.behind_link"))
        path = path / part
    try:
        if found := special_file_kind(path):
            raise UnsafeFile(path, Text(found))
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    found_one = os.open(path, flags | SAFE_OPEN_FLAGS, 0o600)
    if not stat.S_ISREG(os.fstat(found_one).st_mode):  # changed between the two checks
        os.close(found_one)
        raise UnsafeFile(path, Text("untrusted_files.not_regular"))
    return found_one


def open_for_append(folder: Path, name: str) -> io.FileIO:
    """A file to append to, created if missing; errors as in `open_regular_file`. Each write is one system call."""
    return io.FileIO(open_descriptor(folder, name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a")


def open_for_update(folder: Path, name: str) -> io.FileIO:
    """A file to read and truncate; errors as in `open_regular_file`."""
    return io.FileIO(open_descriptor(folder, name, os.O_RDWR), "r+")


def max_read_size(file: BinaryIO, most: int) -> int:
    """Maximum bytes to read, at most the file's size: a buffer of `most` bytes could fail when memory is low."""
    return min(most, os.fstat(file.fileno()).st_size)


def read_regular_file(folder: Path, name: str, most: int = MAX_FILE_BYTES) -> bytes:
    """A whole file; errors as in `open_regular_file`, and UnsafeFile if it has more than `most` bytes."""
    with open_regular_file(folder, name) as file:
        content = file.read(max_read_size(file, most) + 1)
    if len(content) > most:
        raise UnsafeFile(folder / name, Text("untrusted_files.too_large", megabytes=most >> 20))
    return content


def read_tail(folder: Path, name: str, most: int) -> bytes:
    """The last `most` bytes of a file; errors as in `open_regular_file`."""
    with open_regular_file(folder, name) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - most))
        return file.read(max_read_size(file, most))


def regular_file_size(folder: Path, name: str) -> int:
    """Bytes of a regular file; 0 if it is missing."""
    try:
        path = folder / name
        return 0 if special_file_kind(path) else path.lstat().st_size
    except OSError:
        return 0


def check_relative_name(name: str) -> str:
    """The name itself, if it is a safe file name inside a folder on every system: parts separated by "/", without "..".

    Raises:
        ValueError: it is not.
    """
    parts = name.split("/")
    odd = not name.isprintable() or set(name) & set('\\:*?"<>|') or len(name) > MAX_NAME_LENGTH
    if odd or any(part.strip(". ") == "" or part != part.rstrip(". ") for part in parts):
        raise ValueError(Text("untrusted_files.bad_name", name=as_printable(name[:80])))
    return name


def as_printable(text: str) -> str:
    """A name with unprintable characters escaped: control characters, and bytes that are not UTF-8."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def replace_surrogates(text: str) -> str:
    """The text with each lone surrogate, which no file or page can hold, replaced by "\ufffd"."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parse_integer(digits: str) -> int:
    """Raises ValueError if the integer does not fit into 64 bits."""
    if len(digits) > 20 or abs(number := int(digits)) > MAX_INTEGER:
        raise ValueError(Text("untrusted_files.long_number", digits=digits[:20]))
    return number


DECODER = json.JSONDecoder(parse_int=parse_integer)


def parse_json(content: bytes) -> Any:
    """Parse JSON. Invalid UTF-8 and lone surrogates are replaced.

    Raises:
        ValueError: it is not JSON, is nested deeper than `MAX_JSON_DEPTH`, or contains an integer beyond 64 bits.
    """
    text = content.decode("utf-8-sig", "replace").strip()
    try:
        values = DECODER.decode(text)
    except RecursionError:
        raise ValueError(Text("untrusted_files.too_deep", most=MAX_JSON_DEPTH)) from None
    # the only causes of lone surrogates and of depth
    if "\\u" in text or text.count("[") + text.count("{") > MAX_JSON_DEPTH:
        return check_json_values(values)
    return values


def check_json_values(values: Any, depth: int = 0) -> Any:
    """The same values with valid text.

    Raises:
        ValueError: they are nested deeper than `MAX_JSON_DEPTH`.
    """
    if depth > MAX_JSON_DEPTH:
        raise ValueError(Text("untrusted_files.too_deep", most=MAX_JSON_DEPTH))
    match values:
        case str():
            return replace_surrogates(values)
        case list():
            return [check_json_values(one, depth + 1) for one in values]
        case dict():
            return {replace_surrogates(key): check_json_values(value, depth + 1) for key, value in values.items()}
    return values


def load_json_model(model: type[M], folder: Path, name: str) -> tuple[M, tuple[str, ...]]:
    """A JSON file as a model, and the unknown keys that were dropped.

    Raises:
        OSError: as in `read_regular_file`.
        ValueError: it is not JSON; pydantic's ValidationError for a missing or invalid value.
    """
    return validate_known_keys(model, parse_json(read_regular_file(folder, name)))


def validate_known_keys(model: type[M], values: Any) -> tuple[M, tuple[str, ...]]:
    """The model of these values without unknown keys, and those keys, dotted.

    Raises:
        ValidationError: a value is missing or invalid.
        ValueError: a validator met an unexpected value.
    """
    try:
        return model.model_validate(values), ()
    except ValidationError as error:
        unknown = [one["loc"] for one in error.errors(include_url=False) if one["type"] == "extra_forbidden"]
        if not unknown:
            raise
    except (TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(Text("untrusted_files.bad_value", reason=str(error))) from error
    left_out = tuple(dict.fromkeys(".".join(remove_value_at(values, place)) for place in unknown))
    return model.model_validate(values), left_out


def remove_value_at(values: Any, place: tuple[int | str, ...]) -> Iterator[str]:
    """Remove the value at a pydantic location, and yield its path. Names of union members in it are not keys."""
    *above, last = place
    for part in above:
        if isinstance(values, dict) and part not in values:
            continue
        values = values[part]
        yield str(part)
    del values[last]
    yield str(last)


def printable_id(folder: Path) -> str:
    """The id of a run: its folder's name, escaped to be printable."""
    return as_printable(folder.name)


def parse_numbered_name(name: str, before: str) -> int | None:
    """The number after `before` in a name, such as 12 in "sft-000012"; None for any other name."""
    found = re.fullmatch(rf"{re.escape(before)}([0-9]{{1,9}})", name, re.ASCII)
    return int(found[1]) if found else None
