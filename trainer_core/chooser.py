"""Which settings fit this data, model and free memory: advice.py says what the data asks for, vram.py what it takes.

Where memory is short, what costs least is given up first; what is left is spent on speed. The effective batch never
moves: memory only decides how it is split.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from trainer_core.advice import (
    EFFECTIVE_BATCH,
    DataFacts,
    Restraint,
    bare,
    lora_for,
    named,
    training_for,
)
from trainer_core.config import Dpo, Lora, Memory, Method, Recipe, Sft, Strict
from trainer_core.errors import DeviceError
from trainer_core.hardware import Machine, gb
from trainer_core.shape import Shape
from trainer_core.vram import SAFE_SHARE, Base, Device, Estimate, Setup, estimate, moved_bytes, settled, with_batch

BUSY_TOKENS: dict[Device, int] = {"cuda": 8192, "cpu": 1024}
"""Tokens per micro-batch above which a device gains little: unpacking NF4 costs 4 to 5 % of the time at 8,192 on CUDA."""

RESTRAINTS = (
    Restraint(),
    Restraint(share=0.95),
    *(Restraint(0.95, rank) for rank in (64, 32, 16, 8)),
    *(Restraint(share, rank=8) for share in (0.9, 0.75, 0.5)),
    *(Restraint(0.5, rank=8, tokens=tokens) for tokens in (1024, 512, 256)),
)
"""What is given up, in this order: the longest rows, rank, longer and longer rows."""
RELIEFS = ((Restraint(), False), *((restraint, True) for restraint in RESTRAINTS))
"""With each: does the token table lie in main memory? That leaves the result as it is, so it comes before all that does not."""

Plan = dict[str, Setup]
"""Stage -> its setup."""


@dataclass(frozen=True)
class Room:
    """Where a run will live: free bytes to plan with, on a card or in the machine's main memory."""

    device: Device
    free: int
    bfloat16: bool = False

    @classmethod
    def of(cls, machine: Machine, own_pids: Iterable[int] = ()) -> Room:
        """The machine's best card; without one, its processor. Memory of our own workers counts as free."""
        if machine.best:
            return cls("cuda", machine.best.budget_bytes(own_pids))
        return cls("cpu", machine.cpu.budget_bytes(), machine.cpu.bfloat16)

    def holds(self, setup: Setup) -> bool:
        """Safely: about 85 % of what is free, and the upper estimate not above it."""
        planned = estimate(setup)
        return planned.upper <= self.free and planned.middle <= SAFE_SHARE * self.free

    def holds_all(self, plan: Plan) -> bool:
        return all(self.holds(setup) for setup in plan.values())


