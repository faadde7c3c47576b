"""The device lock: one holder, and none after a kill; a card has one whatever workspace its run lies in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer_core.errors import BusyError
from trainer_core.system import project
from trainer_core.worker import device_lock

CODE = """
import sys, time, pathlib
from trainer_core.worker import device_lock
run_dir, card, cards = sys.argv[1:]
with device_lock.hold_device(pathlib.Path(run_dir), card, cards=pathlib.Path(cards)):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def another(run_dir: Path, card: str, cards: Path) -> Iterator[None]:
    """A process that holds the device for a run, and is killed."""
    command = [sys.executable, "-c", CODE, str(run_dir), card, str(cards)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=project.PROJECT)
    try:
        assert child.stdout and child.stdout.readline() == b"held\n"
        yield
    finally:
        child.kill()
        child.wait()


def run_of(workspace: Path, name: str) -> Path:
    return workspace / "runs" / name


def test_a_workspace_has_one_holder_and_none_after_a_kill(tmp_path: Path) -> None:
    first, second = run_of(tmp_path, "first"), run_of(tmp_path, "second")
    with (
        another(first, "", tmp_path),
        pytest.raises(BusyError, match="busy with first"),
        device_lock.hold_device(second, seconds=0.2),
    ):
        pass
    with device_lock.hold_device(second, seconds=5):
        assert device_lock.read_holder(tmp_path / "gpu") == "second"


def test_a_card_has_one_holder_whatever_the_workspace(tmp_path: Path) -> None:
    """The processor is nobody's, and another card is another's."""
    first, second, cards = run_of(tmp_path / "a", "first"), run_of(tmp_path / "b", "second"), tmp_path / "cards"
    with another(first, "GPU-1", cards):
        with pytest.raises(BusyError, match="first"), device_lock.hold_device(second, "GPU-1", 0.2, cards):
            pass
        with device_lock.hold_device(second, "GPU-2", 0.2, cards):
            pass
        with device_lock.hold_device(second, "", 0.2, cards):
            pass
    with device_lock.hold_device(second, "GPU-1", 5, cards):
        pass


def test_without_a_place_for_the_cards_locks_a_run_trains_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with device_lock.hold_device(run_of(tmp_path, "run"), "GPU-1", 0.2, tmp_path / "file" / "cards"):
        assert device_lock.read_holder(tmp_path / "gpu") == "run"


def test_without_a_home_a_run_trains_all_the_same(tmp_path: Path) -> None:
    cards = Path("~nobody-of-that-name/cards")
    with device_lock.hold_device(run_of(tmp_path, "run"), "GPU-1", 0.2, cards):
        assert device_lock.read_holder(tmp_path / "gpu") == "run"
    assert not cards.exists()
