"""Records what work changes on disk below a folder, one operation after the other. `disk_replay.py` cuts the power between them.

Before Python opens a file to write, renames, removes or makes something, it calls its audit hooks (PEP 578). The hook here reads
the whole folder; so does what stands in for `os.fsync` during the record. What differs between two readings is what happened in
between, whoever wrote it: Python, torch in C++, safetensors in Rust, or renameat2 through ctypes. A flush that Python does not
make itself is not seen and does not count, so the record can only be too strict.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

ANNOUNCED = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

Entry = tuple[int, str]
"""A folder and a name in it. Files and folders are numbers, each used once, while an inode may be used again."""


@dataclass(frozen=True)
class Disk:
    """A folder and all below it."""

    root: int
    entries: Mapping[Entry, int]
    files: Mapping[int, bytes]
    """File → content; a number that is not here is a folder."""


@dataclass(frozen=True)
class Rename:
    """Names that appear, go (None) or change what they name, all at once: a new file or folder, a rename, a swap, a removal."""

    entries: Mapping[Entry, int | None]
    new_file: int | None = None


@dataclass(frozen=True)
class Truncate:
    file: int
    size: int


@dataclass(frozen=True)
class Append:
    file: int
    data: bytes


@dataclass(frozen=True)
class Flush:
    """fsync of a file, or of a folder's entries."""

    number: int


@dataclass(frozen=True)
class Return:
    """A function of the work has returned, with what it has promised."""

    promise: str


Operation = Rename | Truncate | Append | Flush | Return


@dataclass(frozen=True)
class Record:
    before: Disk
    operations: tuple[Operation, ...]


def record_work(folder: Path, work: Iterable[str]) -> Record:
    """Do the work and record it. What lies in the folder before counts as flushed.

    Args:
        work: a generator that yields what is promised each time that a function of the product has returned.
    """
    recorder = Recorder(folder)
    before = recorder.disk
    with recorder.listen():
        for promise in work:
            recorder.read_changes()
            recorder.operations.append(Return(promise))
        recorder.read_changes()
    return Record(before, tuple(recorder.operations))


@dataclass
class Recorder:
    folder: Path
    operations: list[Operation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._unused, self._numbers = count(), dict[int, int]()
        self.disk = self.read_disk()

    def read_disk(self) -> Disk:
        """An inode keeps its number while it has a name."""
        known, self._numbers = self._numbers, {}
        root = self.number_of(self.folder.stat().st_ino, known)
        entries, files, folders = dict[Entry, int](), dict[int, bytes](), [(root, str(self.folder))]
        while folders:
            parent, path = folders.pop()
            for one in sorted(os.scandir(path), key=lambda one: one.name):
                number = entries[parent, one.name] = self.number_of(one.inode(), known)
                if one.is_dir(follow_symlinks=False):
                    folders.append((number, one.path))
                else:
                    files[number] = Path(one.path).read_bytes()
        return Disk(root, entries, files)

    def number_of(self, inode: int, known: Mapping[int, int]) -> int:
        if inode not in self._numbers:
            self._numbers[inode] = known[inode] if inode in known else next(self._unused)
        return self._numbers[inode]

    def read_changes(self) -> None:
        before, self.disk = self.disk, self.read_disk()
        self.operations += differences(before, self.disk)

    @contextmanager
    def listen(self) -> Iterator[None]:
        install_hook()
        _listening.append(self)
        try:
            with mock.patch.object(os, "fsync", self.flush):
                yield
        finally:
            _listening.remove(self)

    def flush(self, file: Any) -> None:
        """In place of os.fsync. Nothing is flushed, as the power is only cut in the replay."""
        self.read_changes()
        number = self._numbers.get(os.fstat(file if isinstance(file, int) else file.fileno()).st_ino)
        if number is not None:
            self.operations.append(Flush(number))


_listening: list[Recorder] = []


@cache
def install_hook() -> None:
    """Once in a process, as an audit hook cannot be taken out."""
    sys.addaudithook(hear_change)


def hear_change(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and (event in ANNOUNCED or (event == "open" and arguments[2] & WRITING)):
        _listening[-1].read_changes()


def differences(before: Disk, after: Disk) -> Iterator[Operation]:
    """What leads from one reading to the next: names first, for a new name is announced before anything is written to it."""
    both, known = before.entries.keys() | after.entries.keys(), set(before.entries.values())
    changed = {one: after.entries.get(one) for one in both if before.entries.get(one) != after.entries.get(one)}
    new = {entry for entry, number in changed.items() if entry not in before.entries and number not in known}
    if moved := {entry: number for entry, number in changed.items() if entry not in new}:
        yield Rename(moved)
    for entry in sorted(new):
        number = after.entries[entry]
        yield Rename({entry: number}, number if number in after.files else None)
    for file, content in after.files.items():
        yield from writes(file, before.files.get(file, b""), content)


def writes(file: int, before: bytes, after: bytes) -> Iterator[Operation]:
    """A file with another content was first truncated, as `open(path, "wb")` does, unless something was appended or cut off."""
    if not after.startswith(before):
        before = after if before.startswith(after) else b""
        yield Truncate(file, len(before))
    if len(after) > len(before):
        yield Append(file, after[len(before) :])
