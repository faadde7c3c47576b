"""Memory and disk use of a run, part by part, before anything is loaded. Pure arithmetic on a model's shape.

Countable parts are exact: weights, NF4 blocks, adapters, gradients, optimiser states. The others have a lower and an
upper value, in `memory_coefficients.py`. The formulas follow bitsandbytes, PEFT and Unsloth's checkpointing; published and
measured (processor) peaks are the table in tests/trainer_core/planning/test_memory_model.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from trainer_core.config.recipe import Lora, Precision, Recipe
from trainer_core.methods.base import Training
from trainer_core.methods.steps import SAVES_PER_STAGE
from trainer_core.models.architecture import TARGETS, Architecture, LinearLayer
from trainer_core.planning.memory_coefficients import (
    CPU_HIGH_COEFFICIENTS,
    CPU_LOW_COEFFICIENTS,
    HIGH_COEFFICIENTS,
    LOW_COEFFICIENTS,
    BaseFormat,
    CpuMemoryCoefficients,
    MemoryCoefficients,
)
from trainer_core.runs.checkpoints import KEEP_NEWEST
from trainer_core.runs.events import Stage
from trainer_core.schema import StrictModel
from trainer_core.system.format import GIB, MIB, format_gb
from trainer_core.system.hardware import Machine
from trainer_core.texts import Text

Device = Literal["cuda", "cpu"]
FitLevel = Literal["fits", "tight", "too big"]

SAFE_SHARE = 0.85
"""A plan up to this share of free memory is safe; above it, the first step decides."""
BYTES_PER_NUMBER: dict[BaseFormat, int] = {"nf4": 2, "bf16": 2, "fp32": 4}
"""Bytes per unquantised number: embeddings, norms, biases, activations."""
LONG_ROW_TOKENS = 512
"""From this length Unsloth keeps a model's checkpoints in main memory; below it they stay on the card."""


LOSS_TILE = (4096, 32_768)


class Measurement(StrictModel):
    """A probe's result for a model, format and method: bytes per token of a micro-batch, and the rest that is neither that
    nor exactly known. On a card it excludes the CUDA context."""

    per_token: float
    rest: float


SKIP_LAYERS_PART = "Kept layers"
"""The optional part: layers that are kept only while memory is left."""
MEASUREMENT_MARGIN = (0.97, 1.05)
"""Deviation of the next run from the measurement: other rows, other fragmentation."""


@dataclass(frozen=True)
class StageSetup:
    """One stage of a run, for memory estimates.

    reference: a frozen copy of the adapter before the stage is kept. longest: tokens of the longest row, if known.
    skip_layers: layers kept instead of recomputed. offload_embedding: the token table is in main memory.
    loads: tokens the model is loaded for, the longest of all stages, if more than this stage's own.
    """

    shape: Architecture
    lora: Lora
    training: Training
    base: BaseFormat
    device: Device = "cuda"
    reference: bool = False
    longest: int | None = None
    skip_layers: int = 0
    offload_embedding: bool = False
    loads: int = 0

    @property
    def is_long(self) -> bool:
        """Are rows long enough that checkpoints are kept in main memory? The processor has one memory only."""
        return self.device == "cuda" and max(self.loads, self.training.max_length) >= LONG_ROW_TOKENS

    @property
    def is_slow_path(self) -> bool:
        """Does Unsloth skip its own kernels?"""
        return bool(self.lora.dropout or self.lora.dora)

    @property
    def sequence_tokens(self) -> int:
        """Tokens of one padded row. A packed row is always full."""
        full = self.training.max_length
        return full if self.training.packs_rows or self.longest is None else min(full, self.longest)

    @property
    def batch_tokens(self) -> int:
        """Tokens of one micro-batch. A pair is two sequences."""
        return self.training.batch_size * self.sequence_tokens * self.training.method.sequences


