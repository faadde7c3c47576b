"""What a recipe takes on this machine: memory by part, main memory, disk, whether it fits, and a reason for every value.

The command line's `plan` and the page's bar are this one answer. A value that was set by hand is never changed: the answer
says what it costs against the value that the chooser would take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from trainer_core.config import changes
from trainer_core.config.recipe import Recipe
from trainer_core.data import Counts
from trainer_core.errors import DeviceError
from trainer_core.methods.base import DataFacts, Lengths
from trainer_core.methods.steps import planned_steps
from trainer_core.models.architecture import Shape
from trainer_core.planning.fitting import Planned, Room, settings_for, with_kept_layers
from trainer_core.planning.measurements import Known
from trainer_core.planning.memory_model import (
    Base,
    Estimate,
    Measurement,
    Part,
    Setup,
    Verdict,
    disk_parts,
    most,
    settled,
    setup_of,
    surely,
    verdict,
)
from trainer_core.planning.recommendations import EFFECTIVE_BATCH
from trainer_core.system.hardware import GIB, Machine, gb, reserve

STEP = 64 * 2**20
"""Free memory is taken in whole steps of this many bytes, so that a plan does not flicker with every other program."""
WORTH_SAYING = 0.005
"""An edit that moves less than this share of the whole is not said to cost anything."""
CHOSEN = {
    "lora": ("rank", "alpha", "rslora", "dropout"),
    "sft": ("batch_size", "accumulation", "max_length", "epochs", "learning_rate"),
    "dpo": ("batch_size", "accumulation", "max_length", "epochs", "learning_rate", "beta"),
    "memory": ("offload_embedding",),
}
"""What the chooser decides; every other setting is as the recipe has it, for the reason in its own description."""


@dataclass(frozen=True)
class Value:
    """One setting: its key in the recipe, its value, and why. Where the chooser would take another: that one, and the bytes
    that the present one takes more (less, if negative)."""

    key: str
    value: str
    why: str
    chosen: str = ""
    costs: int = 0

    @property
    def sentence(self) -> str:
        """`2,048 instead of 512: 3.1 GB more. length 512: covers every row`; the reason alone where nothing else is meant."""
        if not self.chosen:
            return self.why
        more = f"{gb(abs(self.costs))} {'more' if self.costs > 0 else 'less'}. " if abs(self.costs) > 0.05 * GIB else ""
        return f"{self.value} instead of {self.chosen}: {more}{self.why}"


@dataclass(frozen=True)
class Forecast:
    """One recipe on one machine. Bytes throughout.

    device: in words. stages: the peak of each. free: what may be planned with. holders: who holds the rest, in words.
    suggested: the chooser's whole recipe, or None where nothing fits; then `too_big` says why.
    """

    device: str
    free: int
    stages: Mapping[str, Estimate]
    verdict: Verdict
    values: tuple[Value, ...]
    disk: tuple[Part, ...]
    disk_free: int
    host_free: int
    holders: str = ""
    suggested: Recipe | None = None
    too_big: str = ""
    notes: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """The stage with the highest peak."""
        return max(self.stages, key=lambda stage: self.stages[stage].upper)

    @property
    def peak(self) -> Estimate:
        """What the run needs."""
        return self.stages[self.stage]

    @property
    def edits(self) -> tuple[Value, ...]:
        """What is not as the chooser would have it and moves memory; the most expensive first."""
        costly = [one for one in self.values if one.chosen and abs(one.costs) > WORTH_SAYING * self.peak.middle]
        return tuple(sorted(costly, key=lambda one: -one.costs))


@dataclass(frozen=True)
class Place:
    """Where a run would live, in words and bytes."""

    room: Room
    device: str
    holders: str = ""
    host_free: int = 0
    disk_free: int = 0
    id: str = ""
    """The card's UUID, or the processor's name."""

    @classmethod
    def of(cls, machine: Machine, own_pids: tuple[int, ...] = (), disk_free: int = 0, use_card: bool = True) -> Place:
        """The machine as it is now; memory of our own workers counts as free."""
        card = machine.best if use_card else None
        room = Room.of(machine if card else replace(machine, gpus=()), own_pids)
        room = replace(room, free=room.free // STEP * STEP)
        words = f"{card.memory_sentence} {gb(reserve(card.total_bytes))} stay in reserve." if card else ""
        name, own = (card.name, card.uuid) if card else (machine.cpu.name, machine.cpu.name)
        return cls(room, name, words, machine.cpu.budget_bytes(), disk_free, own)

    @classmethod
    def imagined(cls, gib: float, machine: Machine, disk_free: int = 0) -> Place:
        """An empty card of this size in this machine."""
        total = round(gib * GIB)
        room = Room("cuda", max(0, total - reserve(total)))
        return cls(room, f"an empty card of {gib:g} GB", "", machine.cpu.budget_bytes(), disk_free)


def facts(found: Counts) -> DataFacts:
    """Row counts and lengths as the chooser wants them."""
    lengths = {stage: Lengths(points) for stage, points in found.lengths.items()}
    return DataFacts(found.sft, found.dpo, lengths.get("sft"), lengths.get("dpo"))


def forecast(
    recipe: Recipe, shape: Shape, place: Place, found: Counts, known: Mapping[str, Measurement] | None = None
) -> Forecast:
    """The whole answer; a few milliseconds. `known`: what was measured on this computer, see `measured.recall`."""
    data = facts(found)
    room = replace(place.room, known=Known.on(place.id, known or {}))
    setups = setups_of(recipe, shape, room, data)
    stages = {stage: room.takes(setup) for stage, setup in setups.items()}
    suited, too_big = suggestion(room, shape, recipe, data)
    other = applied(suited, recipe, shape, room) if suited else recipe
    peak = max(setups, key=lambda stage: stages[stage].upper)

    def takes(one: Recipe) -> int:
        return needed(room, setups_of(one, shape, room, data)).middle

    steps = {stage: planned_steps(data.count(stage), getattr(recipe, stage)) for stage in setups}
    disk = disk_parts(setups, steps)
    return Forecast(
        device=place.device,
        free=room.free,
        stages=stages,
        verdict=verdict(needed(room, setups), room.free),
        values=tuple(values(recipe, other, suited.reasons, takes)) if suited else (),
        disk=disk,
        disk_free=place.disk_free,
        host_free=place.host_free,
        holders=place.holders,
        suggested=suggested(recipe, other) if suited else None,
        too_big=too_big,
        notes=(
            *shortages(place, stages[peak].host, disk),
            *notes(found, [stage for stage, setup in setups.items() if room.known.of(setup)]),
        ),
    )


Setups = dict[str, Setup]


def setups_of(recipe: Recipe, shape: Shape, room: Room, data: DataFacts) -> Setups:
    """Every stage as memory sees it, with as many kept layers as there is room for."""
    base, found = base_of(recipe, shape, room), {}
    for stage in recipe.method.stages:
        setup = setup_of(recipe, stage, shape, base, room.device, data.lengths(stage).longest)
        keeps = room.device == "cuda" and recipe.memory.skip_layers == "auto"
        found[str(stage)] = with_kept_layers(room, setup) if keeps else setup
    return found


def base_of(recipe: Recipe, shape: Shape, room: Room) -> Base:
    """The format that the recipe's base would have here."""
    return settled(recipe.precision, room.device, room.bfloat16, shape.quantised)[0]


