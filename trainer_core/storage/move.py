"""Moves the models, runs or exports of a workspace to another drive, or back.

A folder is copied first. When the copy holds the same, a link to it takes the folder's name in one step, and only then is the
folder deleted. So a kill or a power cut leaves the old state or the new one, and a second try goes on where the first ended.

.moving-runs   beside the folder: the link before that step, what is deleted after it; on the way back, the copy
.aside-runs    for a moment, where the system cannot swap two names; `restore_aside` brings it back
.moving        in the copy: whose it is, so that a second try recognises it
move.json      in the workspace: what is being moved where
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from trainer_core.errors import ConfigError, DiskError
from trainer_core.runs.workspace import Workspace, aside_path, ensure_dir, restore_aside
from trainer_core.schema import StrictModel
from trainer_core.storage.folder_copy import FolderCopy, folder_bytes
from trainer_core.storage.places import StorageKind, storage_folders
from trainer_core.system import durable, folder_link, untrusted_files
from trainer_core.system.durable import disk_errors
from trainer_core.system.format import format_file_size

MOVING_PREFIX = ".moving-"
OWNER = ".moving"
RECORD = "move.json"
SPARE_BYTES = 256 << 20
"""Bytes that a move leaves free on the new drive."""
MAX_PASSES = 20
"""Passes over a folder that something keeps changing."""


class MoveRecord(StrictModel):
    """Contents of move.json."""

    kind: StorageKind
    to: str
    """Empty: back into the workspace."""


@dataclass
class MoveProgress:
    """Bytes done of all, since when; `report` is called from the thread that copies."""

    total: int = 0
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def report(self, count: int) -> None:
        self.done += count

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 1.0

    @property
    def seconds_left(self) -> float | None:
        """None: not known yet."""
        passed = time.monotonic() - self.began
        return passed * (1 - self.share) / self.share if self.done and passed > 1 else None


def read_record(workspace: Workspace) -> MoveRecord | None:
    """A move that was interrupted, or goes on; None: there is none."""
    try:
        return untrusted_files.load_json_model(MoveRecord, workspace.root, RECORD)[0]
    except (OSError, ValueError):
        return None


def move_storage(
    workspace: Workspace,
    kind: StorageKind,
    to: Path | None,
    progress: MoveProgress,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Move them into folders of `to`, or back into the workspace. Nothing may use them meanwhile.

    Raises:
        ConfigError: the folder cannot be their place.
        DiskError: it cannot be written, or has too little space. Nothing has moved then.
        CopyStopped: the user stopped it. What was moved stays there, and nothing is lost.
    """
    to = to.resolve() if to else None
    folders = storage_folders(workspace, kind)
    for path in folders.values():
        with disk_errors(path):
            finish_move(path)
    check_target(workspace, kind, to)
    targets = {path: to / name if to else path for name, path in folders.items()}
    moved = {path: target for path, target in targets.items() if not is_at(path, target)}
    progress.total = sum(folder_bytes(path.resolve()) for path in moved)
    require_space(moved, progress.total)
    durable.write_atomically(
        ensure_dir(workspace.root) / RECORD, MoveRecord(kind=kind, to=str(to or "")).model_dump_json()
    )
    for path, target in moved.items():
        move_folder(path, target, progress.report, should_stop)
    (workspace.root / RECORD).unlink(missing_ok=True)


def is_at(path: Path, target: Path) -> bool:
    return not untrusted_files.is_link(path) if target == path else path.resolve() == target


def check_target(workspace: Workspace, kind: StorageKind, to: Path | None) -> None:
    """Can the folder be their place?

    Raises:
        ConfigError: it is part of what moves or of the workspace, or holds something of that name.
        DiskError: it cannot be created.
    """
    if to is None:
        return
    folders = storage_folders(workspace, kind)
    if any(to.is_relative_to(one.resolve()) for one in (workspace.root, *folders.values())):
        raise ConfigError("storage.inside", folder=str(to))
    ensure_dir(to)
    for name, path in folders.items():
        target = to / name
        known = is_at(path, target) or is_own_copy(target, path) or is_empty_folder(target)
        if os.path.lexists(target) and not known:
            raise ConfigError("storage.taken", folder=str(target))


def is_empty_folder(folder: Path) -> bool:
    """Is nothing in it but, after a kill, a mark that was being written?"""
    if not folder.is_dir() or untrusted_files.is_link(folder):
        return False
    return all(name.startswith(f".{OWNER}") for name in os.listdir(folder))


