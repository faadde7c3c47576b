"""What the held-out checks cost a training: the same run with none and with ten checks a stage, one after the other.

A machine's pace drifts by more than the checks cost. Both runs make the same steps, so those that no check touched tell how far.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median

from bench.measure import until
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
OPEN: tuple[Row, ...] = (Row("train", "Stage with held-out checks ÷ without", "s"),)
STEPS: dict[Stage, int] = {"sft": 40, "dpo": 15}
LENGTH: dict[Stage, int] = {"sft": 256, "dpo": 96}
"""So that a stage takes more than the 40 s below which checks have two seconds in any case, and little more."""
LIMIT_SECONDS = 600.0


def run(device: Device, tiny: bool) -> list[Row]:
    os.environ["OMP_NUM_THREADS"] = "1"  # steadier where the second core is at work
    stages: tuple[Stage, ...] = ("sft",) if tiny else ("sft", "dpo")
    return [row(stage, device, tiny) for stage in stages]


def row(stage: Stage, device: Device, tiny: bool) -> Row:
    steps = 4 if tiny else STEPS[stage]
    with workspace() as place:
        bare, checked = (course(place, recipe(stage, steps, checks), device) for checks in (0, 10))
    untouched = [
        ours / peer
        for at, (ours, peer) in enumerate(zip(checked.gaps, bare.gaps, strict=True))
        if at not in checked.at and at - 1 not in checked.at
    ]
    drift = median(untouched) if untouched else 1.0
    what = f"{stage.upper()} with held-out checks ÷ without"
    note = (
        f"{steps} steps; ten checks were asked for, {len(checked.at)} fitted into a twentieth of the time, on {checked.rows} "
        f"rows. The machine was {drift:.2f} times as slow in the run with them, by the steps that no check touched; the other "
        "run's time is multiplied by that."
    )
    ours, peer = [sum(checked.gaps)], [drift * sum(bare.gaps)]
    return two_sided("train", what, "s", ours, peer, target=Target("ratio", "≤", 1.05), note=note)


@dataclass(frozen=True)
class Course:
    """Seconds from each step's end to the next one's, and to the saved adapter after the last; what a check adds is in the gap
    after its step. at: which gaps those are. rows: measured by a check."""

    gaps: tuple[float, ...]
    at: frozenset[int]
    rows: int


def recipe(stage: Stage, steps: int, checks: int) -> Recipe:
    changes = {f"{stage}.max_steps": steps, f"{stage}.evaluations": checks, f"{stage}.max_length": LENGTH[stage]}
    return changed(
        presets.starter_recipe(),
        {"method": stage, "sample_tokens": 0, "memory.probe": "off", "memory.keep_reference": "off"} | changes,
    )


def course(place: runs.Workspace, asked: Recipe, device: Device) -> Course:
    """A run to its end, by the clock of its own events."""
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
    ends = [datetime.fromisoformat(line["at"]) for line in lines if line["kind"] in ("Step", "Saved")]
    checks = [line for line in lines if line["kind"] == "Evaluated"]
    gaps = tuple((after - before).total_seconds() for before, after in pairwise(ends))
    return Course(gaps, frozenset(one["step"] - 1 for one in checks), checks[0]["rows"] if checks else 0)
