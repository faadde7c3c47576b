"""What a recipe will do, before it is done: the optimiser steps of each stage."""

from __future__ import annotations

import math

from trainer_core.config import Training

PARTS = 5
"""A stage is saved this many times on its way, so that a look back at the answers shows how they came about."""


def spaced(step: int, total: int, count: int) -> bool:
    """Is this one of `count` steps that are evenly spread over 1 … total and end with the last? Where count ≥ total, each is.

    Of two counts of which one is a multiple of the other, the larger has all steps of the smaller.
    """
    return step * count // total > (step - 1) * count // total


def planned_steps(rows: int, settings: Training) -> int:
    """Optimiser steps for this many rows: batches per epoch, grouped by the accumulation, rounded as the trainer does."""
    if settings.max_steps:
        return settings.max_steps
    batches = math.ceil(rows / settings.batch_size)
    per_epoch = max(batches // settings.accumulation + (batches % settings.accumulation > 0), 1)
    return math.ceil(settings.epochs * per_epoch)
