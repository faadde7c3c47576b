"""What the held-out checks cost a training: the same run with ten checks a stage and with none, in turns."""

from __future__ import annotations

import json
import os
from datetime import datetime
from functools import partial

from bench.measure import interleaved, until
from bench.probe import workspace
from bench.result import Device, Row, Target, two_sided
from trainer_core import presets, runs
from trainer_core.config import Recipe
from trainer_core.events import Stage
from trainer_core.ladder import changed
from trainer_core.supervisor import Supervisor

QUESTION = (
    "What do the held-out checks add to the time of a training? SFT and DPO of the starter model on our sample data."
)
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
OPEN: tuple[Row, ...] = (Row("train", "Stage with 10 held-out checks ÷ without", "s"),)
STEPS: dict[Stage, int] = {"sft": 40, "dpo": 24}
"""So that a stage takes more than the 40 s below which checks have two seconds in any case."""
LIMIT_SECONDS = 600.0


def run(device: Device, tiny: bool) -> list[Row]:
    os.environ["OMP_NUM_THREADS"] = "1"  # steadier where the second core is at work
    stages: tuple[Stage, ...] = ("sft",) if tiny else ("sft", "dpo")
    return [row(stage, device, tiny) for stage in stages]


def row(stage: Stage, device: Device, tiny: bool) -> Row:
    steps = 4 if tiny else STEPS[stage]
    with workspace() as place:
        ways = {checks: partial(seconds, place, recipe(stage, steps, checks), device) for checks in (10, 0)}
        times = interleaved({str(checks): way for checks, way in ways.items()}, 1, warm_up=0)
    what, note = (
        f"{stage.upper()} with 10 held-out checks ÷ without",
        f"{steps} steps, from the first to the saved adapter",
    )
    return two_sided("train", what, "s", times["10"], times["0"], target=Target("ratio", "≤", 1.05), note=note)


def recipe(stage: Stage, steps: int, checks: int) -> Recipe:
    changes = {f"{stage}.max_steps": steps, f"{stage}.evaluations": checks, f"{stage}.max_length": 256}
    return changed(
        presets.starter_recipe(),
        {"method": stage, "sample_tokens": 0, "memory.probe": "off", "memory.keep_reference": "off"} | changes,
    )


def seconds(place: runs.Workspace, asked: Recipe, device: Device) -> float:
    """From the first step's end to the saved adapter, by the clock of the run's own events."""
    supervisor = Supervisor(place, device=device)
    run_id = supervisor.start(asked)

    def over() -> bool:
        supervisor.look()
        return not supervisor.run(run_id).phase.active

    until(over, LIMIT_SECONDS, "the end of the run")
    view, folder = supervisor.run(run_id), supervisor.run_dir(run_id)
    supervisor.close()
    if view.error:
        raise RuntimeError(view.error)
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    first, last = (next(line["at"] for line in lines if line["kind"] == kind) for kind in ("Step", "Saved"))
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
