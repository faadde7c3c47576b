"""A run that lives and does nothing is told apart from one that only takes its time; and a damaged line stays one line."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.support.scripted import scripted_app, wait_for_run
from trainer_core.config.recipe import Recipe
from trainer_core.jobs import stall
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.runs import heartbeat
from trainer_core.runs.events import Evaluation, Phase, TrainStep
from trainer_core.runs.run_state import RunState
from trainer_core.texts import NO_TEXT, Text

pytestmark = pytest.mark.real


def stepping(seconds: float, count: int = 10) -> RunState:
    steps = [
        TrainStep(
            "dpo", at, 100, 0.5, 1e-4, 1.0, seconds=90.0 if at == 1 else seconds, tokens_per_second=1, seconds_left=1
        )
        for at in range(1, count + 1)
    ]
    return RunState("a run", phase=Phase.TRAINING, stage="dpo", points=tuple(steps))


ON_CARD = replace(stepping(1), points=stepping(1).points[1:], card="GPU-1")


@pytest.mark.parametrize(
    ("view", "since_beat", "since_word", "says"),
    [
        (stepping(1), 3, 5, NO_TEXT),
        (stepping(1), 3, 59, NO_TEXT),
        (stepping(1), 3, 61, Text("stall.late_step", seconds=61, usual=1.0)),
        (stepping(30), 3, 500, NO_TEXT),
        (stepping(30), 3, 601, Text("stall.late_step", seconds=601, usual=30.0)),
        (stepping(1, count=3), 3, 4000, NO_TEXT),  # too few steps to know
        (replace(stepping(1), phase=Phase.SAVING), 3, 4000, NO_TEXT),
        (ON_CARD, 3, 179, NO_TEXT),  # a new shape may be compiled
        (ON_CARD, 3, 181, Text("stall.late_step", seconds=181, usual=1.0)),
        (RunState("new", phase=Phase.LOADING), 3, 4000, NO_TEXT),  # a download says nothing for long
        (RunState("new", phase=Phase.LOADING), 13, 0, Text("stall.silent", seconds=13)),
    ],
)
def test_when_a_run_is_called_stalled(view: RunState, since_beat: float, since_word: float, says: Text) -> None:
    expected = Text(says.code, **says.params, hint=view.resume_hint) if says else NO_TEXT
    assert stall.stall_reason(view, since_beat, since_word) == expected


CHECKED = replace(stepping(1), evaluated=(Evaluation("dpo", 5, 0.5, seconds=60.0),))


@pytest.mark.parametrize(
    ("view", "most"),
    [
        (stepping(1, count=9), 270),  # its first step took 90 s
        (replace(stepping(1), points=stepping(1).points[1:]), 60),
        (ON_CARD, 180),  # the first check, answer or long row compiles
        (replace(CHECKED, points=CHECKED.points[1:]), 180),  # a check takes long: it may be at one
        (stepping(1, count=3), 600),  # too few steps to know
        (stepping(400, count=3), 1200),
        (replace(stepping(1), phase=Phase.SAVING), 600),
        (RunState("new", phase=Phase.LOADING), 600),
    ],
)
def test_how_long_an_answer_is_waited_for(view: RunState, most: float) -> None:
    assert not stall.stop_timeout_reason(view, most)
    assert stall.stop_timeout_reason(view, most + 1) == Text("stall.no_answer", seconds=most + 1)


@pytest.mark.skipif(os.name != "posix", reason="Windows halts no process by signal")
def test_a_halted_worker_is_shown_within_seconds_and_goes_on(tmp_path: Path) -> None:
    """Its last beat is made older than it is, by what one would wait for."""
    supervisor = scripted_app(tmp_path, 50)
    run_id = supervisor.control.start(Recipe(name="slow"))
    assert wait_for_run(supervisor, run_id, lambda view: len(view.points) > 3, 30)
    worker = psutil.Process(heartbeat.read_heartbeat(supervisor.registry.run_dir(run_id)).pid)  # type: ignore[union-attr]
    try:
        worker.send_signal(signal.SIGSTOP)
        assert wait_for(lambda: worker.status() == psutil.STATUS_STOPPED, 10)
        beat = supervisor.registry.run_dir(run_id) / "heartbeat.json"
        os.utime(beat, (0, beat.stat().st_mtime - stall.SILENT_SECONDS))
        assert wait_for_run(supervisor, run_id, lambda view: view.stalled.startswith("No response for"), 30)
        assert supervisor.registry.run_state(run_id).phase.is_active
        worker.send_signal(signal.SIGCONT)
        assert wait_for_run(supervisor, run_id, lambda view: view.phase is Phase.DONE and not view.stalled, 60)
    finally:
        worker.kill()
        supervisor.close()


def test_a_damaged_line_is_told_and_hides_nothing(tmp_path: Path) -> None:
    supervisor = scripted_app(tmp_path, 500)
    ids = []
    for name in ("one", "two"):
        ids.append(supervisor.control.start(Recipe(name=name)))
        assert wait_for_run(supervisor, ids[-1], lambda view: view.phase is Phase.DONE, 60)
    file = supervisor.registry.run_dir(ids[0]) / "events.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:5], b'{"kind": "Step", "ste\x00\xff\n', b"[1]\n", *lines[5:]]))
    again = Supervisor(supervisor.workspace)
    assert [view.phase for view in again.registry.run_states] == [Phase.DONE, Phase.DONE]
    assert again.registry.run_state(ids[0]).points == supervisor.registry.run_state(ids[0]).points
    notes = [note for note in again.registry.run_state(ids[0]).notes if note.code == "log.line_damaged"]
    assert [note.params["line"] for note in notes] == [6, 7]
