"""What a person does with runs that are over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.histories import Made
from tests.serve import machine
from trainer_core import runs, shelf
from trainer_core.config import Dpo, Recipe, TrainJob
from trainer_core.errors import BusyError, ConfigError, DiskError
from trainer_core.event_log import EventLog
from trainer_core.events import Ended, Phase, Step
from trainer_core.run_view import RunView
from trainer_core.shelf import About
from trainer_core.supervisor import Supervisor
from ui import history

NEVER = (sys.executable, "-c", "raise SystemExit(1)")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    opened = Supervisor(runs.Workspace(tmp_path), NEVER, read_machine=lambda: machine(24))
    yield opened
    opened.close()


def over(supervisor: Supervisor, recipe: Recipe) -> Path:
    """A finished run."""
    run_dir = runs.create(supervisor.workspace.runs, TrainJob(recipe=recipe), recipe.name)
    log = EventLog(run_dir / "events.jsonl")
    for event in Made(total=10).told(1):
        log(event)
    log(Ended(Phase.DONE))
    supervisor.look()
    return run_dir


def test_what_is_written_about_a_run_is_kept(supervisor: Supervisor) -> None:
    run_dir = over(supervisor, Recipe(name="one"))
    assert shelf.read_about(run_dir) == About()
    shelf.write_about(run_dir, About(name="Best: ✓", note="a\nb", pinned=True))
    rows, _ = history.Rows(supervisor)()
    assert (rows[0]["name"], rows[0]["note"], rows[0]["pinned"]) == ("Best: ✓", "a\nb", True)
    (run_dir / "about.json").write_text("{broken")
    assert history.Rows(supervisor)()[0][0]["name"] == "one"


def test_pinned_runs_come_first(supervisor: Supervisor) -> None:
    older, newer = over(supervisor, Recipe(name="a")), over(supervisor, Recipe(name="b"))
    rows = history.Rows(supervisor)
    assert {row["name"] for row in rows()[0]} == {"a", "b"}
    last = min(older, newer, key=lambda folder: folder.name)
    shelf.write_about(last, About(pinned=True))
    assert rows()[0][0]["id"] == last.name


def test_rows_are_the_same_until_something_changes(supervisor: Supervisor) -> None:
    """Not made anew and summed anew each second: a thousand of them would keep a core busy."""
    one = over(supervisor, Recipe(name="a"))
    rows = history.Rows(supervisor)
    first, _ = rows()
    assert rows()[0] is first and history.mark(first) == history.mark(list(first))
    shelf.write_about(one, About(note="new"))
    second, _ = rows()
    assert second is not first and history.mark(second) != history.mark(first)
    over(supervisor, Recipe(name="child", model=str(one / "adapter-dpo")))
    assert [row["needed"] for row in rows()[0]] == ["", "child"]


def test_a_run_goes_to_the_trash_and_back(supervisor: Supervisor) -> None:
    run_dir = over(supervisor, Recipe())
    size = shelf.size_bytes(run_dir)
    supervisor.throw_away(run_dir.name)
    supervisor.look()
    assert supervisor.views == [] and history.trash(supervisor)["runs"][0]["id"] == run_dir.name
    shelf.restore(supervisor.workspace, run_dir.name)
    supervisor.look()
    assert [view.id for view in supervisor.views] == [run_dir.name] and history.trash(supervisor)["runs"] == []
    supervisor.throw_away(run_dir.name)
    assert shelf.empty(supervisor.workspace) == size > 0
    with pytest.raises(ConfigError, match="no run .* in the trash"):
        shelf.restore(supervisor.workspace, run_dir.name)


def test_a_run_in_use_stays_in_the_trash_whole(supervisor: Supervisor) -> None:
    run_dir = over(supervisor, Recipe())
    supervisor.throw_away(run_dir.name)
    before = shelf.size_bytes(shelf.trash(supervisor.workspace))

    def discard(folder: Path) -> None:
        raise PermissionError(13, "Access is denied", str(folder))

    with pytest.raises(DiskError, match="Access is denied"):
        shelf.empty(supervisor.workspace, discard)
    assert shelf.size_bytes(shelf.trash(supervisor.workspace)) == before
    left = shelf.trash(supervisor.workspace) / ".trash-run-1"  # of the last time, when a file in it was in use
    left.mkdir()
    (left / "weights").write_bytes(bytes(500))
    assert shelf.empty(supervisor.workspace) == before
    assert not list(shelf.trash(supervisor.workspace).iterdir())


def test_a_run_that_is_going_stays(tmp_path: Path) -> None:
    sleeps = (sys.executable, "-c", "import time; time.sleep(60)")
    supervisor = Supervisor(runs.Workspace(tmp_path), sleeps, read_machine=lambda: machine(24))
    run_id = supervisor.start(Recipe())
    with pytest.raises(BusyError, match="is going. Stop it first"):
        supervisor.throw_away(run_id)
    assert supervisor.run_dir(run_id).exists()
    process = supervisor._watched[run_id].process
    assert process
    process.kill()
    process.wait()
    supervisor.throw_away(run_id)
    assert not (tmp_path / "runs" / run_id).exists()


@pytest.mark.parametrize("name", ["../runs", "..", "", "/etc"])
def test_nothing_outside_the_trash_is_restored(supervisor: Supervisor, name: str) -> None:
    with pytest.raises(ConfigError):
        shelf.restore(supervisor.workspace, name)


def test_a_child_names_its_parent(supervisor: Supervisor) -> None:
    parent = over(supervisor, Recipe(name="parent"))
    over(supervisor, Recipe(name="child", model=str(parent / "adapter-dpo")))
    needed = {row["name"]: row["needed"] for row in history.Rows(supervisor)()[0]}
    assert needed["parent"] == "child" and "" in needed.values()


def test_what_recipes_differ_in() -> None:
    recipes = [Recipe(name="a"), Recipe(name="b", dpo=Dpo(beta=0.3)), Recipe(dpo=Dpo(learning_rate=1e-6))]
    assert history.compared(recipes) == [
        ("DPO learning rate", ["5e-6", "5e-6", "1e-6"]),
        ("DPO beta", ["0.1", "0.3", "0.1"]),
    ]
    assert history.compared([Recipe(), Recipe()]) == []


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
    points = tuple(Step("sft", at, 3, loss, 1e-4, 1.0, 1.0, 1.0, 1.0) for at, loss in enumerate(losses, 1))
    assert history.spark(RunView("x", points=points)) == drawn


def test_a_long_curve_has_a_short_sparkline() -> None:
    points = tuple(Step("sft", at, 900, 900 - at, 1e-4, 1.0, 1.0, 1.0, 1.0) for at in range(900))
    drawn = history.spark(RunView("x", points=points))
    assert len(drawn) == 24 and drawn[0] == "z" and drawn[-1] == "0" and sorted(drawn, reverse=True) == list(drawn)
