"""What a person does with runs that are over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.histories import Made
from tests.support.serve import machine
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.errors import BusyError, ConfigError, DiskError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.dpo import Dpo
from trainer_core.runs import metadata, run_folder, trash
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Phase, RunEnded, TrainStep
from trainer_core.runs.metadata import RunMetadata
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text
from ui.payloads import run_list

NEVER = (sys.executable, "-c", "raise SystemExit(1)")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    opened = Supervisor(Workspace(tmp_path), NEVER, read_machine=lambda: machine(24))
    yield opened
    opened.close()


def over(supervisor: Supervisor, recipe: Recipe) -> Path:
    """A finished run."""
    run_dir = run_folder.create_run(supervisor.workspace.runs, TrainJob(recipe=recipe), recipe.name)
    log = EventLog(run_dir / "events.jsonl")
    for event in Made(total=10).told(1):
        log(event)
    log(RunEnded(Phase.DONE))
    supervisor.registry.refresh()
    return run_dir


def test_what_is_written_about_a_run_is_kept(supervisor: Supervisor) -> None:
    run_dir = over(supervisor, Recipe(name="one"))
    assert metadata.read_metadata(run_dir) == RunMetadata()
    metadata.write_metadata(run_dir, RunMetadata(name="Best: ✓", note="a\nb", pinned=True))
    rows, _ = run_list.RunRows(supervisor.registry)()
    assert (rows[0]["name"], rows[0]["note"], rows[0]["pinned"]) == ("Best: ✓", "a\nb", True)
    (run_dir / "about.json").write_text("{broken")
    assert run_list.RunRows(supervisor.registry)()[0][0]["name"] == "one"


def test_pinned_runs_come_first(supervisor: Supervisor) -> None:
    older, newer = over(supervisor, Recipe(name="a")), over(supervisor, Recipe(name="b"))
    rows = run_list.RunRows(supervisor.registry)
    assert {row["name"] for row in rows()[0]} == {"a", "b"}
    last = min(older, newer, key=lambda folder: folder.name)
    metadata.write_metadata(last, RunMetadata(pinned=True))
    assert rows()[0][0]["id"] == last.name


def test_rows_are_the_same_until_something_changes(supervisor: Supervisor) -> None:
    """Not made anew and summed anew each second: a thousand of them would keep a core busy."""
    one = over(supervisor, Recipe(name="a"))
    rows = run_list.RunRows(supervisor.registry)
    first, _ = rows()
    assert rows()[0] is first and run_list.part_checksum(first) == run_list.part_checksum(list(first))
    metadata.write_metadata(one, RunMetadata(note="new"))
    second, _ = rows()
    assert second is not first and run_list.part_checksum(second) != run_list.part_checksum(first)
    over(supervisor, Recipe(name="child", model=str(one / "adapter-dpo")))
    assert [row["needed"] for row in rows()[0]] == ["", "child"]


def test_a_run_goes_to_the_trash_and_back(supervisor: Supervisor) -> None:
    run_dir = over(supervisor, Recipe())
    size = trash.folder_size(run_dir)
    supervisor.control.move_to_trash(run_dir.name)
    supervisor.registry.refresh()
    assert (
        supervisor.registry.run_states == []
        and run_list.trash_payload(supervisor.workspace)["runs"][0]["id"] == run_dir.name
    )
    trash.restore_run(supervisor.workspace, run_dir.name)
    supervisor.registry.refresh()
    assert [view.id for view in supervisor.registry.run_states] == [run_dir.name] and run_list.trash_payload(
        supervisor.workspace
    )["runs"] == []
    supervisor.control.move_to_trash(run_dir.name)
    assert trash.empty_trash(supervisor.workspace) == size > 0
    with pytest.raises(ConfigError) as refused:
        trash.restore_run(supervisor.workspace, run_dir.name)
    assert refused.value.text == Text("trash.not_found", run=run_dir.name)


def test_a_run_in_use_stays_in_the_trash_whole(supervisor: Supervisor) -> None:
    run_dir = over(supervisor, Recipe())
    supervisor.control.move_to_trash(run_dir.name)
    before = trash.folder_size(supervisor.workspace.trash)

    def discard(folder: Path) -> None:
        raise PermissionError(13, "Access is denied", str(folder))

    with pytest.raises(DiskError, match="Access is denied"):
        trash.empty_trash(supervisor.workspace, discard)
    assert trash.folder_size(supervisor.workspace.trash) == before
    left = supervisor.workspace.trash / ".trash-run-1"  # of the last time, when a file in it was in use
    left.mkdir()
    (left / "weights").write_bytes(bytes(500))
    assert trash.empty_trash(supervisor.workspace) == before
    assert not list(supervisor.workspace.trash.iterdir())


def test_a_run_that_is_going_stays(tmp_path: Path) -> None:
    sleeps = (sys.executable, "-c", "import time; time.sleep(60)")
    supervisor = Supervisor(Workspace(tmp_path), sleeps, read_machine=lambda: machine(24))
    run_id = supervisor.control.start(Recipe())
    with pytest.raises(BusyError, match="is running. Stop it first"):
        supervisor.control.move_to_trash(run_id)
    assert supervisor.registry.run_dir(run_id).exists()
    process = supervisor.registry.watchers[run_id].process
    assert process
    process.kill()
    process.wait()
    supervisor.control.move_to_trash(run_id)
    assert not (tmp_path / "runs" / run_id).exists()


@pytest.mark.parametrize("name", ["../runs", "..", "", "/etc"])
def test_nothing_outside_the_trash_is_restored(supervisor: Supervisor, name: str) -> None:
    with pytest.raises(ConfigError):
        trash.restore_run(supervisor.workspace, name)


def test_a_child_names_its_parent(supervisor: Supervisor) -> None:
    parent = over(supervisor, Recipe(name="parent"))
    over(supervisor, Recipe(name="child", model=str(parent / "adapter-dpo")))
    needed = {row["name"]: row["needed"] for row in run_list.RunRows(supervisor.registry)()[0]}
    assert needed["parent"] == "child" and "" in needed.values()


def test_what_recipes_differ_in() -> None:
    recipes = [Recipe(name="a"), Recipe(name="b", dpo=Dpo(beta=0.3)), Recipe(dpo=Dpo(learning_rate=1e-6))]
    assert run_list.differing_settings(recipes) == [
        ("DPO learning rate", ["5e-6", "5e-6", "1e-6"]),
        ("DPO beta", ["0.1", "0.3", "0.1"]),
    ]
    assert run_list.differing_settings([Recipe(), Recipe()]) == []


@pytest.mark.parametrize(
    ("losses", "drawn"),
    [
        ([3, 2, 1], "zi0"),
        ([1.0], ""),
        ([1, 1, 1], ""),
        ([float("nan"), 1, 2], ""),
        ([3, 2, 1, float("nan"), float("inf"), float("nan")], "zi0"),
        ([3, float("-inf")], ""),
        ([1e308, -1e308, 1e308], ""),
    ],
    ids=["falls", "one step", "level", "no number", "diverged", "at once", "too far"],
)
def test_sparklines(losses: list[float], drawn: str) -> None:
    points = tuple(TrainStep("sft", at, 3, loss, 1e-4, 1.0, 1.0, 1.0, 1.0) for at, loss in enumerate(losses, 1))
    assert run_list.sparkline(RunState("x", points=points)) == drawn


def test_a_long_curve_has_a_short_sparkline() -> None:
    points = tuple(TrainStep("sft", at, 900, 900 - at, 1e-4, 1.0, 1.0, 1.0, 1.0) for at in range(900))
    drawn = run_list.sparkline(RunState("x", points=points))
    assert len(drawn) == 24 and drawn[0] == "z" and drawn[-1] == "0" and sorted(drawn, reverse=True) == list(drawn)
