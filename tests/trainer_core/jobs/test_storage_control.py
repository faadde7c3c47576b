"""A move and a job exclude each other, whichever process either is in; freeing asks the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support.scripted import finish_runs, scripted_app, wait_for_run
from trainer_core.errors import BusyError, ConfigError
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs.events import Phase
from trainer_core.storage.places import find_place

pytestmark = pytest.mark.real


@pytest.fixture
def boss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    finish_runs(tmp_path / "workspace", "first")
    found = scripted_app(tmp_path / "workspace", 50)
    yield found
    found.close()


def test_a_run_moves_with_its_drive_and_the_next_one_trains_there(boss: Supervisor, tmp_path: Path) -> None:
    drive, first = tmp_path / "drive", boss.registry.run_states[0].id
    moved = boss.storage.start_move("runs", drive)
    assert wait_for(lambda: not moved.is_active, 20)
    assert not moved.problem and find_place(boss.workspace, "runs") == drive
    boss.registry.refresh()
    assert boss.registry.run_state(first).phase is Phase.DONE and boss.registry.run_dir(first).is_dir()
    second = boss.control.start(starter_recipe().model_copy(update={"name": "second"}))
    assert wait_for_run(boss, second, lambda state: state.phase is Phase.DONE, 60)
    assert (drive / "runs" / second / "events.jsonl").is_file()
    boss.control.move_to_trash(second)
    assert (drive / "trash" / second).is_dir()
    assert boss.storage.interrupted_move is None


def test_nothing_moves_and_nothing_is_freed_while_a_run_trains(boss: Supervisor, tmp_path: Path) -> None:
    run = boss.control.start(starter_recipe().model_copy(update={"name": "slow"}))
    with pytest.raises(BusyError):
        boss.storage.start_move("runs", tmp_path / "drive")
    with pytest.raises(BusyError):
        boss.storage.free("caches:tokens")
    boss.control.stop(run)
    assert wait_for_run(boss, run, lambda state: not state.phase.is_active, 60)


def test_no_run_starts_while_something_moves_in_any_process(boss: Supervisor, tmp_path: Path) -> None:
    held, let_go = threading.Event(), threading.Event()

    def hold(moved: object, release: object) -> None:
        held.set()
        let_go.wait(30)
        release()  # type: ignore[operator]

    boss.storage.run_move = hold  # type: ignore[method-assign]
    boss.storage.start_move("runs", tmp_path / "drive")
    assert held.wait(10)
    other = scripted_app(tmp_path / "workspace", 50)  # as a command line beside the app
    for app in (boss, other):
        with pytest.raises(BusyError) as refused:
            app.control.start(starter_recipe())
        assert refused.value.text.code == "storage.moving"
    let_go.set()
    boss.storage.stop_move()
    assert boss.control.start(starter_recipe())
    other.close()


def test_a_move_that_fails_says_why_and_lets_go(boss: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "drive" / "runs" / "mine").mkdir(parents=True)
    moved = boss.storage.start_move("runs", tmp_path / "drive")
    assert wait_for(lambda: not moved.is_active, 20)
    assert moved.problem.code == "storage.taken" and find_place(boss.workspace, "runs") is None
    boss.storage.start_move("runs", tmp_path / "other")
    boss.storage.stop_move()


def test_checkpoints_of_a_finished_run_are_freed_and_the_run_stays(boss: Supervisor) -> None:
    run = boss.registry.run_states[0].id
    folder = boss.registry.run_dir(run) / "checkpoints" / "dpo-000001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_bytes(b"x" * 100)
    freed = boss.storage.free(f"checkpoints:{run}")
    assert freed >= 100 and not folder.exists()
    boss.registry.refresh()
    assert boss.registry.run_state(run).phase is Phase.DONE


def test_checkpoints_that_a_run_needs_to_resume_are_not_freed(boss: Supervisor) -> None:
    run = boss.control.start(starter_recipe().model_copy(update={"name": "paused"}))
    assert wait_for_run(boss, run, lambda state: len(state.points) > 2, 30)
    boss.control.pause(run)
    assert wait_for_run(boss, run, lambda state: not state.phase.is_active, 60)
    assert boss.registry.run_state(run).phase is Phase.PAUSED
    (boss.registry.run_dir(run) / "checkpoints" / "sft-000001").mkdir(parents=True, exist_ok=True)
    (boss.registry.run_dir(run) / "checkpoints" / "sft-000001" / "weights").write_bytes(b"x")
    with pytest.raises(ConfigError):
        boss.storage.free(f"checkpoints:{run}")
    assert (boss.registry.run_dir(run) / "checkpoints" / "sft-000001" / "weights").exists()
