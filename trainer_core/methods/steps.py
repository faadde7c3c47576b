"""The optimiser steps of each stage of a recipe, and the learning rate at each step."""

from __future__ import annotations

import math

from trainer_core.methods.base import Training

SAVES_PER_STAGE = 5
"""Checkpoints per stage, enough to see how the answers developed."""


def is_spaced_step(step: int, total: int, count: int) -> bool:
    """Is this one of `count` steps spread evenly over 1 … total, the last included? If count ≥ total, every step is.

    If one count is a multiple of another, its steps include all steps of the other.
    """
    return step * count // total > (step - 1) * count // total


def warmup_steps(settings: Training, total: int) -> int:
    """Steps before the learning rate reaches its peak: the ratio rounded up as in transformers, but never the whole run."""
    return 0 if settings.scheduler == "constant" else min(math.ceil(settings.warmup * total), total - 1)


def warmup_text(settings: Training, total: int) -> str:
    """`warm-up 2 of 12 steps`; empty without a warm-up."""
    warm = warmup_steps(settings, total)
    return f"warm-up {warm} of {total} steps" if warm else ""


def rate_factor(step: int, settings: Training, total: int) -> float:
    """The fraction of the learning rate at a step, counted from 0. Above 0 at every step of the run.

    transformers' own schedules start a warm-up at 0, so the first step learns nothing, and a run of one step nothing at all.
    """
    warm = warmup_steps(settings, total)
    if step < warm:
        return (step + 1) / (warm + 1)
    progress = (step - warm) / (total - warm)
    match settings.scheduler:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        case "linear":
            return max(0.0, 1 - progress)
        case "constant" | "constant_with_warmup":
            return 1.0


def count_steps(rows: int, settings: Training) -> int:
    """Optimiser steps for this many rows: batches per epoch ÷ accumulation, rounded as the trainer does."""
    if settings.max_steps:
        return settings.max_steps
    batches = math.ceil(rows / settings.batch_size)
    per_epoch = max(batches // settings.accumulation + (batches % settings.accumulation > 0), 1)
    return math.ceil(settings.epochs * per_epoch)
