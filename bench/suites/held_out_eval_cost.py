"""What the held-out checks cost a training: a run with ten checks a stage, and the seconds from a step's end to its check's end,
with the save of a new best.

A second run without checks would say less: between two runs a machine's pace drifts by more than the checks cost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness.measure import wait_until
from bench.harness.result import BenchRow, Device, Target, row_against_peer
from bench.suites.memory_probe import starter_workspace
from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Recipe
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.steps import SAVES_PER_STAGE, is_spaced_step
from trainer_core.planning import presets
from trainer_core.runs.events import Stage
from trainer_core.runs.workspace import Workspace

QUESTION = (
    "What do the held-out checks add to the time of a training? SFT and DPO of the starter model on our sample data."
)
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
OPEN: tuple[BenchRow, ...] = (BenchRow("train", "Stage with held-out checks ÷ without", "s"),)
STEPS: dict[Stage, int] = {"sft": 40, "dpo": 15}
LENGTH: dict[Stage, int] = {"sft": 256, "dpo": 96}
"""So that a stage takes more than the 40 s below which checks have two seconds in any case, and little more."""
LIMIT_SECONDS = 600.0


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    os.environ["OMP_NUM_THREADS"] = "1"  # on the processor both stages are at work at once
    stages: tuple[Stage, ...] = ("sft",) if tiny else ("sft", "dpo")
    with ThreadPoolExecutor(2 if device == "cpu" else 1) as pool:
        return list(pool.map(lambda stage: eval_cost_row(stage, device, tiny), stages))


def eval_cost_row(stage: Stage, device: Device, tiny: bool) -> BenchRow:
    steps = 4 if tiny else STEPS[stage]
    with starter_workspace() as place:
        found = time_checks(place, eval_cost_recipe(stage, steps), device)
    whole, checked = sum(found.gaps), sum(found.checks.values())
    steady = dict(enumerate(found.gaps[:-1]))  # after the last step the adapter is saved
    untouched = [gap for at, gap in steady.items() if at not in found.checks]
    rest = [gap - found.checks[at] for at, gap in steady.items() if at in found.checks]
    slower = f"{median(rest) / median(untouched):.2f}" if rest and untouched else "an unknown part of"
    note = (
        f"{steps} steps; ten checks were asked for, {len(found.checks)} fitted into a twentieth of the time, on {found.rows} "
        f"rows: {checked:.1f} s. Without its check a step that had one took {slower} times as long as one that had none."
    )
    what = f"{stage.upper()} with held-out checks ÷ without"
    return row_against_peer(
        "train", what, "s", [whole], [whole - checked], target=Target("ratio", "≤", 1.05), note=note
    )


@dataclass(frozen=True)
class CheckCosts:
    """Seconds from each step's end to the next one's, and to the saved adapter after the last; of which gaps have a check in
    them, and how many of its seconds are the check's and its save's. rows: measured by a check."""

    gaps: tuple[float, ...]
    checks: Mapping[int, float]
    rows: int


def eval_cost_recipe(stage: Stage, steps: int) -> Recipe:
    changes = {f"{stage}.max_steps": steps, f"{stage}.evaluations": 10, f"{stage}.max_length": LENGTH[stage]}
    return with_changes(
        presets.starter_recipe(),
        {"method": stage, "sample_tokens": 0, "memory.probe": "off", "memory.keep_reference": "off"} | changes,
    )


def time_checks(place: Workspace, asked: Recipe, device: Device) -> CheckCosts:
    """A run to its end, by the clock of its own events."""
    supervisor = Supervisor(place, device=device)
    run_id = supervisor.control.start(asked)

    def over() -> bool:
        supervisor.registry.refresh()
        return not supervisor.registry.run_state(run_id).phase.is_active

    wait_until(over, LIMIT_SECONDS, "the end of the run")
    view, folder = supervisor.registry.run_state(run_id), supervisor.registry.run_dir(run_id)
    supervisor.close()
    if view.error:
        raise RuntimeError(view.error)
    return read_check_costs((folder / "events.jsonl").read_text(encoding="utf-8"))


def read_check_costs(events: str) -> CheckCosts:
    """A run's lines of events."""
    lines = [json.loads(line) for line in events.splitlines()]
    ends = [event_seconds(line) for line in lines if line["kind"] in ("TrainStep", "AdapterSaved")]
    checks = [line for line in lines if line["kind"] == "Evaluation"]
    saved = {
        one["step"]: one["seconds"]
        for one in lines
        if one["kind"] == "CheckpointSaved" and not is_save_due(one, len(ends) - 1)
    }
    spent = {
        one["step"] - 1: event_seconds(one) - ends[one["step"] - 1] + saved.get(one["step"], 0.0) for one in checks
    }
    gaps = tuple(after - before for before, after in pairwise(ends))
    return CheckCosts(gaps, spent, checks[0]["rows"] if checks else 0)


def is_save_due(checkpoint: dict[str, Any], steps: int) -> bool:
    """Would it have been saved without a check?"""
    return is_spaced_step(checkpoint["step"], steps, SAVES_PER_STAGE)


def event_seconds(line: dict[str, Any]) -> float:
    """Seconds by the clock of an event."""
    return datetime.fromisoformat(line["at"]).timestamp()
