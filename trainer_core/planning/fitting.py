"""Finds settings that fit: recommendations.py knows what the data needs, memory_model.py what it costs.

If memory is short, the setting that costs least is reduced first; spare memory goes into speed. The effective batch never
changes: memory only decides how it is split.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import METHODS, STAGE_SETTINGS, Lora, MemoryOptions, MethodChain, Recipe
from trainer_core.errors import DeviceError
from trainer_core.methods.base import EFFECTIVE_BATCH, Advice, DatasetStats, Training
from trainer_core.models.architecture import Architecture
from trainer_core.planning.measurements import MeasuredMemory
from trainer_core.planning.memory_model import (
    LONG_ROW_TOKENS,
    SAFE_SHARE,
    BaseFormat,
    Device,
    MemoryEstimate,
    StageSetup,
    build_setup,
    embedding_offload_bytes,
    estimate_memory,
    resolve_base_format,
    with_batch,
)
from trainer_core.planning.recommendations import (
    FitLimits,
    advice_reasons,
    advice_values,
    describe_length,
    recommend_lora,
    recommend_training,
)
from trainer_core.runs.events import Stage
from trainer_core.schema import StrictModel
from trainer_core.system.format import format_gb
from trainer_core.system.hardware import Machine
from trainer_core.texts import Text

BUSY_TOKENS: dict[Device, int] = {"cuda": 8192, "cpu": 1024}
"""Tokens per micro-batch above which a device gains little: unpacking NF4 costs 4 to 5 % of the time at 8,192 on CUDA."""

FIT_LIMITS = (
    FitLimits(),
    FitLimits(share=0.95),
    *(FitLimits(0.95, rank) for rank in (64, 32, 16, 8)),
    *(FitLimits(share, rank=8) for share in (0.9, 0.75, 0.5)),
    *(FitLimits(0.5, rank=8, tokens=tokens) for tokens in (1024, 512, 256)),
)
"""Concessions in this order: the longest rows, rank, then more of the rows; no stage concedes more than it must."""
FIT_ATTEMPTS = ((FitLimits(), False), *((restraint, True) for restraint in FIT_LIMITS))
"""Limits, and whether the token table is in main memory. Offloading keeps the result the same, so it precedes any concession."""

StageSetups = dict[str, StageSetup]
"""Stage → its setup."""
FitCandidate = tuple[StageSetups, dict[str, str]]
"""Setups and reasons."""


@dataclass(frozen=True)
class MemoryBudget:
    """Memory for a run: free bytes on a card or in main memory, and earlier measurements there."""

    device: Device
    free: int
    bfloat16: bool = False
    known: MeasuredMemory = MeasuredMemory()

    @classmethod
    def for_machine(cls, machine: Machine, own_pids: Iterable[int] = ()) -> MemoryBudget:
        """The machine's best card, or its processor. Memory of our own workers counts as free."""
        if machine.best_gpu:
            return cls("cuda", machine.best_gpu.budget_bytes(own_pids))
        return cls("cpu", machine.cpu.budget_bytes(), machine.cpu.bfloat16)

    def estimate(self, setup: StageSetup) -> MemoryEstimate:
        """The peak of a stage here, measured or estimated."""
        return estimate_memory(setup, measurement=self.known.find(setup))

    def fits(self, setup: StageSetup) -> bool:
        """The estimate is at most about 85 % of the free bytes, and its upper end at most all of them."""
        planned = self.estimate(setup)
        return planned.upper <= self.free and planned.middle <= SAFE_SHARE * self.free

    def fits_all(self, plan: StageSetups) -> bool:
        return all(self.fits(setup) for setup in plan.values())


@dataclass(frozen=True)
class FittedSettings:
    """Settings, their memory, and a reason for each, keyed as in the recipe (`lora.rank`, `sft.batch_size`, …).

    `skip_layers`: by stage, layers not recomputed because memory is left. `memory`: offloads the token table if needed.
    """

    base: BaseFormat
    lora: Lora
    stages: Mapping[str, Training]
    """Every method's settings by key; defaults for methods that are not in the run."""
    memory: MemoryOptions
    skip_layers: dict[str, int]
    estimates: dict[str, MemoryEstimate]
    reasons: dict[str, str]

    def apply_to_recipe(self, recipe: Recipe) -> Recipe:
        memory = recipe.memory.model_copy(update={"offload_embedding": self.memory.offload_embedding})
        parts = {"lora": self.lora, "memory": memory, **self.stages}
        return recipe.model_copy(update={"precision": self.base, **parts})


