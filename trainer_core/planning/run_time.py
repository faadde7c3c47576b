"""How long a run will take: as the last run like it took, else by the speed of the last run of its model, else estimated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import NamedTuple

from pydantic import Field

from trainer_core.config.recipe import STARTER, Recipe
from trainer_core.data import Counts
from trainer_core.methods.base import Training
from trainer_core.methods.steps import planned_steps
from trainer_core.models.architecture import Shape
from trainer_core.models.starter import unpacked
from trainer_core.planning.forecast import Place
from trainer_core.planning.presets import FOLDER
from trainer_core.runs.events import Stage
from trainer_core.runs.run_state import RunView
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import Strict, parse, read_toml
from trainer_core.system.duration import duration

START_SECONDS, STAGE_SECONDS, UNPACK_SECONDS = 5.0, 10.0, 60.0
"""Around the steps: until the data is read, loading the base for a stage, and making the starter model, once."""
LEAST_STEP_SECONDS = 0.3
"""Of a step that is not known from a run like it, however small the model: calling each layer takes its time."""
ASIDE = 1.1
"""Held-out checks and sample answers on top of the steps; they take 15 % at most."""
REFERENCE = 8 / 6
"""What a token of DPO costs against one of SFT: the reference reads it as well."""


class Core(Strict):
    bfloat16: float = Field(gt=0)
    float32: float = Field(gt=0)


class Cards(Strict):
    share: float = Field(gt=0, le=1)
    tflops: Mapping[str, float]


class Speeds(Strict):
    """Useful TFLOP/s of a processor core, and of a card by a part of its name."""

    core: Core
    cards: Cards

    def of(self, place: Place, cores: int) -> float | None:
        if place.room.device == "cpu":
            return cores * (self.core.bfloat16 if place.room.bfloat16 else self.core.float32)
        peak = next((one for name, one in self.cards.tflops.items() if name in place.device), None)
        return self.cards.share * peak if peak else None


@lru_cache(maxsize=1)
def speeds() -> Speeds:
    return parse(Speeds, read_toml(FOLDER / "speed" / "devices.toml"), "devices.toml")


@dataclass(frozen=True)
class Pace:
    """How fast a stage goes. step: seconds of one, by a run like it; 0: not known, `token` it is. measured: by a run here."""

    step: float = 0.0
    token: float = 0.0
    measured: bool = True

    def seconds(self, settings: Training, rows: int, tokens: float) -> float:
        """Of the whole stage, with rows of so many tokens."""
        step = self.step or max(LEAST_STEP_SECONDS, self.token * tokens * settings.effective_batch)
        return planned_steps(rows, settings) * step


class PastRun(NamedTuple):
    """What an earlier run tells about speed. recipe: None where it cannot be read. device: as its run.json names it."""

    recipe: Recipe | None
    device: str
    view: RunView


def paces(past: Iterable[PastRun], wanted: Recipe, shape: Shape | None, place: Place, cores: int) -> dict[Stage, Pace]:
    """Every stage whose pace is known or can be estimated."""
    known = list(past)
    found = {stage: pace(known, wanted, stage, shape, place, cores) for stage in wanted.method.stages}
    return {stage: one for stage, one in found.items() if one}


def pace(
    past: Iterable[PastRun], wanted: Recipe, stage: Stage, shape: Shape | None, place: Place, cores: int
) -> Pace | None:
    rate = 0.0
    for before, device, view in past:
        if not before or device != place.device or not same_work(before, wanted):
            continue
        if (step := usual(view, stage, "seconds")) and alike(before, wanted, stage):
            return Pace(step=step)
        rate = rate or usual(view, stage, "tokens_per_second")
    if rate:
        return Pace(token=1 / rate)
    speed = speeds().of(place, cores)
    if shape is None or speed is None:
        return None
    return Pace(token=6 * shape.parameters / (speed * 1e12) * (REFERENCE if stage == "dpo" else 1), measured=False)


def usual(view: RunView, stage: Stage, name: str) -> float:
    """The median over a stage's steps but the first, which compiles; 0 where there were none."""
    seen = [getattr(point, name) for point in view.points if point.stage == stage][1:]
    return median(seen) if seen else 0.0


def same_work(one: Recipe, other: Recipe) -> bool:
    """Does a token cost about the same?"""
    return (one.model, one.precision, one.lora.targets) == (other.model, other.precision, other.lora.targets)


def alike(one: Recipe, other: Recipe, stage: Stage) -> bool:
    """Does a step cost about the same?"""
    first, second = getattr(one, stage), getattr(other, stage)
    return (one.lora, one.data) == (other.lora, other.data) and all(
        getattr(first, name) == getattr(second, name) for name in ("batch_size", "accumulation", "max_length")
    )


def stage_seconds(paces: Mapping[Stage, Pace], wanted: Recipe, found: Counts) -> dict[Stage, float]:
    """Of the stages with a pace; nothing where rows have no known length."""
    return {
        stage: one.seconds(getattr(wanted, stage), getattr(found, stage), row_tokens(wanted, found, stage))
        for stage, one in paces.items()
        if one.step or stage in found.lengths
    }


def row_tokens(wanted: Recipe, found: Counts, stage: Stage) -> float:
    """The mean tokens of a row that training sees, both answers of a pair counted."""
    most, before, total = getattr(wanted, stage).max_length, 0.0, 0.0
    for share, tokens in found.lengths.get(stage, ()):
        total += (share - before) * min(tokens, most)
        before = share
    return total * (2 if stage == "dpo" else 1)


def whole(workspace: Workspace, wanted: Recipe, stages: Mapping[Stage, float]) -> float:
    """Seconds of the run, without a download; 0 where a stage's are not known."""
    if set(stages) != set(wanted.method.stages):
        return 0.0
    unpack = UNPACK_SECONDS if wanted.model == STARTER and not unpacked(workspace) else 0
    return START_SECONDS + unpack + STAGE_SECONDS * len(stages) + ASIDE * sum(stages.values())


def sentence(seconds: float, paces: Mapping[Stage, Pace]) -> str:
    """`≈ 3 min in all, estimated`; nothing where it is not known."""
    how = "as fast as your last run" if all(one.measured for one in paces.values()) else "estimated"
    return f"{about(seconds)} in all, {how}." if seconds else ""


def about(seconds: float) -> str:
    """`≈ 40 s`, `≈ 3 min`, `≈ 1 h 20 min`: no finer than such a figure is known."""
    step = 10 if seconds < 60 else 60 if seconds < 3600 else 600
    return f"≈ {duration(max(10, round(seconds / step) * step)).removesuffix(' 00 s').removesuffix(' 00 min')}"
