"""How DPO goes wrong."""

from __future__ import annotations

import numpy as np

from trainer_core.diagnosis.finding import (
    CHANCE_ACCURACY,
    FALL_SHARE,
    FALL_SIGMA,
    FLAT_ACCURACY,
    HEALTHY_MARGIN,
    LN2,
    SPIKES,
    Finding,
    best_before_worsening,
    find_spikes,
    has_sigmoid_loss,
    make_finding,
    measure_fall,
)
from trainer_core.diagnosis.series import StageSeries, linear_trend, mean_of_last, rolling_mean
from trainer_core.diagnosis.suggestions import (
    LOWER_RATE_FACTOR,
    RAISE_RATE_FACTOR,
    add_sft_term,
    lower_rate,
    raise_rate,
    stop_at_best,
    swap_pairs,
    use_ipo_loss,
    use_robust_loss,
)
from trainer_core.methods.dpo import Dpo
from trainer_core.runs.events import Evaluation
from trainer_core.texts import Text

FLAT_STEPS, FLAT_MARGIN = 100, 0.1
"""A DPO margin still below this after this many steps at full rate is flat [field]."""
NO_GRADIENT_STEPS, NO_GRADIENT_MARGIN, NO_GRADIENT_LOSS = 20, 0.005, 0.002
"""Margin and loss this close to their start, step after step: nothing is trained [own]."""
EASY_SHARE, EASY_PAIRS = 0.1, 48
"""All right within the first tenth of the steps [field], and for this many pairs in a row: at 0.9 a chance of 0.6 % [own]."""


def check_diverging_margin(course: StageSeries) -> Finding | None:
    """The margin is far beyond a sound one long before the end, or beyond it while the loss has begun to jump."""
    if not isinstance(course.settings, Dpo) or "ipo" in course.settings.losses:  # IPO sets its margin itself
        return None
    margin = course.margin[course.steps > 10]
    if len(margin) < 10:
        return None
    now = mean_of_last(margin, 10)
    spikes = find_spikes(course) if now > HEALTHY_MARGIN else np.array([], int)
    if len(spikes) < SPIKES and not is_wide_early(course, margin):
        return None
    total = course.total_steps
    evidence = [Text("evidence.margin", margin=now, step=course.last_step, total=total, sound=HEALTHY_MARGIN)]
    if len(spikes):
        evidence.append(Text("evidence.jumps", jumps=len(spikes), loss=course.loss[spikes[-1]]))
    return make_finding(course, "margins", evidence, lower_rate(course))


def is_wide_early(course: StageSeries, margin: np.ndarray) -> bool:
    """Is a mean of ten margins beyond any sound one in the first half of the run?"""
    wide = rolling_mean(margin, 10) > 2 * HEALTHY_MARGIN
    return bool(np.any(wide & (course.steps[-len(wide) :] <= course.total_steps / 2)))