def fit_settings(
    room: MemoryBudget, shape: Architecture, method: MethodChain, data: DatasetStats, asked: Recipe | None = None
) -> FittedSettings:
    """The settings for this data on this device; spare memory is spent on speed.

    Args:
        asked: its settings apply wherever nothing is chosen here, such as packing or DoRA.

    Raises:
        DeviceError: even the smallest settings do not fit; with the bytes needed and free.
    """
    asked = (asked or Recipe()).model_copy(update={"method": method})
    plan, reasons = find_fitting_plan(room, shape, asked, data)
    spend = use_spare_memory if room.device == "cuda" else use_spare_cpu_memory
    return build_fitted_settings(room, spend(room, plan, reasons), reasons)


@dataclass(frozen=True)
class FitRequest:
    """Input of a plan: the model in this format, the recipe as asked, the data."""

    shape: Architecture
    base: BaseFormat
    asked: Recipe
    data: DatasetStats


def find_fitting_plan(room: MemoryBudget, shape: Architecture, asked: Recipe, data: DatasetStats) -> FitCandidate:
    """The first plan at batch 1 that fits, and its reasons: what the data needs, or less step by step."""
    for base, why in base_formats(room, shape):
        request = FitRequest(shape, base, asked, data)
        for restraint, away in FIT_ATTEMPTS:
            if found := least_limited_plan(room, request, restraint, away):
                plan, reasons = found
                return plan, {"precision": why, "memory.offload_embedding": embedding_reason(plan)} | reasons
            if base != "nf4":  # a smaller format is a milder concession than a shorter length
                break
    least = candidates(room, request, dict.fromkeys(asked.method.stages, restraint), away)
    raise DeviceError(too_small_text(room, least))


def least_limited_plan(
    room: MemoryBudget, request: FitRequest, restraint: FitLimits, away: bool
) -> FitCandidate | None:
    """The plan within these limits, if it fits; then each stage at its own largest length, so that none is cut for another."""
    each = dict.fromkeys(request.asked.method.stages, restraint)
    found = first_fitting(room, candidates(room, request, each, away))
    milder = [replace(one, rank=restraint.rank) for one in FIT_LIMITS[: FIT_LIMITS.index(restraint)]]
    for stage in each if found else ():
        for one in dict.fromkeys(milder):
            if longer := first_fitting(room, candidates(room, request, each | {stage: one}, away)):
                found, each = longer, each | {stage: one}
                break
    return found


def first_fitting(room: MemoryBudget, some: Iterable[FitCandidate]) -> FitCandidate | None:
    return next((draft for draft in some if room.fits_all(draft[0])), None)


def candidates(
    room: MemoryBudget, request: FitRequest, each: Mapping[Stage, FitLimits], away: bool
) -> Iterator[FitCandidate]:
    """The plan within these limits; for short rows, also with 512 tokens in all stages, or in the first alone.

    A model loaded for that length keeps layer inputs in main memory, which may save the card more than longer rows cost.
    """
    plan, reasons = plan_from_data(room, request, each, away)
    yield plan, reasons
    if (
        room.device == "cuda"
        and request.shape.context >= LONG_ROW_TOKENS
        and not any(setup.is_long for setup in plan.values())
    ):
        for stages in (tuple(plan), tuple(plan)[:1]):
            yield with_long_rows(plan, stages), reasons | long_row_reasons(plan, stages, request.data)


def base_formats(room: MemoryBudget, shape: Architecture) -> Iterator[tuple[BaseFormat, str]]:
    """This device's default format, then the smaller ones."""
    base, why = resolve_base_format("auto", room.device, room.bfloat16, shape.quantised)
    yield base, str(why)
    sizes: tuple[BaseFormat, ...] = ("fp32", "bf16", "nf4")
    for smaller in sizes[sizes.index(base) + 1 :]:
        yield smaller, f"{smaller} base: a larger format does not fit"