@dataclass(frozen=True)
class MemoryPart:
    """One part of the plan, in bytes."""

    name: str
    lower: int
    upper: int


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of the device by part, plus main memory if the device is a card, in bytes."""

    parts: tuple[MemoryPart, ...]
    host: tuple[MemoryPart, ...] = ()

    @property
    def lower(self) -> int:
        return sum(part.lower for part in self.parts)

    @property
    def upper(self) -> int:
        return sum(part.upper for part in self.parts)

    @property
    def middle(self) -> int:
        """The value shown as "about"."""
        return (self.lower + self.upper) // 2


@dataclass(frozen=True)
class FitVerdict:
    level: FitLevel
    sentence: str


def resolve_base_format(
    precision: Precision, device: Device, bfloat16: bool = False, quantised: bool = False
) -> tuple[BaseFormat, Text]:
    """The format that "auto" selects, and why. `bfloat16`: the processor computes in it natively."""
    if precision != "auto":
        return precision, Text("precision.chosen")
    if device == "cuda":
        return "nf4", Text("precision.gpu")
    if quantised:
        return "nf4", Text("precision.quantised_model")
    if bfloat16:
        return "bf16", Text("precision.bfloat16_units")
    return "fp32", Text("precision.no_bfloat16_units")


def setups_for_machine(
    recipe: Recipe, shape: Architecture, machine: Machine, longest: dict[str, int] | None = None
) -> dict[str, StageSetup]:
    """One setup per stage of a recipe on this machine's best card, or its processor. `longest`: tokens per stage."""
    device: Device = "cuda" if machine.best_gpu else "cpu"
    base, _ = resolve_base_format(recipe.precision, device, machine.cpu.bfloat16, shape.quantised)
    return {
        stage: build_setup(recipe, stage, shape, base, device, (longest or {}).get(stage))
        for stage in recipe.method.stages
    }


def build_setup(
    recipe: Recipe, stage: Stage, shape: Architecture, base: BaseFormat, device: Device, longest: int | None = None
) -> StageSetup:
    """One stage of a recipe as a setup. A token table tied to the output head is never offloaded."""
    stages = recipe.method.stages
    training: Training = recipe.stage_settings(stage)
    return StageSetup(
        shape=shape,
        lora=recipe.lora,
        training=training,
        base=base,
        device=device,
        reference=training.method.needs_reference and stage != stages[0],
        longest=longest,
        offload_embedding=device == "cuda" and recipe.memory.offload_embedding == "on" and not shape.tied,
        loads=max(recipe.stage_settings(name).max_length for name in stages),
    )


def estimate_memory(
    setup: StageSetup,
    low: MemoryCoefficients = LOW_COEFFICIENTS,
    high: MemoryCoefficients = HIGH_COEFFICIENTS,
    measurement: Measurement | None = None,
) -> MemoryEstimate:
    """The peak of one stage. A measurement replaces the coefficients, which a caller may also pass (CUDA)."""
    if measurement:
        host = host_parts(setup) if setup.device == "cuda" else ()
        return MemoryEstimate(
            make_memory_parts(*(parts_from_measurement(setup, measurement, at) for at in (0, 1))), host
        )
    if setup.device == "cpu":
        return MemoryEstimate(
            make_memory_parts(cpu_parts(setup, CPU_LOW_COEFFICIENTS), cpu_parts(setup, CPU_HIGH_COEFFICIENTS))
        )
    return MemoryEstimate(make_memory_parts(cuda_parts(setup, low), cuda_parts(setup, high)), host_parts(setup))


def fit_verdict(estimate: MemoryEstimate, free: int) -> FitVerdict:
    """Fits: at most about 85 % of the free bytes, and never more than all of them. Otherwise tight, or too big."""
    about, has = format_gb(estimate.middle), format_gb(free)
    if estimate.middle <= SAFE_SHARE * free and estimate.upper <= free:
        return FitVerdict("fits", f"Fits: about {about} of {has} free.")
    if estimate.middle <= free:
        return FitVerdict("tight", f"Tight: about {about} of {has} free. It may run; the first steps will tell.")
    return FitVerdict("too big", f"Does not fit: about {about} needed, {has} free.")