@dataclass(frozen=True)
class Planned:
    """Settings, what they take, and a reason for each by its name in the recipe (`lora.rank`, `sft.batch_size`, …).

    `skip_layers`: by stage, layers that need not be recomputed because memory is left for them. `memory`: the token table goes
    to main memory where that is needed.
    """

    base: Base
    lora: Lora
    sft: Sft
    dpo: Dpo
    memory: Memory
    skip_layers: dict[str, int]
    estimates: dict[str, Estimate]
    reasons: dict[str, str]

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with these settings."""
        memory = recipe.memory.model_copy(update={"offload_embedding": self.memory.offload_embedding})
        parts = {"lora": self.lora, "sft": self.sft, "dpo": self.dpo, "memory": memory}
        return recipe.model_copy(update={"precision": self.base, **parts})


def settings_for(room: Room, shape: Shape, method: Method, data: DataFacts) -> Planned:
    """The settings for this data on this device, spending what memory is left on speed.

    Raises:
        DeviceError: the model does not fit at its smallest, with the bytes needed and free.
    """
    plan, reasons = fitting(room, shape, method, data)
    spend = spent_on_card if room.device == "cuda" else spent_on_processor
    return planned(spend(room, plan, reasons), reasons)


def fitting(room: Room, shape: Shape, method: Method, data: DataFacts) -> tuple[Plan, dict[str, str]]:
    """The first plan at batch 1 that fits, and why it is so: what the data asks for, or less and less of it."""
    for base, why in bases(room, shape):
        for restraint, away in RELIEFS:
            plan, reasons = by_data(room, shape, method, data, base, restraint)
            plan = with_table_away(plan) if away else plan
            if room.holds_all(plan):
                return plan, {"precision": why, "memory.offload_embedding": table_reason(plan)} | reasons
            if base != "nf4":  # a smaller format costs less than a shorter length
                break
    raise DeviceError(too_small(room, plan))


def bases(room: Room, shape: Shape) -> Iterator[tuple[Base, str]]:
    """The format this device starts with, and the smaller ones."""
    base, why = settled("auto", room.device, room.bfloat16, shape.quantised)
    yield base, why
    sizes: tuple[Base, ...] = ("fp32", "bf16", "nf4")
    for smaller in sizes[sizes.index(base) + 1 :]:
        yield smaller, f"{smaller} base: a larger format does not fit"


def by_data(
    room: Room, shape: Shape, method: Method, data: DataFacts, base: Base, restraint: Restraint
) -> tuple[Plan, dict[str, str]]:
    """Every stage at batch 1 as the data asks for it within the restraint, and why."""
    advice = lora_for(method, data, restraint)
    lora, reasons, plan = Lora.model_validate(bare(advice)), named("lora", advice), {}
    for stage in method.stages:
        advice = training_for(stage, shape, lora, data, restraint)
        reasons |= named(stage, advice)
        plan[str(stage)] = Setup(
            shape=shape,
            lora=lora,
            training=(Sft if stage == "sft" else Dpo).model_validate(bare(advice)),
            base=base,
            device=room.device,
            reference=stage == "dpo" and "sft" in method.stages,
            longest=data.lengths(stage).longest,
        )
    return plan, reasons


def with_table_away(plan: Plan) -> Plan:
    """The token table in main memory, where there are two memories and the table is not the output head as well."""
    return {
        stage: replace(setup, offload_embedding=setup.device == "cuda" and not setup.shape.tied)
        for stage, setup in plan.items()
    }


def table_reason(plan: Plan) -> str:
    setup = next(iter(plan.values()))
    if setup.offload_embedding:
        return f"on: the token table's {gb(moved_bytes(setup))} lie in main memory, and the result stays the same"
    if setup.device == "cpu":
        return "the processor has one memory"
    return "left to Unsloth: the plan needs no room from it"


def too_small(room: Room, plan: Plan) -> str:
    needed = max(estimate(setup).upper for setup in plan.values())
    setup = next(iter(plan.values()))
    at = f"{setup.base} base, batch 1, {setup.training.max_length} tokens, rank {setup.lora.rank}"
    at += ", embedding in main memory" if setup.offload_embedding else ""
    where = "on the card" if room.device == "cuda" else "of main memory"
    unsafe = ": too little to be safe" if needed <= room.free else ""
    return (
        f"This model needs up to {gb(needed)} at its smallest ({at}), and {gb(room.free)} {where} are free{unsafe}. "
        "Take a smaller model, or close other programs that hold memory."
    )


def spent_on_card(room: Room, plan: Plan, reasons: dict[str, str]) -> Plan:
    """In this order: tokens per micro-batch to 8,192, a 16-bit base, layers kept instead of recomputed, more tokens."""
    plan = {stage: grown(room, setup, BUSY_TOKENS["cuda"]) for stage, setup in plan.items()}
    plan = with_whole_base(room, plan, reasons)
    plan = {stage: with_kept_layers(room, setup) for stage, setup in plan.items()}
    plan = {stage: grown(room, setup) for stage, setup in plan.items()}
    for stage, setup in plan.items():
        reasons |= batch_reasons(stage, setup)
        reasons[f"{stage}.skip_layers"] = kept_reason(setup)
    return plan


def spent_on_processor(room: Room, plan: Plan, reasons: dict[str, str]) -> Plan:
    plan = {stage: grown(room, setup, BUSY_TOKENS["cpu"]) for stage, setup in plan.items()}
    for stage, setup in plan.items():
        reasons |= batch_reasons(stage, setup)
        reasons[f"{stage}.skip_layers"] = "nothing is recomputed on the processor"
    return plan


def grown(room: Room, setup: Setup, tokens: float = math.inf) -> Setup:
    """The batch doubled as often as it fits, within so many tokens and the effective batch."""
    larger = with_batch(setup, setup.training.batch_size * 2, EFFECTIVE_BATCH)
    if larger.training.batch_size > EFFECTIVE_BATCH or larger.tokens > tokens or not room.holds(larger):
        return setup
    return grown(room, larger, tokens)


def with_whole_base(room: Room, plan: Plan, reasons: dict[str, str]) -> Plan:
    """A 16-bit base if every stage fits with it; a repository that is in 4 bit stays as it is."""
    whole = {stage: replace(setup, base="bf16") for stage, setup in plan.items()}
    if any(setup.shape.quantised for setup in plan.values()):
        reasons["precision"] = "the model comes in 4 bit"
        return plan
    if not room.holds_all(whole):
        reasons["precision"] = "4-bit base: a 16-bit one does not fit beside these batches"
        return plan
    reasons["precision"] = "16-bit base: it fits as well, and nothing has to be unpacked (1.1 to 1.3 times as fast)"
    return whole


def with_kept_layers(room: Room, setup: Setup) -> Setup:
    counts = range(1, setup.shape.layers + 1)
    held = bisect_right(counts, False, key=lambda count: not room.holds(replace(setup, skip_layers=count)))
    return replace(setup, skip_layers=held)


def kept_reason(setup: Setup) -> str:
    if not setup.skip_layers:
        return "every layer is recomputed: there is no memory to keep one"
    about = f"about {setup.skip_layers} of {setup.shape.layers} layers kept instead of recomputed"
    return f"{about}: memory is left for them; how many in fact is settled after the first step"


def batch_reasons(stage: str, setup: Setup) -> dict[str, str]:
    training, larger = setup.training, with_batch(setup, setup.training.batch_size * 2, EFFECTIVE_BATCH)
    if training.batch_size == EFFECTIVE_BATCH:
        why = "the whole effective batch at once"
    elif larger.tokens > BUSY_TOKENS[setup.device]:
        why = f"{setup.tokens:,} tokens at once keep the device busy"
    else:
        why = f"{larger.training.batch_size} would not fit safely"
    total = f"{training.batch_size} × {training.accumulation} = {EFFECTIVE_BATCH} for each step"
    return {
        f"{stage}.batch_size": f"batch {training.batch_size}: {why}",
        f"{stage}.accumulation": f"{total}, the size LoRA learns well with",
    }


def planned(plan: Plan, reasons: dict[str, str]) -> Planned:
    """The plan as settings. What nothing spoke for keeps its default and the reason in its own description."""
    one = next(iter(plan.values()))
    sft = plan["sft"].training if "sft" in plan else Sft()
    dpo = plan["dpo"].training if "dpo" in plan else Dpo()
    parts: dict[str, type[Strict]] = {"lora": Lora, "sft": Sft, "dpo": Dpo, "memory": Memory}
    told = {
        f"{part}.{name}": field.description or ""
        for part, model in parts.items()
        if part in ("lora", "memory", *plan)
        for name, field in model.model_fields.items()
    }
    return Planned(
        base=one.base,
        lora=one.lora,
        sft=Sft.model_validate(sft.model_dump()),  # copies with changes are not checked by pydantic
        dpo=Dpo.model_validate(dpo.model_dump()),
        memory=Memory(offload_embedding="on" if one.offload_embedding else "auto"),
        skip_layers={stage: setup.skip_layers for stage, setup in plan.items()},
        estimates={stage: estimate(setup) for stage, setup in plan.items()},
        reasons=told | reasons,
    )
