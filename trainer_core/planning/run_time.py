"""Estimates a run's duration: from the last similar run, else from the speed of its model's last run, else from its size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import NamedTuple

from pydantic import Field

from trainer_core.config.recipe import METHODS, STARTER, Recipe
from trainer_core.data import RowCounts
from trainer_core.methods.base import Training
from trainer_core.methods.steps import count_steps
from trainer_core.models.architecture import Architecture
from trainer_core.models.starter import is_starter_ready
from trainer_core.planning.forecast import TargetMachine
from trainer_core.planning.presets import PRESETS_DIR
from trainer_core.runs.events import Stage
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import StrictModel, parse_values, read_toml
from trainer_core.system.format import format_estimated_duration

START_SECONDS, STAGE_SECONDS, UNPACK_SECONDS = 5.0, 10.0, 60.0
"""Overhead beside the steps: until the data is read, loading the base per stage, and making the starter model, once."""
MIN_STEP_SECONDS = 0.3
"""Shortest step without a similar run, however small the model: calling each layer takes time."""
EVAL_OVERHEAD = 1.1
"""Factor for evaluations and sample answers; they take at most 15 %."""
REFERENCE_COST_RATIO = 8 / 6
"""Cost of a DPO token ÷ an SFT token: the reference reads it as well."""


class CoreSpeed(StrictModel):
    bfloat16: float = Field(gt=0)
    float32: float = Field(gt=0)


class CardSpeeds(StrictModel):
    share: float = Field(gt=0, le=1)
    tflops: Mapping[str, float]


class DeviceSpeeds(StrictModel):
    """Useful TFLOP/s of a processor core, and of a card by part of its name."""

    core: CoreSpeed
    cards: CardSpeeds

    def useful_tflops(self, place: TargetMachine, cores: int) -> float | None:
        if place.room.device == "cpu":
            return cores * (self.core.bfloat16 if place.room.bfloat16 else self.core.float32)
        peak = next((one for name, one in self.cards.tflops.items() if name in place.device), None)
        return self.cards.share * peak if peak else None


@lru_cache(maxsize=1)
def load_device_speeds() -> DeviceSpeeds:
    return parse_values(DeviceSpeeds, read_toml(PRESETS_DIR / "speed" / "devices.toml"), "devices.toml")


@dataclass(frozen=True)
class StageSpeed:
    """Speed of a stage. step: seconds per step of a similar run; 0: unknown, use `token`. measured: by a run here."""

    step: float = 0.0
    token: float = 0.0
    measured: bool = True

    def total_seconds(self, settings: Training, rows: int, tokens: float) -> float:
        """Seconds of the whole stage, with rows of this many tokens."""
        step = self.step or max(MIN_STEP_SECONDS, self.token * tokens * settings.effective_batch)
        return count_steps(rows, settings) * step


class PastRun(NamedTuple):
    """Speed data of an earlier run. recipe: None if unreadable. device: as its run.json names it."""

    recipe: Recipe | None
    device: str
    view: RunState


def estimate_speeds(
    past: Iterable[PastRun], wanted: Recipe, shape: Architecture | None, place: TargetMachine, cores: int
) -> dict[Stage, StageSpeed]:
    """The speed of every stage for which it is known or can be estimated."""
    known = list(past)
    found = {stage: estimate_speed(known, wanted, stage, shape, place, cores) for stage in wanted.method.stages}
    return {stage: one for stage, one in found.items() if one}


def estimate_speed(
    past: Iterable[PastRun], wanted: Recipe, stage: Stage, shape: Architecture | None, place: TargetMachine, cores: int
) -> StageSpeed | None:
    rate = 0.0
    for before, device, view in past:
        if not before or device != place.device or not has_same_token_cost(before, wanted):
            continue
        if (step := median_step_value(view, stage, "seconds")) and has_same_step_cost(before, wanted, stage):
            return StageSpeed(step=step)
        rate = rate or median_step_value(view, stage, "tokens_per_second")
    return StageSpeed(token=1 / rate) if rate else guess_speed(stage, shape, place, cores)


def guess_speed(stage: Stage, shape: Architecture | None, place: TargetMachine, cores: int) -> StageSpeed | None:
    """From the model's size and the usual speed of such a device."""
    speed = load_device_speeds().useful_tflops(place, cores)
    if shape is None or speed is None:
        return None
    return StageSpeed(
        token=6
        * shape.parameter_count
        / (speed * 1e12)
        * (REFERENCE_COST_RATIO if METHODS[stage].needs_reference else 1),
        measured=False,
    )


def median_step_value(view: RunState, stage: Stage, name: str) -> float:
    """The median over a stage's steps without the first, which compiles; 0 if there are none."""
    seen = [getattr(point, name) for point in view.points if point.stage == stage][1:]
    return median(seen) if seen else 0.0


def has_same_token_cost(one: Recipe, other: Recipe) -> bool:
    return (one.model, one.precision, one.lora.targets) == (other.model, other.precision, other.lora.targets)


def has_same_step_cost(one: Recipe, other: Recipe, stage: Stage) -> bool:
    first, second = one.stage_settings(stage), other.stage_settings(stage)
    return (one.lora, one.data) == (other.lora, other.data) and all(
        getattr(first, name) == getattr(second, name) for name in ("batch_size", "accumulation", "max_length")
    )


def stage_seconds(paces: Mapping[Stage, StageSpeed], wanted: Recipe, found: RowCounts) -> dict[Stage, float]:
    """Seconds of each stage with a known speed; empty if row lengths are unknown."""
    return {
        stage: one.total_seconds(wanted.stage_settings(stage), found.rows[stage], mean_row_tokens(wanted, found, stage))
        for stage, one in paces.items()
        if one.step or stage in found.lengths
    }


def mean_row_tokens(wanted: Recipe, found: RowCounts, stage: Stage) -> float:
    """Mean tokens per row in training; a pair counts with both answers."""
    most, before, total = wanted.stage_settings(stage).max_length, 0.0, 0.0
    for share, tokens in found.lengths.get(stage, ()):
        total += (share - before) * min(tokens, most)
        before = share
    return total * METHODS[stage].sequences


def run_seconds(workspace: Workspace, wanted: Recipe, stages: Mapping[Stage, float]) -> float:
    """Seconds of the run, without a download; 0 if a stage's are unknown."""
    if set(stages) != set(wanted.method.stages):
        return 0.0
    unpack = UNPACK_SECONDS if wanted.model == STARTER and not is_starter_ready(workspace) else 0
    return START_SECONDS + unpack + STAGE_SECONDS * len(stages) + EVAL_OVERHEAD * sum(stages.values())


def describe_run_time(seconds: float, paces: Mapping[Stage, StageSpeed]) -> str:
    """`≈ 3 min in all, estimated`; empty if unknown."""
    how = "as fast as your last run" if all(one.measured for one in paces.values()) else "estimated"
    return f"{format_estimated_duration(seconds)} in all, {how}." if seconds else ""