def make_memory_parts(low: dict[str, float], high: dict[str, float]) -> tuple[MemoryPart, ...]:
    """Combine lower and upper values into parts; drops parts that are 0 in both."""
    return tuple(MemoryPart(name, math.floor(low[name]), math.ceil(high[name])) for name in low if high[name] > 0)


def cuda_parts(setup: StageSetup, prior: MemoryCoefficients) -> dict[str, float]:
    parts = static_parts(setup) | {
        "Activations": activation_bytes(setup, prior),
        "Checkpoints": checkpoint_bytes(setup),
        "Unpacked weights": unpacking_bytes(setup),
        "Loss": prior.head
        + setup.batch_tokens * setup.shape.vocabulary * prior.unfused
        + full_logits_bytes(setup, prior.logits),
    }
    total, unknown = sum(parts.values()), 0 if setup.shape.known else prior.unknown
    return parts | {
        "Unknown architecture": total * unknown,
        "Fragmentation": total * prior.fragmentation,
        "CUDA context": prior.context,
        SKIP_LAYERS_PART: skip_layers_bytes(setup) * prior.whole_layer * (1 + unknown + prior.fragmentation),
    }


def cpu_parts(setup: StageSetup, prior: CpuMemoryCoefficients) -> dict[str, float]:
    tile = min(setup.batch_tokens, LOSS_TILE[0]) * min(setup.shape.vocabulary, LOSS_TILE[1]) * 4
    return static_parts(setup) | {
        "Activations": setup.shape.layers
        * setup.batch_tokens
        * numbers_per_token(setup.shape)
        * prior.number[setup.base],
        "Unpacked weights": unpacking_bytes(setup),
        "Loss": full_logits_bytes(setup, prior.logits) or tile * prior.tile,
        "Python and torch": prior.context,
    }


def full_logits_bytes(setup: StageSetup, each: float) -> float:
    """Bytes of the logits of all tokens, for a method that keeps them; otherwise 0."""
    return setup.batch_tokens * setup.shape.vocabulary * each if setup.training.method.full_logits else 0


def parts_from_measurement(setup: StageSetup, measurement: Measurement, end: int) -> dict[str, float]:
    """The lower (end 0) or upper (end 1) value of each part, from a measurement."""
    prior = (LOW_COEFFICIENTS, HIGH_COEFFICIENTS)[end]
    return static_parts(setup) | {
        "Activations, measured": setup.batch_tokens * measurement.per_token * MEASUREMENT_MARGIN[end],
        "The rest, measured": max(0.0, measurement.rest) * MEASUREMENT_MARGIN[end],
        "CUDA context": prior.context if setup.device == "cuda" else 0,
        SKIP_LAYERS_PART: skip_layers_bytes(setup) * prior.whole_layer,
    }


def static_parts(setup: StageSetup) -> dict[str, float]:
    """Parts that exist from the first step to the last; exact."""
    trained = adapter_parameters(setup.shape, setup.lora)
    return {
        "Base weights": linear_bytes(setup.shape, setup.base),
        "Embeddings and norms": unquantised_bytes(setup),
        "Adapter and gradients": trained * 8,  # both in 32 bit
        "Optimiser": optimiser_bytes(setup),
        "Reference copy": trained * 4 if setup.reference else 0,
    }


def linear_bytes(shape: Architecture, base: BaseFormat) -> int:
    """All linear weights without biases. A "dynamic" NF4 repository keeps some of them in 16 bit."""
    if base != "nf4":
        return shape.linear_weights * BYTES_PER_NUMBER[base]
    packed = sum(nf4_bytes(linear, shape.double_quantised) for linear in shape.linears) * shape.layers
    share = shape.kept_whole / shape.linear_weights
    return round(packed * (1 - share)) + shape.kept_whole * 2


