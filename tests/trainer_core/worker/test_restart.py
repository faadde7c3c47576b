"""The parent of a worker: who ends how, when a fresh worker goes on, and that a real training does."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.training_runs import recipe, start, write_data
from trainer_core.config.jobs import TrainJob
from trainer_core.runs import exit_codes, run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import read_run_state
from trainer_core.worker import restart

pytestmark = pytest.mark.real


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
    assert restart.run_with_restarts(lives(tmp_path, shot, shot, lambda: 0), lambda: True, rising()) == 0
    assert count(tmp_path) == 3


def test_with_nothing_left_to_try_it_ends(tmp_path: Path) -> None:
    assert restart.run_with_restarts(lives(tmp_path, shot), lambda: False, rising()) == 1
    assert count(tmp_path) == 1


def test_any_other_kill_is_an_end(tmp_path: Path) -> None:
    stepped: list[bool] = []
    code = restart.run_with_restarts(lives(tmp_path, shot, lambda: 0), lambda: stepped.append(True) or True, lambda: 7)
    assert code == -signal.SIGKILL and count(tmp_path) == 1 and not stepped


def test_a_worker_that_asks_for_another_gets_it(tmp_path: Path) -> None:
    assert (
        restart.run_with_restarts(lives(tmp_path, lambda: exit_codes.EXIT_RESTART, lambda: 3), lambda: False, lambda: 0)
        == 3
    )


def test_a_signal_is_passed_on() -> None:
    assert restart.wait_for_exit(restart.fork_child(lambda: restart.exit_like(-signal.SIGTERM))) == -signal.SIGTERM
    assert restart.wait_for_exit(restart.fork_child(lambda: restart.exit_like(-signal.SIGKILL))) == -signal.SIGKILL
    assert restart.exit_like(4) == 4


def test_a_command_is_kept_going_as_a_fork_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where there is no fork; its words go where ours go."""
    file = tmp_path / "Jané Doe" / "lives"
    file.parent.mkdir()
    code = (
        "import os, sys; open(sys.argv[1], 'a').write('x')\n"
        "count = os.stat(sys.argv[1]).st_size; print(count); sys.exit((75, 75, 4)[count - 1])"
    )
    work = partial(restart.run_in_process, [sys.executable, "-S", "-c", code, str(file)], os.environ)
    assert restart.run_with_restarts(work, lambda: False, lambda: 0, run=lambda work: work()) == 4
    assert file.read_text() == "xxx" and capfd.readouterr().out.split() == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("code", "told", "crashed"),
    [
        (0xC0000005, "ended with Windows error 0xC0000005 (access violation: a library", True),
        (0xC0000005 - 2**32, "ended with Windows error 0xC0000005 (access violation: a library", True),
        (0xC0000135, "ended with Windows error 0xC0000135 (DLL not found", False),
        (0xC0001234, "ended with Windows error 0xC0001234", False),
        (0xE06D7363, "ended with Windows error 0xE06D7363 (C++ exception", True),
        (0xFFFFFFFF, "ended with exit code 4294967295", False),
        (1, "ended with exit code 1", False),
        (-signal.SIGSEGV, "was killed by SIGSEGV", True),
        (-signal.SIGTERM, "was killed by SIGTERM", False),
    ],
)
def test_how_a_process_ended(code: int, told: str, crashed: bool) -> None:
    assert str(exit_codes.describe_exit(code)).startswith(told) and restart.is_native_crash(code) == crashed


def test_windows_word_for_no_memory_is_a_lack_of_memory() -> None:
    codes, stepped = iter([0xC000012D, 0xC0000017 - 2**32, 0]), list[bool]()
    kept = restart.run_with_restarts(
        lambda: next(codes), lambda: stepped.append(True) or True, lambda: 0, run=lambda work: work()
    )
    assert kept == 0 and len(stepped) == 2


def test_a_status_is_passed_on_in_the_range_that_exit_takes() -> None:
    assert restart.exit_like(0xC0000005) == restart.exit_like(-0x3FFFFFFB) == -0x3FFFFFFB


def test_the_kernels_count_is_read() -> None:
    assert restart.count_oom_kills() >= 0


def test_a_run_that_the_memory_guard_ended_goes_on_with_nobody_there(tmp_path: Path) -> None:
    tiny.model(tmp_path / "model")
    write_data(tmp_path)
    sft = {"batch_size": 2, "accumulation": 2, "max_length": 128, "max_steps": 6}
    job = TrainJob(recipe=recipe(tmp_path, method="sft", sft=sft, sample_tokens=0))
    made = run_folder.create_run(tmp_path / "runs", job, "t")
    start(tmp_path, f"oomkill@sft.4:{made}")
    view = read_run_state(made)
    assert view.phase is Phase.DONE, view.error
    assert [one.message for one in view.out_of_memory] == ["The system killed the worker because memory ran out."]
    assert {one.what: one.used for one in view.changes if one.what.startswith("sft")} == {
        "sft.batch_size": "1",
        "sft.accumulation": "4",
    }
    assert [point.step for point in view.points] == [1, 2, 3, 4, 5, 6]
