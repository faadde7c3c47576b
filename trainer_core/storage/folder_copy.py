"""Copies a folder to another drive, and brings a copy up to date until it holds the same as the original."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from trainer_core.errors import DiskError
from trainer_core.system import durable, untrusted_files

CHUNK_BYTES = 8 << 20
COARSE_SECONDS = 2.0
"""Resolution of file times on FAT drives."""

NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of drives without links, such as those in exFAT."""


class CopyStopped(Exception):
    """The user stopped it."""


@dataclass
class FolderCopy:
    """Makes `copy` equal to `source`.

    Args:
        report: receives the bytes of each piece that was copied, or was there already.
        should_stop: asked between pieces.
    """

    source: Path
    copy: Path
    report: Callable[[int], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
    spared: frozenset[str] = frozenset()
    """Names at the top of the copy that the source need not have."""
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    """File → size and time of the original when it was copied."""

    def update(self) -> int:
        """One pass. Returns the number of files and links that differed.

        Raises:
            CopyStopped: the user stopped it.
            DiskError: the drive has no links.
            OSError: a file cannot be read or written.
        """
        return self.update_folder(self.source, self.copy, self.spared)

    def update_folder(self, source: Path, copy: Path, spared: frozenset[str] = frozenset()) -> int:
        if not copy.is_dir():
            durable.fault_point(copy)
            copy.mkdir(0o700)
        there = set(os.listdir(copy)) - spared
        with os.scandir(source) as found:
            entries = list(found)
        changes = 0
        for entry in entries:
            there.discard(entry.name)
            try:
                changes += self.update_entry(entry, copy / entry.name)
            except FileNotFoundError:
                if os.path.lexists(entry.path):
                    raise
                changes += 1  # deleted meanwhile: the next pass deletes its copy
        for name in there:
            durable.remove_path(copy / name)
        if changes or there:
            durable.flush_to_disk(copy)
        return changes + len(there)

    def update_entry(self, entry: os.DirEntry[str], copy: Path) -> int:
        """What is neither file, folder nor link, such as a pipe, is left out."""
        if untrusted_files.is_link(Path(entry.path)):
            return copy_link(Path(entry.path), copy)
        if entry.is_dir(follow_symlinks=False):
            return self.update_folder(Path(entry.path), copy)
        return self.update_file(entry, copy) if entry.is_file(follow_symlinks=False) else 0

    def update_file(self, entry: os.DirEntry[str], copy: Path) -> int:
        about = os.stat(entry.path, follow_symlinks=False)
        stamp = about.st_size, about.st_mtime_ns
        if self.known.get(entry.path) == stamp:
            return 0
        if entry.path not in self.known and is_same_file(about, copy):
            self.report(about.st_size)
            self.known[entry.path] = stamp
            return 0
        self.copy_file(Path(entry.path), copy)
        os.utime(copy, ns=(about.st_atime_ns, about.st_mtime_ns))
        self.known[entry.path] = stamp
        return 1

    def copy_file(self, source: Path, copy: Path) -> None:
        """The copy is flushed before it gets the original's time, so that a half-written one never looks like it."""
        durable.fault_point(copy)
        with (
            untrusted_files.open_regular_file(source.parent, source.name) as original,
            open(copy, "wb", opener=durable.open_private) as file,
        ):
            while piece := original.read(CHUNK_BYTES):
                if self.should_stop():
                    raise CopyStopped
                file.write(piece)
                self.report(len(piece))
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(source, copy)


def is_same_file(about: os.stat_result, copy: Path) -> bool:
    """Was the copy made from the file as it is now? By size and time, as far as the drive can tell."""
    try:
        held = copy.lstat()
    except FileNotFoundError:
        return False
    return held.st_size == about.st_size and abs(held.st_mtime - about.st_mtime) < COARSE_SECONDS


def copy_link(source: Path, copy: Path) -> int:
    target = os.readlink(source)
    if untrusted_files.is_link(copy) and os.readlink(copy) == target:
        return 0
    durable.remove_path(copy)
    durable.fault_point(copy)
    try:
        os.symlink(target, copy)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise DiskError("storage.no_links", folder=str(copy.parent)) from error
    return 1


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder; links are not followed, and a file that vanishes counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                about = os.lstat(os.path.join(place, name))
            except OSError:
                continue
            total += about.st_size if stat.S_ISREG(about.st_mode) else 0
    return total
