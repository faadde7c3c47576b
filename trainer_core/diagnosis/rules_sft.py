"""How a stage without a reference goes wrong: it learns to write answers, and its loss is that of their tokens."""

from __future__ import annotations

import numpy as np

from trainer_core.diagnosis.finding import (
    Finding,
    best_before_worsening,
    epoch_boundaries,
    make_finding,
    mean_loss_near,
)
from trainer_core.diagnosis.series import StageSeries, estimate_noise, linear_trend, mean_of_last
from trainer_core.diagnosis.suggestions import RAISE_RATE_FACTOR, raise_rate, stop_after_epoch, stop_at_best
from trainer_core.runs.events import Evaluation
from trainer_core.texts import Text

MIN_FLAT_STEPS = 50
"""SFT that has not moved in this many steps at full rate does not learn [field]."""
MIN_LOSS_CHANGE, TREND_SIGMA, DROP_SIGMA = 0.05, 3.0, 3.0
"""Sound SFT loses at least 5 % of its loss: 0.62 → 0.58 is about the least seen. It stands still if the fall is below that by
this many standard errors, and the first steps are not that many above the later ones [own]."""
EPOCH_DROP_SHARE = 0.2
"""A training loss that falls by this share at the start of two epochs shows memorised rows [field; figure: own]."""


def check_not_learning(course: StageSeries) -> Finding | None:
    """No movement in MIN_FLAT_STEPS at full rate, and none to come: even the steepest fall that noise can hide would be too
    little by the end. A gradient of 0 is proof enough."""
    if course.method.needs_reference or course.last_step < course.warmup_end + MIN_FLAT_STEPS:
        return None
    frozen = not np.any(course.grad_norm[np.isfinite(course.grad_norm)])
    if not frozen and may_still_learn(course):
        return None
    mean, noise, (change, error) = float(np.mean(course.loss)), estimate_noise(course.loss), linear_trend(course.loss)
    steps = course.last_step
    evidence = [Text("evidence.flat_loss", loss=mean, noise=noise, steps=steps, change=change, error=error)]
    if frozen:
        evidence.append(Text("evidence.frozen"))
    return make_finding(course, "still", evidence, raise_rate(course, RAISE_RATE_FACTOR))


def may_still_learn(course: StageSeries) -> bool:
    """Does the loss move, or may it within the steps to come?"""
    rise, error = linear_trend(course.loss)
    level = float(np.mean(course.loss))
    to_come = (TREND_SIGMA * error - rise) * course.total_steps / course.last_step
    return rise > max(0.03 * level, error) or to_come > MIN_LOSS_CHANGE * level or has_early_drop(course.loss)


def has_early_drop(loss: np.ndarray) -> bool:
    """The first values are above the lowest third of the later ones: it learned quickly at the start."""
    few = min(max(10, len(loss) // 10), 50)
    lowest = min(float(np.mean(part)) for part in np.array_split(loss[few:], 3))
    return float(np.mean(loss[:few])) - lowest > max(DROP_SIGMA * estimate_noise(loss) / few**0.5, 0.03 * lowest)


def check_memorisation(course: StageSeries) -> Finding | None:
    """Held-out loss rises while the training loss falls; or the training loss drops at each new epoch."""
    if course.method.needs_reference:
        return None
    best, drops = best_before_worsening(course), find_epoch_drops(course)
    if best and mean_of_last(course.loss, 5) <= mean_loss_near(course, best.step):
        return report_worsening(course, best)
    return report_epoch_drops(course, drops) if len(drops) > 1 and not is_latest_best(course) else None


def report_worsening(course: StageSeries, best: Evaluation) -> Finding:
    then, now = mean_loss_near(course, best.step), mean_of_last(course.loss, 5)
    evidence = [
        Text("evidence.held_out_loss", best=best.loss, step=best.step, now=course.held_out[-1].loss),
        Text("evidence.training_loss", then=then, now=now),
    ]
    return make_finding(course, "memorising", evidence, stop_at_best(course, best.step))


def report_epoch_drops(course: StageSeries, drops: list[tuple[int, float, float]]) -> Finding:
    evidence = [Text("evidence.epoch_drop", before=before, after=after, step=step) for step, before, after in drops]
    evidence.append(Text("evidence.epoch_steps", steps=course.steps_per_epoch))
    says = Text("finding.memorising.epoch_drops")
    return make_finding(course, "memorising", evidence, stop_after_epoch(course), says=says)


def find_epoch_drops(course: StageSeries) -> list[tuple[int, float, float]]:
    """Where the loss drops by EPOCH_DROP_SHARE, far more than noise, at a new epoch: the step, the loss before and after."""
    found = []
    width = min(max(5, course.steps_per_epoch // 4), 20)
    least = DROP_SIGMA * estimate_noise(course.loss) * (2 / width) ** 0.5
    for step in epoch_boundaries(course):
        at = course.index_at(step) + 1
        before, after = course.loss[max(0, at - width) : at], course.loss[at : at + width]
        if len(before) == len(after) == width:
            old, new = float(np.mean(before)), float(np.mean(after))
            found += [(step, old, new)] if old - new > max(EPOCH_DROP_SHARE * old, least) else []
    return found


def is_latest_best(course: StageSeries) -> bool:
    """Is the newest held-out loss the lowest of several?"""
    losses = [measured.loss for measured in course.held_out]
    return len(losses) > 1 and losses[-1] == min(losses)