def check_no_gradient(course: StageSeries) -> Finding | None:
    """Margin and loss stay exactly where they started."""
    if not isinstance(course.settings, Dpo) or not has_sigmoid_loss(course):
        return None
    full_rate = np.array([point.learning_rate > 0 for point in course.points]) & (course.steps > course.warmup_end)
    count = min(NO_GRADIENT_STEPS, max(6, course.total_steps // 2))
    if full_rate.sum() < count:
        return None
    margin, loss = course.margin[-count:], course.loss[-count:]
    if np.nanmax(np.abs(margin)) > NO_GRADIENT_MARGIN or np.max(np.abs(loss - LN2)) > NO_GRADIENT_LOSS:
        return None
    evidence = [Text("evidence.unmoved", loss=loss[-1], start=LN2, margin=margin[-1], steps=course.last_step)]
    if not np.any(course.grad_norm[-count:]):
        evidence.append(Text("evidence.no_gradient"))
    return make_finding(course, "dead", evidence, raise_rate(course, LOWER_RATE_FACTOR))


def check_flat_margin(course: StageSeries) -> Finding | None:
    """The margin stays near 0 and does not rise."""
    needed = course.warmup_end + min(FLAT_STEPS, max(30, int(0.8 * course.total_steps) - course.warmup_end))
    values = course.margin[np.isfinite(course.margin)]
    if not isinstance(course.settings, Dpo) or course.last_step < needed or len(values) < 20:
        return None
    margin, accuracy = mean_of_last(values, 20), mean_of_last(course.accuracy, 20)
    if margin >= FLAT_MARGIN or accuracy > 0.65 or will_rise(course, values) or check_no_gradient(course):
        return None
    evidence = [Text("evidence.flat_margin", margin=margin, accuracy=accuracy, step=course.last_step)]
    return make_finding(course, "flat", evidence, raise_rate(course, RAISE_RATE_FACTOR))


def will_rise(course: StageSeries, margin: np.ndarray) -> bool:
    """Does the margin rise by more than noise, and fast enough to be well above flat at the end?"""
    rise, error = linear_trend(margin)
    to_come = max(rise, 0) * (course.total_steps / course.last_step - 1)
    return rise > 3 * error and mean_of_last(margin, 20) + to_come >= 3 * FLAT_MARGIN


def check_easy_pairs(course: StageSeries) -> Finding | None:
    """Every pair is right, from a step in the first tenth of the run on."""
    if not isinstance(course.settings, Dpo) or "ipo" in course.settings.losses:  # IPO ends at a set margin
        return None
    held_out = held_out_accuracies(course)
    if held_out and held_out[-1] < CHANCE_ACCURACY:
        return None  # pairs that held-out ones contradict are wrong, not easy
    needed = course.points_for(EASY_PAIRS, 1)
    starts = np.flatnonzero(rolling_mean(course.accuracy >= 0.999, needed) > 0.999)
    if len(course.points) < needed or not len(starts):
        return None
    first, last = course.steps[starts[0]], int(course.steps[starts[0] + needed - 1])
    if first > max(3, EASY_SHARE * course.total_steps):
        return None
    pairs = needed * course.rows_per_point
    evidence = [Text("evidence.all_right", step=first, total=course.total_steps, pairs=pairs)]
    return make_finding(course, "trivial", evidence, use_ipo_loss(course), step=last)


def check_chosen_collapse(course: StageSeries) -> Finding | None:
    """Both sides lose likelihood, the rejected one faster."""
    chosen, rejected = course.metric_column("chosen"), course.metric_column("rejected")
    if not isinstance(course.settings, Dpo) or len(course.points) < 20 or np.isnan(chosen).any():
        return None
    size = max(5, min(20, len(course.points) // 5))
    (fall, start, end, error), (rejected_fall, *_) = measure_fall(chosen, size), measure_fall(rejected, size)
    if fall < max(FALL_SIGMA * error, FALL_SHARE * abs(start)) or rejected_fall <= fall:
        return None
    evidence = [
        Text("evidence.lost_nats", start=start, end=end, rejected=rejected_fall),
        Text("evidence.noise", steps=course.last_step, error=error),
    ]
    return make_finding(course, "collapse", evidence, add_sft_term(course.settings))


def check_overfitting(course: StageSeries) -> Finding | None:
    """Training margin up, held-out loss past its best, held-out margin no longer growing."""
    best = best_before_worsening(course)
    if best is None or not isinstance(course.settings, Dpo) or is_still_improving(best, course.held_out[-1]):
        return None
    then, now = float(course.margin[course.index_at(best.step)]), mean_of_last(course.margin, 5)
    if now < then:
        return None
    evidence = [
        Text("evidence.held_out_loss", best=best.loss, step=best.step, now=course.held_out[-1].loss),
        Text("evidence.training_margin", then=then, now=now),
    ]
    return make_finding(course, "overfitting", evidence, stop_at_best(course, best.step))


def is_still_improving(best: Evaluation, last: Evaluation) -> bool:
    """Has the held-out margin grown by a tenth since the lowest loss? Then a few pairs that are badly wrong raise the loss while
    the others still gain, as in real runs whose held-out accuracy rose to the end."""
    then, now = best.metrics.get("margin"), last.metrics.get("margin")
    return then is not None and now is not None and now > then + 0.1 * abs(then)


def check_generalisation(course: StageSeries) -> Finding | None:
    """The training margin is large, the held-out margin near 0."""
    measured = [one.metrics for one in course.held_out if {"accuracy", "margin"} <= one.metrics.keys()]
    if not isinstance(course.settings, Dpo) or len(measured) < 3:
        return None
    accuracy, margin, trained = measured[-1]["accuracy"], measured[-1]["margin"], mean_of_last(course.margin, 5)
    if trained < 1 or accuracy > FLAT_ACCURACY or not -0.1 * trained < margin < 0.2 * trained:
        return None
    if best_before_worsening(course) or check_swapped_pairs(course):
        return None
    evidence = [
        Text("evidence.two_margins", trained=trained, held_out=margin),
        Text("evidence.held_out_accuracy", accuracy=accuracy, chance=CHANCE_ACCURACY),
    ]
    return make_finding(course, "not_general", evidence, use_robust_loss(course.settings))


def check_swapped_pairs(course: StageSeries) -> Finding | None:
    """Held-out pairs come out wrong more often than a coin, twice, while the training pairs come out right."""
    held_out, rows = held_out_accuracies(course), course.held_out_rows
    if not isinstance(course.settings, Dpo) or len(held_out) < 2 or not rows:
        return None
    trained = mean_of_last(course.accuracy, 5)
    if max(held_out[-2:]) >= CHANCE_ACCURACY - 2.5 * (0.25 / rows) ** 0.5 or trained < 0.6:
        return None
    before, now = held_out[-2:]
    evidence = [
        Text("evidence.below_chance", before=before, now=now, pairs=rows, chance=CHANCE_ACCURACY),
        Text("evidence.training_accuracy", accuracy=trained),
    ]
    return make_finding(course, "contradicted", evidence, swap_pairs(course.recipe))


def held_out_accuracies(course: StageSeries) -> list[float]:
    return [measured.metrics["accuracy"] for measured in course.held_out if "accuracy" in measured.metrics]