def is_own_copy(target: Path, path: Path) -> bool:
    """Is the target a copy of this folder that an earlier try began?"""
    try:
        return untrusted_files.read_regular_file(target, OWNER) == os.fsencode(path)
    except OSError:
        return False


def require_space(moved: dict[Path, Path], total: int) -> None:
    """Raises DiskError if the new drive has too little space; what an earlier try copied counts as free."""
    if not moved:
        return
    copies = [copy_place(path, target) for path, target in moved.items()]
    place = durable.nearest_existing(copies[0])
    free = shutil.disk_usage(place).free + sum(folder_bytes(copy) for copy in copies)
    if free < total + SPARE_BYTES:
        sizes = {"size": format_file_size(total), "free": format_file_size(free)}
        raise DiskError("storage.no_space", folder=str(place), **sizes)


def copy_place(path: Path, target: Path) -> Path:
    """Where a copy grows: under its new name, which nobody reads yet, or on the way back beside the link."""
    return target if target != path else moving_path(path)


def moving_path(path: Path) -> Path:
    return path.with_name(f"{MOVING_PREFIX}{path.name}")


def move_folder(
    path: Path, target: Path, report: Callable[[int], None] = lambda _: None, should_stop: Callable[[], bool] = bool
) -> None:
    """Move one folder: `path` becomes a link to `target`, or a folder again if that is the same.

    Raises:
        DiskError: the copy cannot be made; it is deleted, and nothing has moved.
        CopyStopped: as for DiskError.
    """
    copy = copy_place(path, target)
    with disk_errors(target):
        durable.create_folders(path.parent, 0o700)
        if not os.path.lexists(path):
            path.mkdir(0o700)
        with discard_on_error(copy):
            making = FolderCopy(path.resolve(), copy, report, should_stop, frozenset([OWNER]))
            begin_copy(copy, path)
            copy_until_equal(making)
            durable.flush_to_disk(copy.parent)
        if target != path:
            durable.fault_point(path)
            folder_link.make_link(moving_path(path), target)
        take_name(moving_path(path), path)
        finish_move(path)


@contextmanager
def discard_on_error(copy: Path) -> Iterator[None]:
    try:
        yield
    except Exception:
        durable.remove_path(copy)
        raise


def begin_copy(copy: Path, path: Path) -> None:
    copy.mkdir(0o700, exist_ok=True)
    durable.write_atomically(copy / OWNER, os.fsencode(path))


def copy_until_equal(making: FolderCopy) -> None:
    """Copy, and copy again what has changed meanwhile: a note or a pin may be edited while a move is under way."""
    for _ in range(MAX_PASSES):
        if not making.update():
            return
    raise DiskError("storage.restless", folder=str(making.source))


def take_name(stand_in: Path, path: Path, swap: Callable[[Path, Path], bool] = durable.swap_paths) -> None:
    """Give the stand-in the folder's name, and the folder the stand-in's.

    Raises:
        OSError: it cannot be renamed, such as one in use on Windows; everything is as before.
    """
    durable.fault_point(path)
    if not swap(stand_in, path):
        aside = aside_path(path)
        durable.rename_with_retry(path, aside)
        try:
            durable.fault_point(path)
            durable.rename_with_retry(stand_in, path)
        except OSError:
            durable.rename_with_retry(aside, path)
            raise
        durable.fault_point(path)
        durable.rename_with_retry(aside, stand_in)
    durable.flush_to_disk(path.parent)


def finish_move(path: Path) -> None:
    """What a move leaves to do, also one that was killed. If the names were exchanged, the folder of that name is the copy, which
    has its owner's mark: bring over what changed in the last moment, then delete the old one. If not, drop the unused link."""
    old, aside = moving_path(path), aside_path(path)
    restore_aside(path)
    if os.path.lexists(aside) and not os.path.lexists(old):  # exchanged, but for the last of three renames
        durable.rename_with_retry(aside, old)
    content = old.resolve()
    if (path / OWNER).exists():
        if os.path.lexists(old) and content.is_dir() and content != path.resolve():
            FolderCopy(content, path.resolve(), spared=frozenset([OWNER])).update()
            durable.fault_point(content)
            durable.remove_path(content)
        remove_old_link(old)
        if not os.path.lexists(old):
            (path / OWNER).unlink()
    else:
        remove_old_link(old)


def remove_old_link(old: Path) -> None:
    if untrusted_files.is_link(old):
        folder_link.remove_link(old)