def plan_from_data(
    room: MemoryBudget, request: FitRequest, each: Mapping[Stage, FitLimits], away: bool
) -> FitCandidate:
    """Every stage at batch 1 as the data needs it within its limits, and why. `away`: the token table in main memory."""
    asked, data = request.asked, request.data
    advice: dict[str, Advice] = {"lora": recommend_lora(asked.method, data, next(iter(each.values())))}
    lora = Lora.model_validate(asked.lora.model_dump() | advice_values(advice["lora"]))
    for stage, restraint in each.items():
        advice[stage] = recommend_training(stage, request.shape, lora, data, restraint)
    decided = {f"{part}.{name}": value for part, one in advice.items() for name, value in advice_values(one).items()}
    recipe = with_changes(asked, decided | {"memory.offload_embedding": "on" if away else "auto"})
    plan: StageSetups = {
        stage: build_setup(
            recipe, stage, request.shape, request.base, room.device, data.length_quantiles(METHODS[stage].rows).longest
        )
        for stage in each
    }
    return plan, {key: why for part, one in advice.items() for key, why in advice_reasons(part, one).items()}


def with_long_rows(plan: StageSetups, stages: Iterable[str]) -> StageSetups:
    """The plan with 512 tokens in these stages; the whole model is loaded for that length."""
    longer = {stage: plan[stage].training.model_copy(update={"max_length": LONG_ROW_TOKENS}) for stage in stages}
    return {
        stage: replace(setup, training=longer.get(stage, setup.training), loads=LONG_ROW_TOKENS)
        for stage, setup in plan.items()
    }


def long_row_reasons(plan: StageSetups, stages: Iterable[str], data: DatasetStats) -> dict[str, str]:
    why = "from 512 tokens on, what lies between the layers is kept in main memory: that takes less of the card than {}"
    return {
        f"{stage}.max_length": f"{describe_length(data.length_quantiles(METHODS[stage].rows), LONG_ROW_TOKENS)}; "
        f"{why.format(plan[stage].training.max_length)}"
        for stage in stages
    }


def embedding_reason(plan: StageSetups) -> str:
    setup = next(iter(plan.values()))
    if setup.offload_embedding:
        return (
            f"on: the token table's {format_gb(embedding_offload_bytes(setup))} lie in main "
            f"memory, and the result stays the same"
        )
    if setup.device == "cpu":
        return "the processor has one memory"
    return "left to Unsloth: the plan needs no room from it"


def too_small_text(room: MemoryBudget, some: Iterable[FitCandidate]) -> Text:
    """The smallest plan, as numbers for an error."""
    needed, plan = min(((peak_bytes(room, plan), plan) for plan, _ in some), key=lambda one: one[0])
    setup = next(iter(plan.values()))
    numbers = {"base": setup.base, "tokens": setup.training.max_length, "rank": setup.lora.rank}
    settings = Text("fitting.offloaded" if setup.offload_embedding else "fitting.settings", **numbers)
    if room.device == "cuda":
        code = "fitting.unsafe_card" if needed <= room.free else "fitting.small_card"
    else:
        code = "fitting.unsafe_memory" if needed <= room.free else "fitting.small_memory"
    return Text(code, needed=format_gb(needed), free=format_gb(room.free), settings=settings)


def peak_bytes(room: MemoryBudget, plan: StageSetups) -> int:
    return max(room.estimate(setup).upper for setup in plan.values())


def use_spare_memory(room: MemoryBudget, plan: StageSetups, reasons: dict[str, str]) -> StageSetups:
    """In this order: tokens per micro-batch up to 8,192, a 16-bit base, layers not recomputed, more tokens."""
    plan = {stage: largest_batch(room, setup, BUSY_TOKENS["cuda"]) for stage, setup in plan.items()}
    plan = try_16_bit_base(room, plan, reasons)
    plan = {stage: with_skip_layers(room, setup) for stage, setup in plan.items()}
    plan = {stage: largest_batch(room, setup) for stage, setup in plan.items()}
    for stage, setup in plan.items():
        reasons |= batch_reasons(stage, setup)
        reasons[f"{stage}.skip_layers"] = skip_layers_reason(setup)
    return plan


