"""The sample answers of Train: every step that was asked or can be kept is a point of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.support.fake_worker import write_adapter
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import checkpoints, run_folder
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import AdapterSaved, Evaluation, Event, Phase, RunEnded, SampleAnswer, SampleAnswers
from trainer_core.runs.workspace import Workspace
from ui.payloads import samples

NEVER = (sys.executable, "-c", "raise SystemExit(1)")
HELD = [Evaluation("sft", step, loss) for step, loss in ((8, 1.2), (9, 1.0), (10, 1.1))]


def told(workspace: Path, *events: Event) -> dict[str, Any]:
    """The strip of a run that ended with an adapter of step 10, and has checkpoints of steps 9 and 10."""
    supervisor = Supervisor(Workspace(workspace), NEVER, device="cpu")
    run_dir = run_folder.create_run(supervisor.workspace.runs, TrainJob(recipe=Recipe()), "")
    for step in (9, 10):
        write_adapter(checkpoints.checkpoint_dir(run_dir, "sft", step), "sft", step)
    write_adapter(checkpoints.adapter_dir(run_dir, "sft"), "sft", 10)
    log = EventLog(run_dir / "events.jsonl")
    for event in (*HELD, *events, AdapterSaved("sft", "adapter-sft", 1, 10), RunEnded(Phase.DONE)):
        log(event)
    supervisor.registry.refresh()
    found = samples.samples_payload(supervisor.registry, supervisor.registry.current_run)
    supervisor.close()
    assert found is not None
    return found


def test_the_best_can_be_kept_where_nothing_was_asked(tmp_path: Path) -> None:
    found = told(tmp_path)
    said = [(one["step"], one["held"], one["best"], one["kept"], one["stored"]) for one in found["points"]]
    assert said == [(9, 1.0, True, False, True), (10, 1.1, False, True, True)]
    assert found["prompts"] == found["base"] == [] and all(one["answers"] == [] for one in found["points"])


def test_answers_and_weights_stand_in_one_row_of_steps(tmp_path: Path) -> None:
    sample = (SampleAnswer("Why?", "So.", 2, True),)
    found = told(
        tmp_path,
        SampleAnswers("sft", 0, sample, 0.1),
        SampleAnswers("sft", 8, sample, 0.1),
        SampleAnswers("sft", 10, sample, 0.1),
    )
    assert [(one["step"], len(one["answers"]), one["stored"]) for one in found["points"]] == [
        (8, 1, False),
        (9, 0, True),
        (10, 1, True),
    ]
    assert found["base"] == [["So.", 2, True]]
