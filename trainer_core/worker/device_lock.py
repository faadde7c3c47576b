"""Who works on the device: one worker in a workspace, and one worker of this user on a card, whatever workspace it comes from.

Both are locks of the system's, which end with the process that holds them, however it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trainer_core.errors import BusyError, DiskError
from trainer_core.runs.workspace import Workspace, ensure_dir
from trainer_core.system.durable import write_atomically
from trainer_core.texts import Text

CARD_LOCKS = Path("~/.cache/tunebench/cards")
"""One lock a card, by its UUID. The processor has none: a second trainer there is slow, and does no harm."""


@contextmanager
def hold_device(run_dir: Path, card: str = "", seconds: float = 15.0, cards: Path = CARD_LOCKS) -> Iterator[None]:
    """Hold the workspace of a run, and the card it uses.

    Args:
        card: the card's UUID; empty: the processor.
        seconds: how long to wait for either; a predecessor may need that long to leave.

    Raises:
        BusyError: another worker holds it for longer, and is named.
    """
    with ExitStack() as locks:
        locks.enter_context(hold_lock(ensure_dir(Workspace.for_run(run_dir).root) / "gpu", run_dir.name, seconds))
        if card and (place := card_lock_folder(cards)):
            locks.enter_context(hold_lock(place / card.replace("/", "-"), str(run_dir), seconds))
        yield


@contextmanager
def hold_lock(place: Path, holder: str, seconds: float) -> Iterator[None]:
    """Hold `place`.lock, and say in `place`.holder who does."""
    lock = FileLock(place.with_suffix(".lock"))
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
    """The folder of the cards' locks; None where this user has no place for it, which must keep nobody from training."""
    try:
        return ensure_dir(cards.expanduser())
    except DiskError:
        return None


def read_holder(place: Path) -> str:
    try:
        return place.with_suffix(".holder").read_text(encoding="utf-8")
    except OSError:
        return ""