def use_spare_cpu_memory(room: MemoryBudget, plan: StageSetups, reasons: dict[str, str]) -> StageSetups:
    plan = {stage: largest_batch(room, setup, BUSY_TOKENS["cpu"]) for stage, setup in plan.items()}
    for stage, setup in plan.items():
        reasons |= batch_reasons(stage, setup)
        reasons[f"{stage}.skip_layers"] = "nothing is recomputed on the processor"
    return plan


def largest_batch(room: MemoryBudget, setup: StageSetup, tokens: float = math.inf) -> StageSetup:
    """Double the batch while it fits within `tokens` and the effective batch."""
    larger = with_batch(setup, setup.training.batch_size * 2, EFFECTIVE_BATCH)
    if larger.training.batch_size > EFFECTIVE_BATCH or larger.batch_tokens > tokens or not room.fits(larger):
        return setup
    return largest_batch(room, larger, tokens)


def try_16_bit_base(room: MemoryBudget, plan: StageSetups, reasons: dict[str, str]) -> StageSetups:
    """A 16-bit base if every stage fits with it; a repository in 4 bit stays as it is."""
    whole = {stage: replace(setup, base="bf16") for stage, setup in plan.items()}
    if any(setup.shape.quantised for setup in plan.values()):
        reasons["precision"] = "the model comes in 4 bit"
        return plan
    if not room.fits_all(whole):
        reasons["precision"] = "4-bit base: a 16-bit one does not fit beside these batches"
        return plan
    reasons["precision"] = "16-bit base: it fits as well, and nothing has to be unpacked (1.1 to 1.3 times as fast)"
    return whole


def with_skip_layers(room: MemoryBudget, setup: StageSetup) -> StageSetup:
    counts = range(1, setup.shape.layers + 1)
    held = bisect_right(counts, False, key=lambda count: not room.fits(replace(setup, skip_layers=count)))
    return replace(setup, skip_layers=held)


def skip_layers_reason(setup: StageSetup) -> str:
    if not setup.skip_layers:
        return "every layer is recomputed: there is no memory to keep one"
    about = f"about {setup.skip_layers} of {setup.shape.layers} layers kept instead of recomputed"
    return f"{about}: memory is left for them; how many in fact is settled after the first step"


def batch_reasons(stage: str, setup: StageSetup) -> dict[str, str]:
    training, larger = setup.training, with_batch(setup, setup.training.batch_size * 2, EFFECTIVE_BATCH)
    if training.batch_size == EFFECTIVE_BATCH:
        why = "the whole effective batch at once"
    elif larger.batch_tokens > BUSY_TOKENS[setup.device]:
        why = f"{setup.batch_tokens:,} tokens at once keep the device busy"
    else:
        why = f"{larger.training.batch_size} would not fit safely"
    total = f"{training.batch_size} × {training.accumulation} = {EFFECTIVE_BATCH} for each step"
    return {
        f"{stage}.batch_size": f"batch {training.batch_size}: {why}",
        f"{stage}.accumulation": f"{total}, the size LoRA learns well with",
    }


def build_fitted_settings(room: MemoryBudget, plan: StageSetups, reasons: dict[str, str]) -> FittedSettings:
    """The plan as settings. Values without advice keep their default and its own description as reason."""
    one = next(iter(plan.values()))
    parts: dict[str, type[StrictModel]] = {"lora": Lora, "memory": MemoryOptions, **STAGE_SETTINGS}
    told = {
        f"{part}.{name}": field.description or ""
        for part, model in parts.items()
        if part in ("lora", "memory", *plan)
        for name, field in model.model_fields.items()
    }
    return FittedSettings(
        base=one.base,
        lora=one.lora,
        stages={
            # copies with changes are not validated by pydantic
            key: settings.model_validate(plan[key].training.model_dump()) if key in plan else settings()
            for key, settings in STAGE_SETTINGS.items()
        },
        memory=MemoryOptions(offload_embedding="on" if one.offload_embedding else "auto"),
        skip_layers={stage: setup.skip_layers for stage, setup in plan.items()},
        estimates={stage: room.estimate(setup) for stage, setup in plan.items()},
        reasons=told | reasons,
    )
