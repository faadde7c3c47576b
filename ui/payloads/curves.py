"""The curves of a run: how each is read from its steps and thinned for a chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

from trainer_core.config.recipe import METHODS
from trainer_core.diagnosis.series import thin_points
from trainer_core.methods.base import Metric
from trainer_core.runs.events import Stage, TrainStep
from trainer_core.runs.run_state import RunState
from trainer_core.system.format import round_digits

MAX_POINTS = 2000
"""Points per series in one answer; a longer history is thinned."""
OVERLAY_POINTS = 300

StepReader = Callable[[TrainStep], float | None]


def read_loss(step: TrainStep) -> float:
    return step.loss


def metric_reader(metric: Metric) -> StepReader:
    def read(step: TrainStep) -> float | None:
        if metric.blank_at_zero and not step.metrics.get(metric.blank_at_zero):
            return None
        return step.metrics.get(metric.key)

    return read


SERIES: dict[str, tuple[Stage, StepReader]] = {
    f"{stage}.{name}": (stage, read)
    for stage, method in METHODS.items()
    for name, read in (("loss", read_loss), *((metric.key, metric_reader(metric)) for metric in method.metrics))
}
"""Curve → its stage, and how it is read from a step."""
CURVES = {stage: [name for name, (of, _) in SERIES.items() if of == stage] for stage in METHODS}
"""Stage → its curves, in the order of a row of new points."""
DETAIL_SERIES: dict[str, StepReader] = {
    "detail.rate": lambda step: step.learning_rate,
    "detail.norm": lambda step: step.grad_norm,
    "detail.speed": lambda step: step.tokens_per_second,
    "detail.seconds": lambda step: step.seconds,
}
"""Further curves over all steps of a run; sent only while shown."""


def all_curves(view: RunState) -> dict[str, list[tuple[int, float]]]:
    """All curves of a run, thinned for a small chart."""
    found = {name: thin_curve(view.points, stage, read, OVERLAY_POINTS) for name, (stage, read) in SERIES.items()}
    return {name: points for name, points in found.items() if points}


def thin_curve(points: Sequence[TrainStep], stage: Stage, read: StepReader, most: int) -> list[tuple[int, float]]:
    pairs = ((point.step, read(point)) for point in points if point.stage == stage)
    finite = [(step, value) for step, value in pairs if value is not None and isfinite(value)]
    return [(step, drawn_value(value)) for step, value in thin_points(finite, most)]


def drawn_value(value: float) -> float:
    """Round to four digits, which draw the same picture; whole numbers lose their point."""
    short = round_digits(value, 4)
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def held_out_curves(view: RunState | None) -> dict[str, list[tuple[int, float]]]:
    """The held-out curves, not thinned: a few dozen points at most."""
    found: dict[str, list[tuple[int, float]]] = {}
    for one in view.evaluated if view else ():
        for name, value in {**one.metrics, "loss": one.loss, "rows": one.rows}.items():
            if isfinite(value):
                found.setdefault(f"{one.stage}.held.{name}", []).append((one.step, drawn_value(value)))
    return found


def best_steps(view: RunState | None) -> dict[str, int]:
    """Stage → the step with the lowest held-out loss."""
    found = {stage: view.best_evaluation(stage) for stage in METHODS} if view else {}
    return {stage: one.step for stage, one in found.items() if one}
