"""Forecast of a recipe on this machine: memory by part, main memory, disk, whether it fits, and a reason for every value.

The command line's `plan` and the page's bar share it. It never changes a value set by hand, but reports its cost against the
value that fitting.py would choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from trainer_core.config import changes
from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.data import RowCounts
from trainer_core.errors import DeviceError
from trainer_core.methods.base import EFFECTIVE_BATCH, DatasetStats, LengthQuantiles
from trainer_core.methods.steps import count_steps
from trainer_core.models.architecture import Architecture
from trainer_core.planning.fitting import FittedSettings, MemoryBudget, fit_settings, with_skip_layers
from trainer_core.planning.measurements import MeasuredMemory
from trainer_core.planning.memory_model import (
    BaseFormat,
    FitVerdict,
    Measurement,
    MemoryEstimate,
    MemoryPart,
    StageSetup,
    build_setup,
    certain_bytes,
    disk_parts,
    fit_verdict,
    peak_estimate,
    resolve_base_format,
)
from trainer_core.system.format import GIB, format_gb, format_planned_value
from trainer_core.system.hardware import Machine, reserve_bytes

FREE_ROUNDING_BYTES = 64 * 2**20
"""Free memory is rounded down to multiples of this many bytes, so that a plan does not flicker with every other program."""
MIN_COST_SHARE = 0.005
"""An edit that moves less than this share of the total counts as free."""
FITTED_KEYS = {
    "lora": ("rank", "alpha", "rslora", "dropout"),
    **{
        key: ("batch_size", "accumulation", "max_length", "epochs", "learning_rate", *method.advised)
        for key, method in METHODS.items()
    },
    "memory": ("offload_embedding",),
}
"""Settings that fitting.py chooses; all others come from the recipe, with their own description as reason."""


@dataclass(frozen=True)
class SettingExplanation:
    """One setting: its key in the recipe, its value and reason. If fitting.py would choose another: that value, and the bytes
    that the present one costs more (less, if negative)."""

    key: str
    value: str
    why: str
    chosen: str = ""
    costs: int = 0

    @property
    def sentence(self) -> str:
        """`2,048 instead of 512: 3.1 GB more. length 512: covers every row`; only the reason if the value is as chosen."""
        if not self.chosen:
            return self.why
        more = (
            f"{format_gb(abs(self.costs))} {'more' if self.costs > 0 else 'less'}. "
            if abs(self.costs) > 0.05 * GIB
            else ""
        )
        return f"{self.value} instead of {self.chosen}: {more}{self.why}"


@dataclass(frozen=True)
class Forecast:
    """The forecast for one recipe on one machine, in bytes.

    device: name. stages: the peak of each. free: budget for the plan. holders: who uses the rest, as text.
    suggested: the whole recipe of fitting.py, or None if nothing fits; `too_big` then says why.
    """

    device: str
    free: int
    stages: Mapping[str, MemoryEstimate]
    verdict: FitVerdict
    values: tuple[SettingExplanation, ...]
    disk: tuple[MemoryPart, ...]
    disk_free: int
    host_free: int
    holders: str = ""
    suggested: Recipe | None = None
    too_big: str = ""
    notes: tuple[str, ...] = ()

    @property
    def peak_stage(self) -> str:
        return max(self.stages, key=lambda stage: self.stages[stage].upper)

    @property
    def peak(self) -> MemoryEstimate:
        return self.stages[self.peak_stage]

    @property
    def costly_changes(self) -> tuple[SettingExplanation, ...]:
        """Values that differ from fitting.py and move memory, the most expensive first."""
        costly = [one for one in self.values if one.chosen and abs(one.costs) > MIN_COST_SHARE * self.peak.middle]
        return tuple(sorted(costly, key=lambda one: -one.costs))


@dataclass(frozen=True)
class TargetMachine:
    """The device of a run: names and bytes."""

    room: MemoryBudget
    device: str
    holders: str = ""
    host_free: int = 0
    disk_free: int = 0
    id: str = ""
    """The card's UUID, or the processor's name."""

    @classmethod
    def current_machine(
        cls, machine: Machine, own_pids: tuple[int, ...] = (), disk_free: int = 0, use_card: bool = True
    ) -> TargetMachine:
        """This machine now; memory of our own workers counts as free."""
        card = machine.best_gpu if use_card else None
        room = MemoryBudget.for_machine(machine if card else replace(machine, gpus=()), own_pids)
        room = replace(room, free=room.free // FREE_ROUNDING_BYTES * FREE_ROUNDING_BYTES)
        words = f"{card.memory_sentence} {format_gb(reserve_bytes(card.total_bytes))} stay in reserve." if card else ""
        name, own = (card.name, card.uuid) if card else (machine.cpu.name, machine.cpu.name)
        return cls(room, name, words, machine.cpu.budget_bytes(), disk_free, own)

    @classmethod
    def empty_card(cls, gib: float, machine: Machine, disk_free: int = 0) -> TargetMachine:
        """This machine with an empty card of this size."""
        total = round(gib * GIB)
        room = MemoryBudget("cuda", max(0, total - reserve_bytes(total)))
        return cls(room, f"an empty card of {gib:g} GB", "", machine.cpu.budget_bytes(), disk_free)


def dataset_stats(found: RowCounts) -> DatasetStats:
    counts = {METHODS[stage].rows: count for stage, count in found.rows.items()}
    lengths = {METHODS[stage].rows: LengthQuantiles(points) for stage, points in found.lengths.items()}
    return DatasetStats(counts.get("chat", 0), counts.get("pairs", 0), lengths.get("chat"), lengths.get("pairs"))


def make_forecast(
    recipe: Recipe,
    shape: Architecture,
    place: TargetMachine,
    found: RowCounts,
    known: Mapping[str, Measurement] | None = None,
) -> Forecast:
    """The whole forecast, in a few milliseconds. `known`: measurements on this computer, see `measurements.py`."""
    data = dataset_stats(found)
    room = replace(place.room, known=MeasuredMemory.for_device(place.id, known or {}))
    setups = setups_with_skip_layers(recipe, shape, room, data)
    stages = {stage: room.estimate(setup) for stage, setup in setups.items()}
    suited, too_big = suggest_settings(room, shape, recipe, data)
    other = apply_settings(suited, recipe, shape, room) if suited else recipe
    peak = max(setups, key=lambda stage: stages[stage].upper)

    def takes(one: Recipe) -> int:
        return peak_without_skip_layers(room, setups_with_skip_layers(one, shape, room, data)).middle

    steps = {stage: count_steps(data.row_count(METHODS[stage].rows), recipe.stage_settings(stage)) for stage in setups}
    disk = disk_parts(setups, steps)
    return Forecast(
        device=place.device,
        free=room.free,
        stages=stages,
        verdict=fit_verdict(peak_without_skip_layers(room, setups), room.free),
        values=tuple(explain_settings(recipe, other, suited.reasons, takes)) if suited else (),
        disk=disk,
        disk_free=place.disk_free,
        host_free=place.host_free,
        holders=place.holders,
        suggested=recipe_with_suggestions(recipe, other) if suited else None,
        too_big=too_big,
        notes=(
            *resource_shortages(place, stages[peak].host, disk),
            *forecast_notes(found, [stage for stage, setup in setups.items() if room.known.find(setup)]),
        ),
    )


SetupsByStage = dict[str, StageSetup]


def setups_with_skip_layers(
    recipe: Recipe, shape: Architecture, room: MemoryBudget, data: DatasetStats
) -> SetupsByStage:
    """The memory setup of every stage, with as many kept layers as fit."""
    base, found = base_format(recipe, shape, room), {}
    for stage in recipe.method.stages:
        setup = build_setup(recipe, stage, shape, base, room.device, data.length_quantiles(METHODS[stage].rows).longest)
        keeps = room.device == "cuda" and recipe.memory.skip_layers == "auto"
        found[str(stage)] = with_skip_layers(room, setup) if keeps else setup
    return found


def base_format(recipe: Recipe, shape: Architecture, room: MemoryBudget) -> BaseFormat:
    """The base format that the recipe gets here."""
    return resolve_base_format(recipe.precision, room.device, room.bfloat16, shape.quantised)[0]


def peak_without_skip_layers(room: MemoryBudget, setups: SetupsByStage) -> MemoryEstimate:
    """The peak without layers that are kept only because memory is left."""
    return peak_estimate(room.estimate(replace(setup, skip_layers=0)) for setup in setups.values())


@lru_cache(maxsize=256)
def fit_settings_cached(room: MemoryBudget, shape: Architecture, asked: Recipe, data: DatasetStats) -> FittedSettings:
    return fit_settings(room, shape, asked.method, data, asked)


def suggest_settings(
    room: MemoryBudget, shape: Architecture, recipe: Recipe, data: DatasetStats
) -> tuple[FittedSettings | None, str]:
    """The settings of fitting.py, or why it finds none."""
    try:
        return fit_settings_cached(room, shape, recipe, data), ""
    except DeviceError as error:
        return None, str(error)


def explain_settings(
    recipe: Recipe, other: Recipe, reasons: Mapping[str, str], takes: Callable[[Recipe], int]
) -> Iterator[SettingExplanation]:
    """Every setting with its reason, and the cost of values that differ from the chosen ones."""
    for key, one, usual in compare_settings(recipe, other):
        value = SettingExplanation(key, format_planned_value(one), reasons[key])
        if one == usual:
            yield replace(value, why=dependent_reason(recipe, key) or value.why)
            continue
        without = changes.with_changes(recipe, {key: usual})
        yield replace(value, chosen=format_planned_value(usual), costs=takes(recipe) - takes(without))


def dependent_reason(recipe: Recipe, key: str) -> str:
    """The reason for a value that depends on another one, from the present values; empty for all others."""
    part, _, name = key.partition(".")
    if name == "accumulation":
        settings = getattr(recipe, part)
        total = f"{settings.batch_size} × {settings.accumulation} = {settings.effective_batch} for each step"
        return total + (", the size LoRA learns well with" if settings.effective_batch == EFFECTIVE_BATCH else "")
    if key == "lora.alpha" and recipe.lora.alpha != recipe.lora.rank:
        return f"alpha {recipe.lora.alpha}: the update is scaled by {recipe.lora.alpha / recipe.lora.rank:g}"
    return ""


def apply_settings(suited: FittedSettings, recipe: Recipe, shape: Architecture, room: MemoryBudget) -> Recipe:
    """The recipe with the settings of fitting.py; "auto" stays if it yields the chosen format."""
    found = suited.apply_to_recipe(recipe)
    stays = base_format(recipe, shape, room) == suited.base
    return found.model_copy(update={"precision": recipe.precision}) if stays else found


def compare_settings(recipe: Recipe, other: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Every setting that has a reason: key, value, and fitting.py's value if it chooses one."""
    yield "precision", recipe.precision, other.precision
    for part, decided in FITTED_KEYS.items():
        if part not in ("lora", "memory", *recipe.method.stages):
            continue
        mine, theirs = getattr(recipe, part), getattr(other, part)
        for name in type(mine).model_fields:
            one = getattr(mine, name)
            yield f"{part}.{name}", one, getattr(theirs, name) if name in decided else one


def recipe_with_suggestions(recipe: Recipe, other: Recipe) -> Recipe:
    """The recipe with the values of fitting.py; settings it does not choose stay."""
    return changes.with_changes(
        recipe, {key: usual for key, one, usual in compare_settings(recipe, other) if one != usual}
    )


def resource_shortages(
    place: TargetMachine, host: tuple[MemoryPart, ...], disk: tuple[MemoryPart, ...]
) -> Iterator[str]:
    for name, parts, free in (("main memory", host, place.host_free), ("disk", disk, place.disk_free)):
        if (upper := certain_bytes(parts)) > free:
            yield f"Too little {name}: up to {format_gb(upper)} are needed, {format_gb(free)} are free."


def forecast_notes(found: RowCounts, measured_stages: list[str]) -> Iterator[str]:
    """Limits of the plan's accuracy."""
    if not found.measured:
        yield "Row lengths are guessed from the letters; they are measured once the model is on this computer."
    if measured_stages:
        names = " and ".join(stage.upper() for stage in measured_stages)
        yield f"{names}: memory was measured on this computer for this model and these versions."
