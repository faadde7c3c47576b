"""Opens the files of a run folder as untrusted data: folders are copied, mailed and unpacked, and may hold anything.

Only regular files are opened, never a link, a pipe or a device. Reads are bounded in bytes. JSON is bounded in its depth and its
whole numbers, and its text is valid Unicode. Keys that this version does not know are left out and named.
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
"""Of a file that is read whole. The largest of ours are manifests and scores, with some hundred KB."""
MAX_JSON_DEPTH = 32
"""Lists and objects within each other; ours have eight at most."""
MAX_INTEGER = 2**63 - 1
"""What the page and most other programs can hold."""
MAX_NAME_LENGTH = 1024
FILE_KINDS = {
    stat.S_IFLNK: "untrusted_files.link",
    stat.S_IFIFO: "untrusted_files.pipe",
    stat.S_IFDIR: "untrusted_files.folder",
    stat.S_IFSOCK: "untrusted_files.socket",
    stat.S_IFCHR: "untrusted_files.device",
    stat.S_IFBLK: "untrusted_files.device",
}
"""The text that says so, as the end of a sentence."""
LINK = FILE_KINDS[stat.S_IFLNK]
SAFE_OPEN_FLAGS = sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT")
)
"""Never through a link, never waiting for the other end of a pipe, not for child processes, and as bytes on Windows."""
JUNCTION = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)

M = TypeVar("M", bound=BaseModel)


class UnsafeFile(OSError):
    """A file of a run folder that is not opened, or not read whole: `strerror` says why."""

    def __init__(self, path: Path, why: Text):
        super().__init__(errno.EINVAL, str(why), str(path))


def special_file_kind(path: Path) -> str:
    """The text of what lies at a path where it is no regular file, such as `LINK`; nothing for a regular file.

    Raises:
        FileNotFoundError: nothing lies there.
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
        UnsafeFile: it is a link, a pipe, a device or a folder, or lies behind a link.
        OSError: it is missing or cannot be read.
    """
    return io.BufferedReader(io.FileIO(open_descriptor(folder, name, os.O_RDONLY), "r"))


def open_descriptor(folder: Path, name: str, flags: int) -> int:
    """A regular file, opened with these flags of os.open; errors as in `opened`. One that is made is the owner's alone."""
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
    if not stat.S_ISREG(os.fstat(found_one).st_mode):  # changed between the two looks
        os.close(found_one)
        raise UnsafeFile(path, Text("untrusted_files.not_regular"))
    return found_one


def open_for_append(folder: Path, name: str) -> io.FileIO:
    """A file to append to, made if it is not there; errors as in `opened`. Each write is one call of the system."""
    return io.FileIO(open_descriptor(folder, name, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a")


def open_for_update(folder: Path, name: str) -> io.FileIO:
    """A file to be read and cut; errors as in `opened`."""
    return io.FileIO(open_descriptor(folder, name, os.O_RDWR), "r+")


def max_read_size(file: BinaryIO, most: int) -> int:
    """Bytes to read at most: those that the file has. A buffer of `most` could not be had where memory has run out."""
    return min(most, os.fstat(file.fileno()).st_size)


def read_regular_file(folder: Path, name: str, most: int = MAX_FILE_BYTES) -> bytes:
    """All of a file; errors as in `opened`, and UnsafeFile where it has more bytes than `most`."""
    with open_regular_file(folder, name) as file:
        content = file.read(max_read_size(file, most) + 1)
    if len(content) > most:
        raise UnsafeFile(folder / name, Text("untrusted_files.too_large", megabytes=most >> 20))
    return content


def read_tail(folder: Path, name: str, most: int) -> bytes:
    """The last bytes of a file; errors as in `opened`."""
    with open_regular_file(folder, name) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - most))
        return file.read(max_read_size(file, most))


def regular_file_size(folder: Path, name: str) -> int:
    """Of a regular file; 0 where there is none."""
    try:
        path = folder / name
        return 0 if special_file_kind(path) else path.lstat().st_size
    except OSError:
        return 0


def check_relative_name(name: str) -> str:
    """The name itself, if it names a file inside a folder on every system: parts with "/" between them, none of them a way out.

    Raises:
        ValueError: it does not.
    """
    parts = name.split("/")
    odd = not name.isprintable() or set(name) & set('\\:*?"<>|') or len(name) > MAX_NAME_LENGTH
    if odd or any(part.strip(". ") == "" or part != part.rstrip(". ") for part in parts):
        raise ValueError(Text("untrusted_files.bad_name", name=as_printable(name[:80])))
    return name


def as_printable(text: str) -> str:
    """A name in which everything that cannot be printed is spelt out: control characters, and bytes that are not UTF-8."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def replace_surrogates(text: str) -> str:
    """The text without halves of surrogate pairs, which no file and no page can hold; "\ufffd" stands for each."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parse_integer(digits: str) -> int:
    """Raises:
    ValueError: it does not fit into 64 bits.
    """
    if len(digits) > 20 or abs(number := int(digits)) > MAX_INTEGER:
        raise ValueError(Text("untrusted_files.long_number", digits=digits[:20]))
    return number


DECODER = json.JSONDecoder(parse_int=parse_integer)


def parse_json(content: bytes) -> Any:
    """What a JSON text says. Bytes that are not UTF-8 and halves of surrogate pairs are replaced.

    Raises:
        ValueError: it is no JSON, is nested deeper than `MOST_DEPTH`, or holds a whole number beyond 64 bits.
    """
    text = content.decode("utf-8-sig", "replace").strip()
    try:
        values = DECODER.decode(text)
    except RecursionError:
        raise ValueError(Text("untrusted_files.too_deep", most=MAX_JSON_DEPTH)) from None
    # the only ways to half a surrogate and to depth
    if "\\u" in text or text.count("[") + text.count("{") > MAX_JSON_DEPTH:
        return check_json_values(values)
    return values


def check_json_values(values: Any, depth: int = 0) -> Any:
    """The same values with valid text.

    Raises:
        ValueError: they are nested deeper than `MOST_DEPTH`.
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
    """A JSON file as a model, and the keys that were left out because this version does not know them.

    Raises:
        OSError: as in `read`.
        ValueError: it is no JSON; pydantic's ValidationError where a value is missing or cannot be.
    """
    return validate_known_keys(model, parse_json(read_regular_file(folder, name)))


def validate_known_keys(model: type[M], values: Any) -> tuple[M, tuple[str, ...]]:
    """The model of these values without the keys that it does not know, and those keys, dotted.

    Raises:
        ValidationError: a value is missing or cannot be.
        ValueError: a validator met a value that it did not expect.
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
    """Remove what lies at a place of pydantic's, and yield its path. Names of a union's members are in the place, but no keys."""
    *above, last = place
    for part in above:
        if isinstance(values, dict) and part not in values:
            continue
        values = values[part]
        yield str(part)
    del values[last]
    yield str(last)


def printable_id(folder: Path) -> str:
    """What a run is known by: its folder's name, as far as that can be written and shown."""
    return as_printable(folder.name)


def parse_numbered_name(name: str, before: str) -> int | None:
    """The number that follows `before` in a name of ours, such as 12 in "sft-000012"; None for any other name."""
    found = re.fullmatch(rf"{re.escape(before)}([0-9]{{1,9}})", name, re.ASCII)
    return int(found[1]) if found else None
