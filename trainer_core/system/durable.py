"""Durable writes: a kill or a power cut at any moment leaves either the old state or the new one, never a mix.

Every write, flush and rename of state passes `fault_point`, where a test can make it fail or end the process:
TUNEBENCH_FAULT=kill:12 ends it at the twelfth point, =enospc:12 makes the disk full from the twelfth point on.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer_core.errors import DiskError
from trainer_core.system.format import format_mb
from trainer_core.texts import Text, verbatim

RENAME_TRIES = 10
"""Virus scanners on Windows briefly hold a new file open; a rename fails, then works a little later. 26 s in all."""
IN_USE_ERRORS = (5, 32, 33)
"""Windows' errors for an open or mapped file, or one inside a renamed folder: access denied, sharing, lock."""
BACKUP_PREFIX = ".before-"
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""On Windows both end a process at once."""
_points = itertools.count(1)


def fault_point(path: Path) -> None:
    """Called before each change of state on disk.

    Raises:
        OSError: a test requested it.
    """
    fault, _, at = os.environ.get("TUNEBENCH_FAULT", "").partition(":")
    if not fault or next(_points) < int(at):
        return
    if fault == "kill":
        os.kill(os.getpid(), KILL)
    code = getattr(errno, fault.upper())
    raise OSError(code, os.strerror(code), str(path))


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8. Readers see the old or the new file, even after a power cut; only the owner can read it.

    Raises:
        DiskError: the folder cannot be written or the disk is full.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    with disk_errors(path):
        try:
            fault_point(staged)
            with open(staged, "wb", opener=open_private) as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                fault_point(staged)
                os.fsync(file.fileno())
            fault_point(path)
            rename_with_retry(staged, path)
        except OSError:
            with suppress(OSError):
                staged.unlink()
            raise


def open_private(path: str, flags: int) -> int:
    """Opens a file that only the owner can read from the start, never through a link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns an OSError into a sentence about the disk.

    Raises:
        DiskError: naming the path, the cause and, if the disk is full, the free bytes.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            free = shutil.disk_usage(nearest_existing(path)).free
            raise DiskError("disk.full", path=str(path), free=format_mb(free)) from error
        raise DiskError("disk.not_writable", path=str(path), reason=error_reason(error)) from error


def error_reason(error: OSError) -> Text:
    """An error's reason, as the end of a sentence; for a file in use on Windows, also what to do."""
    if getattr(error, "winerror", None) in IN_USE_ERRORS:
        return Text("disk.in_use", reason=error.strerror)
    return verbatim(error.strerror or str(error))


def nearest_existing(path: Path) -> Path:
    """The path itself or its nearest existing parent."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def rename_with_retry(
    source: Path,
    target: Path,
    tries: int = 1 if os.name == "posix" else RENAME_TRIES,
    replace: Callable[[Path, Path], None] = os.replace,
) -> None:
    """os.replace, with retries on Windows while another program holds the file open."""
    for attempt in range(tries):
        try:
            return replace(source, target)
        except PermissionError:
            if attempt == tries - 1:
                raise
            time.sleep(0.05 * 2**attempt)
    return None


def flush_to_disk(path: Path) -> None:
    """Flush a file or, where the system allows it, a folder's entries to disk."""
    fault_point(path)
    if path.is_dir() and os.name != "posix":
        return  # Windows has no handle for a folder; NTFS has its own journal
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Flush every file below a folder, and the entries of every folder in it and of its own."""
    for path in sorted(folder.rglob("*")):
        flush_to_disk(path)
    flush_to_disk(folder)


def create_folders(folder: Path, mode: int = 0o777) -> None:
    """Create a folder with its parents if needed. A power cut does not take back what is new: its entry is flushed.

    Raises:
        FileExistsError: a file is in the way.
    """
    for one in (*reversed(folder.parents), folder):
        if not one.is_dir():
            fault_point(one)
            one.mkdir(mode, exist_ok=True)
            flush_to_disk(one.parent)


def swap_paths(one: Path, other: Path) -> bool:
    """Swap two paths atomically. False: the system or file system cannot, and nothing changed.

    Linux: renameat2(2) with RENAME_EXCHANGE; macOS: renamex_np(2) with RENAME_SWAP. Windows has no such call.
    """
    names = os.fsencode(one), os.fsencode(other)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "linux":
            here = -100  # AT_FDCWD
            return library.renameat2(here, names[0], here, names[1], ctypes.c_uint(2)) == 0
        if sys.platform == "darwin":
            return library.renamex_np(*names, ctypes.c_uint(2)) == 0
    except (OSError, AttributeError, TypeError):  # a library without the call; Windows has no CDLL(None)
        pass
    return False


def publish_staged(
    staging: Path,
    target: Path,
    move: Callable[[Path, Path], None] = rename_with_retry,
    swap: Callable[[Path, Path], bool] = swap_paths,
) -> None:
    """Publish a complete folder or file under its name in one step, swapping it with an existing one, so that one of them always
    exists. Systems without a swap first move the old one aside; it returns if the second step fails, or through
    `clean_leftovers` if the process ends in between."""
    before = target.with_name(f"{BACKUP_PREFIX}{target.name}")
    if target.exists():
        fault_point(target)
        if swap(staging, target):
            flush_to_disk(target.parent)
            return remove_path(staging)
        remove_path(before)
        fault_point(target)
        move(target, before)
    try:
        fault_point(target)
        move(staging, target)
    except OSError:
        if before.exists():
            move(before, target)
        raise
    flush_to_disk(target.parent)
    return remove_path(before)


def delete_via_trash(folder: Path, tries: int = 1 if os.name == "posix" else RENAME_TRIES) -> None:
    """Delete a folder in one visible step. Files in use stay in the trash until `clean_leftovers`.

    Raises:
        PermissionError: on Windows: it is in use, and unchanged.
    """
    trash = folder.with_name(f".trash-{folder.name}-{time.time_ns()}")
    fault_point(folder)
    rename_with_retry(folder, trash, tries)
    remove_path(trash)


def clean_leftovers(parent: Path) -> None:
    """Remove the remains of interrupted writes and deletions, and restore what was moved aside but not replaced."""
    if parent.is_symlink():
        return  # not ours
    for before in parent.glob(f"{BACKUP_PREFIX}*"):
        target = before.with_name(before.name.removeprefix(BACKUP_PREFIX))
        if target.exists():
            remove_path(before)
        else:
            with suppress(OSError):
                rename_with_retry(before, target)
    for pattern in (".staging-*", ".trash-*"):
        for left in parent.glob(pattern):
            remove_path(left)


def remove_path(path: Path) -> None:
    """Delete a folder or a file as far as possible now."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
