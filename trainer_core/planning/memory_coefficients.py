"""Memory coefficients that only a measurement can determine, as lower and upper values, for a card and for the processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer_core.system.hardware import GIB

BaseFormat = Literal["nf4", "bf16", "fp32"]


@dataclass(frozen=True)
class MemoryCoefficients:
    """CUDA coefficients, in bytes unless stated otherwise.

    activation: hidden-width numbers alive per token of one layer, in units of the MLP width (5 ± 20 %: 4 with the
    kernels of 2026, 6 with those of December 2024). head: workspace of the fused loss. context: CUDA, cuBLAS,
    bitsandbytes and Triton. fragmentation: share of all memory that torch holds. whole_layer: factor on the numbers a
    layer keeps when it is not recomputed. unfused: bytes per token and vocabulary entry if a trainer builds the
    logits; Tunebench's does not. logits: the same for a method that keeps them; 0 if Unsloth's head replaces it.
    unknown: share added for an architecture without an exact rule.
    slow_path: factor on activations where Unsloth does not use its kernels, that is with dropout or DoRA.
    """

    activation: float
    head: float
    context: float
    fragmentation: float
    whole_layer: float = 1.0
    unfused: float = 0.0
    logits: float = 0.0
    unknown: float = 0.0
    slow_path: float = 1.0


LOW_COEFFICIENTS = MemoryCoefficients(
    activation=4, head=0.3 * GIB, context=0.35 * GIB, fragmentation=0.03, whole_layer=0.8
)
HIGH_COEFFICIENTS = MemoryCoefficients(
    activation=6,
    head=0.5 * GIB,
    context=0.8 * GIB,
    fragmentation=0.08,
    whole_layer=1.2,
    logits=10.0,
    unknown=0.1,
    slow_path=1.3,
)


@dataclass(frozen=True)
class CpuMemoryCoefficients:
    """Processor coefficients, fitted to peaks of three models of 64M to 280M weights (unsloth 2026.10.9, torch 2.13).

    number: bytes per number that a layer keeps, by the base's format; nothing is recomputed. tile: copies of a
    4,096-token × 32,768-entry tile of the loss. logits: bytes per token and entry for a method that keeps all of them; an
    estimate from their 32-bit copies and gradients. context: Python with torch and Unsloth.
    """

    number: dict[BaseFormat, float]
    tile: float
    logits: float
    context: float


CPU_LOW_COEFFICIENTS = CpuMemoryCoefficients(
    {"fp32": 3.8, "bf16": 2.4, "nf4": 1.8}, tile=0.5, logits=6.0, context=0.54 * GIB
)
CPU_HIGH_COEFFICIENTS = CpuMemoryCoefficients(
    {"fp32": 4.6, "bf16": 3.2, "nf4": 2.8}, tile=2.0, logits=14.0, context=0.75 * GIB
)
