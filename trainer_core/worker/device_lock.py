"""Locks the device: one worker per workspace, and one worker of this user per card, across workspaces.

Both are operating-system locks, which are released when the process ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import Timeout

from trainer_core.errors import BusyError, DiskError
from trainer_core.runs.workspace import Workspace, ensure_dir
from trainer_core.system.durable import write_atomically
from trainer_core.system.file_lock import ProcessLock
from trainer_core.texts import Text

CARD_LOCKS = Path("~/.cache/tunebench/cards")
"""One lock per card, by UUID. The processor has none: a second trainer there is slow, but does no harm."""


@contextmanager
def hold_device(run_dir: Path, card: str = "", seconds: float = 15.0, cards: Path = CARD_LOCKS) -> Iterator[None]:
    """Hold the locks of a run's workspace and card.

    Args:
        card: the card's UUID; empty: the processor.
        seconds: longest wait for each lock; an earlier worker may need that long to exit.

    Raises:
        BusyError: another worker, which is named, holds a lock for longer.
    """
    with ExitStack() as locks:
        locks.enter_context(hold_lock(ensure_dir(Workspace.for_run(run_dir).root) / "gpu", run_dir.name, seconds))
        if card and (place := card_lock_folder(cards)):
            locks.enter_context(hold_lock(place / card.replace("/", "-"), str(run_dir), seconds))
        yield


@contextmanager
def hold_lock(place: Path, holder: str, seconds: float) -> Iterator[None]:
    """Hold `place`.lock, and write the holder into `place`.holder."""
    lock = ProcessLock(place.with_suffix(".lock"))
    try:
        lock.acquire(timeout=seconds)
    except Timeout as error:
        raise BusyError("device.busy", holder=read_holder(place) or Text("device.other_run")) from error
    try:
        write_atomically(place.with_suffix(".holder"), holder)
        yield
    finally:
        lock.release()


def card_lock_folder(cards: Path) -> Path | None:
    """The folder of the card locks; None without a home or if it cannot be created, which must not prevent training."""
    try:
        return ensure_dir(cards.expanduser())
    except (DiskError, RuntimeError):
        return None


def read_holder(place: Path) -> str:
    try:
        return place.with_suffix(".holder").read_text(encoding="utf-8")
    except OSError:
        return ""
