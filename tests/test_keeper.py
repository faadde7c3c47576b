"""The parent of a worker: who ends how, when a fresh worker goes on, and that a real training does."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.test_engine import recipe, start, write_data
from trainer_core import keeper, runs
from trainer_core.config import TrainJob
from trainer_core.events import Phase
from trainer_core.run_view import read_view


def lives(folder: Path, *ends: Callable[[], int]) -> Callable[[], int]:
    """Work that ends in another way each time; how often it began stands in a file, since each is a process of its own."""

    def work() -> int:
        file = folder / "lives"
        count = len(file.read_bytes()) if file.exists() else 0
        file.write_bytes(b"x" * (count + 1))
        return ends[min(count, len(ends) - 1)]()

    return work


def shot() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def count(folder: Path) -> int:
    return len((folder / "lives").read_bytes())


def rising() -> Callable[[], int]:
    return itertools.count().__next__


def test_a_worker_ended_by_the_memory_guard_is_followed_by_another(tmp_path: Path) -> None:
    assert keeper.kept(lives(tmp_path, shot, shot, lambda: 0), lambda: True, rising()) == 0
    assert count(tmp_path) == 3


def test_with_nothing_left_to_try_it_ends(tmp_path: Path) -> None:
    assert keeper.kept(lives(tmp_path, shot), lambda: False, rising()) == 1
    assert count(tmp_path) == 1


def test_any_other_kill_is_an_end(tmp_path: Path) -> None:
    stepped: list[bool] = []
    code = keeper.kept(lives(tmp_path, shot), lambda: stepped.append(True) or True, lambda: 7)
    assert code == -signal.SIGKILL and count(tmp_path) == 1 and not stepped


def test_a_worker_that_asks_for_another_gets_it(tmp_path: Path) -> None:
    assert keeper.kept(lives(tmp_path, lambda: keeper.AGAIN, lambda: 3), lambda: False, lambda: 0) == 3


def test_a_signal_is_passed_on() -> None:
    assert keeper.ended(keeper.forked(lambda: keeper.end_like(-signal.SIGTERM))) == -signal.SIGTERM
    assert keeper.ended(keeper.forked(lambda: keeper.end_like(-signal.SIGKILL))) == -signal.SIGKILL
    assert keeper.end_like(4) == 4


def test_the_kernels_count_is_read() -> None:
    assert keeper.kernel_kills() >= 0


@pytest.mark.slow
def test_a_run_that_the_memory_guard_ended_goes_on_with_nobody_there(tmp_path: Path) -> None:
    tiny.model(tmp_path / "model")
    write_data(tmp_path)
    sft = {"batch_size": 2, "accumulation": 2, "max_length": 128, "max_steps": 6}
    job = TrainJob(recipe=recipe(tmp_path, method="sft", sft=sft, sample_tokens=0))
    made = runs.create(tmp_path / "runs", job, "t")
    start(tmp_path, f"oomkill@sft.4:{made}")
    view = read_view(made)
    assert view.phase is Phase.DONE, view.error
    assert [one.message for one in view.out_of_memory] == ["The system ended the worker, because memory ran out."]
    assert {one.what: one.used for one in view.changes if one.what.startswith("sft")} == {
        "sft.batch_size": "1",
        "sft.accumulation": "4",
    }
    assert [point.step for point in view.points] == [1, 2, 3, 4, 5, 6]
