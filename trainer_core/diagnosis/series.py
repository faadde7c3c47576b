"""One stage of a run as columns of numbers, and the few statistics that the doctor reads from them.

A step's numbers come from one batch, so each is a true value plus noise. The noise is estimated from the differences of
neighbouring steps: a slow trend hardly affects these, but distorts every other estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import ceil
from typing import TypeVar

import numpy as np

from trainer_core.config.recipe import Lora, Recipe
from trainer_core.methods.base import Method, Training
from trainer_core.methods.steps import count_steps, warmup_steps
from trainer_core.runs.events import Evaluation, Stage, TrainStep

MIN_ROWS_PER_POINT = 4
"""Rows behind one point, at least. The loss of a single pair is often three times the mean in sound runs: smaller steps are
averaged, so that a spike or a low loss means the same for all batch sizes [own]."""

Point = TypeVar("Point", bound=tuple[float, float])
FloatColumn = np.ndarray
"""One number per step, float64; NaN where a step does not have it."""


@dataclass(frozen=True)
class StageSeries:
    """The steps of one stage so far, in order, with the settings that made them.

    Args:
        points: a step each, or, with small batches, the mean of a few: see `average_points`.
        held_out: measurements on held-out rows, in order.
        held_out_rows: how many rows those were.
        rows: that are trained on; 0 if unknown.
    """

    stage: Stage
    recipe: Recipe
    points: tuple[TrainStep, ...]
    held_out: tuple[Evaluation, ...] = ()
    held_out_rows: int = 0
    rows: int = 0

    @property
    def settings(self) -> Training:
        return self.recipe.stage_settings(self.stage)

    @property
    def method(self) -> Method:
        return self.settings.method

    @property
    def lora(self) -> Lora:
        return self.recipe.lora

    @property
    def total_steps(self) -> int:
        """Planned optimiser steps."""
        return self.points[-1].total if self.points else 0

    @property
    def warmup_end(self) -> int:
        """The step at which the learning rate reaches its maximum."""
        return warmup_steps(self.settings, self.total_steps) if self.total_steps else 0

    @property
    def rows_per_point(self) -> int:
        """Rows (or pairs) behind one point."""
        return self.settings.effective_batch * steps_per_point(self.settings)

    def points_for(self, rows: int, least: int) -> int:
        """How many points hold this many rows; at least `least`."""
        return max(least, ceil(rows / self.rows_per_point))

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the rows; 0 if unknown."""
        packed = getattr(self.settings, "packing", False)
        whole = self.settings.model_copy(update={"epochs": 1.0, "max_steps": None})
        return count_steps(self.rows, whole) if self.rows and not packed else 0

    @property
    def last_step(self) -> int:
        return self.points[-1].step if self.points else 0

    @cached_property
    def steps(self) -> FloatColumn:
        return np.array([point.step for point in self.points], float)

    @cached_property
    def loss(self) -> FloatColumn:
        return np.array([point.loss for point in self.points], float)

    @cached_property
    def grad_norm(self) -> FloatColumn:
        return np.array([point.grad_norm for point in self.points], float)

    def metric_column(self, name: str) -> FloatColumn:
        """One of the method's metrics."""
        return np.array([point.metrics.get(name, np.nan) for point in self.points], float)

    @cached_property
    def margin(self) -> FloatColumn:
        return self.metric_column("margin")

    @cached_property
    def accuracy(self) -> FloatColumn:
        return self.metric_column("accuracy")

    def index_at(self, step: int) -> int:
        """The index of the last point at or before a step."""
        return max(0, int(np.searchsorted(self.steps, step, side="right")) - 1)


def steps_per_point(settings: Training) -> int:
    return ceil(MIN_ROWS_PER_POINT / settings.effective_batch)


def average_points(steps: Sequence[TrainStep], count: int) -> tuple[TrainStep, ...]:
    """The mean of each `count` steps, at the last of them. The first step stays alone: it shows where the stage began. Steps that
    do not fill a group yet are left out."""
    if count == 1:
        return tuple(steps)
    ends = range(count, len(steps), count)
    return (*steps[:1], *(mean_step(steps[end + 1 - count : end + 1]) for end in ends))


def mean_step(steps: Sequence[TrainStep]) -> TrainStep:
    shared = [name for name in steps[-1].metrics if all(name in step.metrics for step in steps)]
    metrics = {name: sum(step.metrics[name] for step in steps) / len(steps) for name in shared}
    return replace(
        steps[-1],
        loss=sum(step.loss for step in steps) / len(steps),
        grad_norm=sum(step.grad_norm for step in steps) / len(steps),
        metrics={**steps[-1].metrics, **metrics},
    )


def estimate_noise(values: FloatColumn) -> float:
    """Robust standard deviation of a single value around its trend: 1.4826 × the median distance of neighbours ÷ √2."""
    if len(values) < 3:
        return 0.0
    return 1.4826 * float(np.median(np.abs(np.diff(values)))) / 2**0.5


def roughness(values: Sequence[float]) -> float:
    """The same for a few values on a steep curve, from second differences: a slope adds nothing to these, a corner little."""
    return 1.4826 * float(np.median(np.abs(np.diff(values, 2)))) / 6**0.5


def rolling_mean(values: FloatColumn, width: int) -> FloatColumn:
    """The mean of each `width` neighbours; the first belongs to index width - 1."""
    return np.convolve(values, np.ones(width) / width, "valid")


def rolling_median(values: FloatColumn, width: int) -> FloatColumn:
    """The median of each `width` neighbours; the first belongs to index width - 1."""
    return np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)


def linear_trend(values: FloatColumn) -> tuple[float, float]:
    """How far a straight line through all values rises from end to end, and the standard error of that."""
    count = len(values)
    slope = float(np.polyfit(np.arange(count), values, 1)[0])
    return slope * (count - 1), estimate_noise(values) * (12 / count) ** 0.5


def turning_points(values: FloatColumn, least: float) -> list[int]:
    """The indices at which the values turn, where each swing between two turns is at least `least`: a zigzag.

    The first index starts the first swing; the last is the far end of the current one.
    """
    low = high = 0
    found: list[int] = []
    for at, value in enumerate(values):
        low, high = (at if value < values[low] else low), (at if value > values[high] else high)
        if not found and values[high] - values[low] >= least:
            found = [min(low, high), max(low, high)]
        elif found:
            extend_zigzag(found, values, at, least)
    return found


def extend_zigzag(found: list[int], values: FloatColumn, at: int, least: float) -> None:
    """The zigzag with one more value: it extends the current swing, or has turned by `least`, or neither."""
    rising = values[found[-1]] > values[found[-2]]
    move = values[at] - values[found[-1]]
    if (move > 0) == rising and move:
        found[-1] = at
    elif abs(move) >= least:
        found.append(at)


def mean_of_last(values: Sequence[float] | FloatColumn, count: int) -> float:
    """The mean of the last `count` values."""
    return float(np.mean(values[-count:]))


def thin_points(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points that look the same: the lowest and the highest of each bin, in order."""
    if len(points) <= most:
        return list(points)
    bins = most // 2
    cuts = [at * len(points) // bins for at in range(bins + 1)]
    return [point for start, end in pairwise(cuts) for point in bin_extremes(points[start:end])]


def bin_extremes(points: Sequence[Point]) -> list[Point]:
    low = min(points, key=lambda point: point[1])
    return sorted({low, max(points, key=lambda point: point[1])})