def needed(room: Room, setups: Setups) -> Estimate:
    """The peak without layers that are only kept because memory is left for them."""
    return most(room.takes(replace(setup, skip_layers=0)) for setup in setups.values())


@lru_cache(maxsize=256)
def chosen(room: Room, shape: Shape, asked: Recipe, data: DataFacts) -> Planned:
    return settings_for(room, shape, asked.method, data, asked)


def suggestion(room: Room, shape: Shape, recipe: Recipe, data: DataFacts) -> tuple[Planned | None, str]:
    """What the chooser would take, or why it can take nothing."""
    try:
        return chosen(room, shape, recipe, data), ""
    except DeviceError as error:
        return None, str(error)


def values(
    recipe: Recipe, other: Recipe, reasons: Mapping[str, str], takes: Callable[[Recipe], int]
) -> Iterator[Value]:
    """Every setting with its reason, and the cost of those that are not as chosen."""
    for key, one, usual in compared(recipe, other):
        value = Value(key, spelled(one), reasons[key])
        if one == usual:
            yield replace(value, why=standing(recipe, key) or value.why)
            continue
        without = changes.changed(recipe, {key: usual})
        yield replace(value, chosen=spelled(usual), costs=takes(recipe) - takes(without))


def standing(recipe: Recipe, key: str) -> str:
    """The reason for a value that depends on another one, made from the values that stand there; nothing for all others."""
    part, _, name = key.partition(".")
    if name == "accumulation":
        settings = getattr(recipe, part)
        total = f"{settings.batch_size} × {settings.accumulation} = {settings.effective_batch} for each step"
        return total + (", the size LoRA learns well with" if settings.effective_batch == EFFECTIVE_BATCH else "")
    if key == "lora.alpha" and recipe.lora.alpha != recipe.lora.rank:
        return f"alpha {recipe.lora.alpha}: the update is scaled by {recipe.lora.alpha / recipe.lora.rank:g}"
    return ""


def applied(suited: Planned, recipe: Recipe, shape: Shape, room: Room) -> Recipe:
    """The recipe with the chooser's settings; "auto" stays where it stands for the format that was chosen."""
    found = suited.applied(recipe)
    stays = base_of(recipe, shape, room) == suited.base
    return found.model_copy(update={"precision": recipe.precision}) if stays else found


def compared(recipe: Recipe, other: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Every setting that has a reason: its key, its value, and the chooser's where that decides it."""
    yield "precision", recipe.precision, other.precision
    for part, decided in CHOSEN.items():
        if part not in ("lora", "memory", *recipe.method.stages):
            continue
        mine, theirs = getattr(recipe, part), getattr(other, part)
        for name in type(mine).model_fields:
            one = getattr(mine, name)
            yield f"{part}.{name}", one, getattr(theirs, name) if name in decided else one


def suggested(recipe: Recipe, other: Recipe) -> Recipe:
    """The recipe with the chooser's values, and everything it does not decide as it was."""
    return changes.changed(recipe, {key: usual for key, one, usual in compared(recipe, other) if one != usual})


def spelled(value: Any) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def shortages(place: Place, host: tuple[Part, ...], disk: tuple[Part, ...]) -> Iterator[str]:
    """What else than the card's memory is too little."""
    for name, parts, free in (("main memory", host, place.host_free), ("disk", disk, place.disk_free)):
        if (upper := surely(parts)) > free:
            yield f"Too little {name}: up to {gb(upper)} are needed, {gb(free)} are free."


def notes(found: Counts, measured_stages: list[str]) -> Iterator[str]:
    """How sure the plan is."""
    if not found.measured:
        yield "Row lengths are guessed from the letters; they are measured once the model is on this computer."
    if measured_stages:
        names = " and ".join(stage.upper() for stage in measured_stages)
        yield f"{names}: memory was measured on this computer for this model and these versions."