def nf4_bytes(linear: LinearLayer, double: bool = True) -> int:
    """One layer in bitsandbytes' NF4: two weights per byte, one scale per 64 weights, the code table of 16 numbers.

    Double quantisation stores each scale in one byte, plus a second scale per 256 of them, an offset and
    a code table of 256 numbers. Without it the scales are 32-bit numbers.
    """
    blocks = -(-linear.weight_count // 64)
    scales = blocks + 4 * -(-blocks // 256) + 4 + 4 * 256 if double else 4 * blocks
    return -(-linear.weight_count // 2) + scales + 4 * 16


def unquantised_bytes(setup: StageSetup) -> int:
    """Embeddings, norms, biases and an image encoder, which are never quantised."""
    shape = setup.shape
    return (shape.embedding_weights + shape.norm_and_bias_weights + shape.vision) * BYTES_PER_NUMBER[
        setup.base
    ] - embedding_offload_bytes(setup)


def embedding_offload_bytes(setup: StageSetup) -> int:
    """The offloaded token table. Unsloth leaves one that is tied to the output head on the card."""
    shape = setup.shape
    moved = setup.offload_embedding and not shape.tied
    return shape.vocabulary * shape.hidden * BYTES_PER_NUMBER[setup.base] if moved else 0


def target_linears(shape: Architecture, lora: Lora) -> tuple[LinearLayer, ...]:
    """The linear layers of one block that get an adapter."""
    return tuple(linear for linear in shape.linears if linear.name in TARGETS[lora.targets])


def adapter_sizes(shape: Architecture, lora: Lora) -> tuple[int, ...]:
    """Sizes of the trained tensors of one block: A, B and, with DoRA, one length per output."""
    return tuple(
        size
        for linear in target_linears(shape, lora)
        for size in (lora.rank * linear.fan_in, lora.rank * linear.fan_out, *((linear.fan_out,) if lora.dora else ()))
    )


def adapter_parameters(shape: Architecture, lora: Lora) -> int:
    return shape.layers * sum(adapter_sizes(shape, lora))


def optimiser_bytes(setup: StageSetup) -> int:
    """The two states of AdamW for every trained number.

    8 bit: one byte each, a 32-bit scale per 256, two tables in all; a tensor under 4,096 numbers stays in 32 bit.
    Otherwise 32 bit each, and a step counter per tensor. The processor has no 8-bit AdamW.
    """
    sizes = adapter_sizes(setup.shape, setup.lora)
    wanted = setup.training.optimiser
    if setup.device == "cpu" or wanted == "adamw_torch":
        return setup.shape.layers * sum(8 * size + 4 for size in sizes)
    states = sum(8 * size if size < 4096 else 2 * (size + 4 * -(-size // 256)) for size in sizes)
    return setup.shape.layers * states + (2 * 4 * 256 if any(size >= 4096 for size in sizes) else 0)


def activation_bytes(setup: StageSetup, prior: MemoryCoefficients) -> float:
    """One layer's numbers during recomputation, for all tokens of the micro-batch."""
    shape = setup.shape
    numbers = setup.batch_tokens * (prior.activation * shape.mlp + 7 * shape.hidden)
    numbers *= prior.slow_path if setup.is_slow_path else 1
    dora = (
        max((dora_bytes(linear) for linear in target_linears(shape, setup.lora)), default=0) if setup.lora.dora else 0
    )
    return numbers * BYTES_PER_NUMBER[setup.base] + dora


def dora_bytes(linear: LinearLayer) -> int:
    """DoRA computes the full product A·B in 32 bit, from an identity matrix, to get its length."""
    return 4 * (linear.fan_in**2 + 2 * linear.weight_count)


def has_offloaded_checkpoints(setup: StageSetup) -> bool:
    """Unsloth offloads a layer's input if the model is loaded for long rows and the block is large enough, whatever the rows'
    real length."""
    return setup.is_long and layer_input_bytes(setup) > 2 * MIB


def layer_input_bytes(setup: StageSetup) -> int:
    return setup.batch_tokens * setup.shape.hidden * BYTES_PER_NUMBER[setup.base]


def checkpoint_bytes(setup: StageSetup) -> int:
    return 0 if has_offloaded_checkpoints(setup) else setup.shape.layers * layer_input_bytes(setup)


def skip_layers_bytes(setup: StageSetup) -> int:
    """Activations of the layers that are not recomputed."""
    numbers = 2 * setup.shape.mlp + 8 * setup.shape.hidden + 2 * setup.shape.key
    return setup.skip_layers * setup.batch_tokens * numbers * BYTES_PER_NUMBER[setup.base]


def unpacking_bytes(setup: StageSetup) -> int:
    """16-bit copies of the gate and up projections while an NF4 layer computes."""
    return 4 * setup.shape.hidden * setup.shape.mlp if setup.base == "nf4" else 0


def numbers_per_token(shape: Architecture) -> int:
    """Numbers per token that one layer keeps without recomputation: inputs of every product and norm."""
    return 6 * shape.mlp + 10 * shape.hidden + 4 * (shape.query + shape.key)


def host_parts(setup: StageSetup) -> tuple[MemoryPart, ...]:
    """Main memory beside a card: the process, offloaded checkpoints (in blocks of a power of two), an offloaded token table."""
    pinned = (
        setup.shape.layers * 2 ** math.ceil(math.log2(layer_input_bytes(setup)))
        if has_offloaded_checkpoints(setup)
        else 0
    )
    table = embedding_offload_bytes(setup)
    parts = (
        MemoryPart("Python, torch and CUDA", round(2.5 * GIB), round(4.5 * GIB)),
        MemoryPart("Offloaded checkpoints", pinned, pinned),
        MemoryPart("Offloaded embedding", table, table),
    )
    return tuple(part for part in parts if part.upper)


def disk_parts(setups: Mapping[str, StageSetup], steps: Mapping[str, int]) -> tuple[MemoryPart, ...]:
    """Disk use of a run: an adapter per stage and its checkpoints; plus an optional export as a whole 16-bit model.

    A checkpoint is the adapter, the optimiser's states, and up to 40 MB of tokenizer and trainer state.
    """
    shape = next(iter(setups.values())).shape
    adapters = {stage: adapter_parameters(shape, setup.lora) * 4 for stage, setup in setups.items()}
    points = {stage: adapters[stage] + optimiser_bytes(setup) for stage, setup in setups.items()}
    kept = {stage: checkpoint_counts(steps[stage]) for stage in setups}
    return (
        MemoryPart("Adapters", sum(adapters.values()), sum(one + 40 * MIB for one in adapters.values())),
        MemoryPart(
            "Checkpoints",
            sum(kept[stage][0] * point for stage, point in points.items()),
            sum(kept[stage][1] * (point + 40 * MIB) for stage, point in points.items()),
        ),
        MemoryPart("Merged model, if exported", 0, shape.parameter_count * 2),
    )


def checkpoint_counts(steps: int) -> tuple[int, int]:
    """Fewest and most checkpoints of a stage: at its parts; plus the newest, the best, and the one being written."""
    parts = min(SAVES_PER_STAGE, steps)
    return parts, min(SAVES_PER_STAGE + KEEP_NEWEST + 1, steps) + 1


def certain_bytes(parts: Iterable[MemoryPart]) -> int:
    """The upper sum of the parts that are not optional."""
    return sum(part.upper for part in parts if part.lower)


def peak_estimate(estimates: Iterable[MemoryEstimate]) -> MemoryEstimate:
    """The highest peak of all stages, which the run needs."""
    return max(estimates, key=lambda one: one.upper)


def with_batch(setup: StageSetup, batch: int, effective: int) -> StageSetup:
    """The same stage with another micro-batch, and the accumulation that preserves the effective batch."""
    change = {"batch_size": batch, "accumulation": effective // batch}
    return replace(setup, training=setup.training.model_copy(update=change))
