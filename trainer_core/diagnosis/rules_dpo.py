"""How DPO goes wrong."""

from __future__ import annotations

from typing import Any

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
from trainer_core.diagnosis.series import (
    StageSeries,
    linear_trend,
    mean_of_last,
    rolling_mean,
)
from trainer_core.diagnosis.suggestions import (
    LOWER_RATE_FACTOR,
    RAISE_RATE_FACTOR,
    add_sft_term,
    lower_rate,
    raise_rate,
    single_loss,
    swap_pairs,
)
from trainer_core.methods.dpo import Dpo
from trainer_core.runs.events import Evaluation, Suggestion

FLAT_STEPS, FLAT_MARGIN = 100, 0.1
"""A DPO margin still below this after that many steps at full rate is flat [field]."""
NO_GRADIENT_STEPS, NO_GRADIENT_MARGIN, NO_GRADIENT_LOSS = 20, 0.005, 0.002
"""Margin and loss this close to their start, step after step: nothing is trained [own]."""
EASY_SHARE, EASY_PAIRS = 0.1, 48
"""All right within the first tenth of the steps [field], and for so many pairs in a row: at 0.9 a chance of 0.6 % [own]."""


def check_diverging_margin(course: StageSeries) -> Finding | None:
    """The margin is far beyond a sound one long before the end, or beyond it while the loss has begun to jump."""
    if not isinstance(course.settings, Dpo) or "ipo" in course.settings.losses:  # IPO sets its margin itself
        return None
    ahead = course.steps > 10
    margin, steps = course.margin[ahead], course.steps[ahead]
    if len(margin) < 10:
        return None
    wide = rolling_mean(margin, 10) > 2 * HEALTHY_MARGIN
    early = bool(np.any(wide & (steps[9:] <= course.total_steps / 2)))
    spikes = find_spikes(course) if mean_of_last(margin, 10) > HEALTHY_MARGIN else np.array([], int)
    if not early and len(spikes) < SPIKES:
        return None
    evidence = [
        f"margin {mean_of_last(margin, 10):.2f} at step {course.last_step} of {course.total_steps}; "
        f"sound runs end at 1 to {HEALTHY_MARGIN:g}"
    ]
    if len(spikes):
        evidence.append(f"the loss jumped {len(spikes)} times, to {course.loss[spikes[-1]]:.2f} last")
    says = "The policy runs away from its reference: margins grow without bound, and the loss jumps sooner or later."
    return make_finding(
        course,
        "margins",
        "The margins are diverging",
        says,
        evidence,
        "common practice; twice the sound margin is our own",
        lower_rate(course),
    )


# ---- DPO


def check_no_gradient(course: StageSeries) -> Finding | None:
    """Margin and loss stay exactly where they started."""
    if not isinstance(course.settings, Dpo) or not has_sigmoid_loss(course):
        return None
    moving = np.array([point.learning_rate > 0 for point in course.points]) & (course.steps > course.warmup_end)
    count = min(NO_GRADIENT_STEPS, max(6, course.total_steps // 2))
    if moving.sum() < count:
        return None
    margin, loss = course.margin[-count:], course.loss[-count:]
    if np.nanmax(np.abs(margin)) > NO_GRADIENT_MARGIN or np.max(np.abs(loss - LN2)) > NO_GRADIENT_LOSS:
        return None
    evidence = [f"loss {loss[-1]:.4f} (ln 2 is {LN2:.4f}), margin {margin[-1]:+.4f} after {course.last_step} steps"]
    if not np.any(course.grad_norm[-count:]):
        evidence.append("gradient norm 0: nothing is trained")
    says = "Policy and reference are still the same model: the adapter is not being trained, or by far too little."
    return make_finding(
        course,
        "dead",
        "DPO has not begun to move",
        says,
        evidence,
        "Rafailov 2023; how close counts as the same is our own",
        raise_rate(course, LOWER_RATE_FACTOR),
    )


def check_flat_margin(course: StageSeries) -> Finding | None:
    """The margin stays near 0 and is not on its way."""
    needed = min(FLAT_STEPS, max(30, int(0.8 * course.total_steps) - course.warmup_end))
    if (
        not isinstance(course.settings, Dpo)
        or course.last_step < course.warmup_end + needed
        or check_no_gradient(course)
    ):
        return None
    margin = course.margin[np.isfinite(course.margin)]
    if len(margin) < 20 or mean_of_last(margin, 20) >= FLAT_MARGIN or mean_of_last(course.accuracy, 20) > 0.65:
        return None
    rise, error = linear_trend(margin)
    to_come = max(rise, 0) * (course.total_steps / course.last_step - 1)
    if rise > 3 * error and mean_of_last(margin, 20) + to_come >= 3 * FLAT_MARGIN:
        return None
    evidence = [
        f"margin {mean_of_last(margin, 20):+.3f}, accuracy {mean_of_last(course.accuracy, 20):.2f} "
        f"over 20 steps up to {course.last_step}"
    ]
    says = "Chosen answers do not pull ahead: the rate is too low, β too high, or the pairs disagree with each other."
    return make_finding(
        course,
        "flat",
        "The margin stays flat",
        says,
        evidence,
        "common practice",
        raise_rate(course, RAISE_RATE_FACTOR),
    )


def check_easy_pairs(course: StageSeries) -> Finding | None:
    """Every pair is right, from a step in the first tenth of the run on."""
    if not isinstance(course.settings, Dpo) or "ipo" in course.settings.losses:  # IPO ends at a set margin
        return None
    held = [one.metrics["accuracy"] for one in course.held_out if "accuracy" in one.metrics]
    if held and held[-1] < CHANCE_ACCURACY:
        return None  # what held-out pairs contradict is wrong, not easy
    right = course.accuracy >= 0.999
    enough = course.points_for(EASY_PAIRS, 1)
    begins = np.flatnonzero(rolling_mean(right, enough) > 0.999)
    if len(right) < enough or not len(begins) or course.steps[begins[0]] > max(3, EASY_SHARE * course.total_steps):
        return None
    first = int(begins[0])
    at, pairs = int(course.steps[first + enough - 1]), enough * course.rows_per_point
    evidence = [f"accuracy 1.00 from step {course.steps[first]:.0f} of {course.total_steps} on, for {pairs} pairs"]
    says = (
        "All pairs are told apart at once: they are too easy (by length, by a fixed phrase), repeated, or known from SFT. "
        "Little can be learned from them; look at some."
    )
    rank = max(4, course.lora.rank // 2)
    changes: dict[str, Any] = {"lora.rank": rank, "lora.alpha": max(1, course.lora.alpha * rank // course.lora.rank)}
    offer = Suggestion(f"The IPO loss and rank {rank}", changes | single_loss("ipo"))
    return make_finding(
        course,
        "trivial",
        "The pairs are too easy",
        says,
        evidence,
        "common practice; the number of pairs is our own",
        offer,
        at,
    )


def check_chosen_collapse(course: StageSeries) -> Finding | None:
    """Both sides lose likelihood, the rejected one faster."""
    if (
        not isinstance(course.settings, Dpo)
        or len(course.points) < 20
        or np.isnan(course.metric_column("chosen")).any()
    ):
        return None
    size = max(5, min(20, len(course.points) // 5))
    (chosen, began, ended, error), (rejected, *_) = (
        measure_fall(course.metric_column(name), size) for name in ("chosen", "rejected")
    )
    if chosen < max(FALL_SIGMA * error, FALL_SHARE * abs(began)) or rejected <= chosen:
        return None
    evidence = [
        f"chosen answers {began:.0f} → {ended:.0f} nats, rejected ones down by {rejected:.0f}",
        f"over {course.last_step} steps; noise ± {error:.1f}",
    ]
    says = "The gap grows because both answers become unlikely, the rejected one faster. The model may end up writing neither."
    return make_finding(
        course,
        "collapse",
        "Both answers are losing likelihood",
        says,
        evidence,
        "Pal 2024, Razin 2024; how much is our own",
        add_sft_term(course.settings),
    )


def check_overfitting(course: StageSeries) -> Finding | None:
    """Training margin up, held-out loss past its best, held-out margin no longer growing."""
    best = best_before_worsening(course)
    if best is None or not isinstance(course.settings, Dpo) or is_still_improving(best, course.held_out[-1]):
        return None
    then, now = float(course.margin[course.index_at(best.step)]), mean_of_last(course.margin, 5)
    if now < then:
        return None
    evidence = [
        f"held-out loss {best.loss:.3f} at step {best.step}, now {course.held_out[-1].loss:.3f}",
        f"training margin {then:.2f} → {now:.2f}",
    ]
    says = "On the training pairs it still improves; on pairs it has not seen it is past its best."
    offer = Suggestion(f"Stop DPO at step {best.step}, where it was best", {"dpo.max_steps": best.step})
    return make_finding(
        course,
        "overfitting",
        "It is overfitting",
        says,
        evidence,
        "Tunstall 2024, common practice; what counts as worse is our own",
        offer,
    )


def is_still_improving(best: Evaluation, last: Evaluation) -> bool:
    """Has the held-out margin grown by a tenth since the lowest loss? Then a few pairs that are badly wrong raise the loss,
    while the others still gain: seen in real runs whose held-out accuracy rose to the end."""
    then, now = best.metrics.get("margin"), last.metrics.get("margin")
    return then is not None and now is not None and now > then + 0.1 * abs(then)


def check_generalisation(course: StageSeries) -> Finding | None:
    """The training margin is large, and held-out pairs know nothing of it."""
    both = [one.metrics for one in course.held_out if {"accuracy", "margin"} <= one.metrics.keys()]
    held = [(metrics["accuracy"], metrics["margin"]) for metrics in both]
    if (
        not isinstance(course.settings, Dpo)
        or len(held) < 3
        or best_before_worsening(course)
        or check_swapped_pairs(course)
    ):
        return None
    (accuracy, margin), trained = held[-1], mean_of_last(course.margin, 5)
    if trained < 1 or accuracy > FLAT_ACCURACY or not -0.1 * trained < margin < 0.2 * trained:
        return None
    evidence = [
        f"training margin {trained:.2f}, held-out {margin:.2f}",
        f"held-out accuracy {accuracy:.2f}; {CHANCE_ACCURACY} is a coin toss",
    ]
    says = "What it learns from the training pairs does not carry over: too few or too varied pairs, or labels that disagree."
    changes = {"dpo.label_smoothing": 0.1, "dpo.beta": max(0.3, course.settings.beta), **single_loss("robust")}
    offer = Suggestion("The robust loss (smoothing 0.1) and β 0.3", changes)
    return make_finding(
        course,
        "not-general",
        "It learns the training pairs only",
        says,
        evidence,
        "Tunstall 2024, Mitchell 2023",
        offer,
    )


def check_swapped_pairs(course: StageSeries) -> Finding | None:
    """Held-out pairs come out wrong more often than a coin, twice, while the training pairs come out right."""
    held = [one.metrics["accuracy"] for one in course.held_out if "accuracy" in one.metrics]
    if not isinstance(course.settings, Dpo) or len(held) < 2 or not course.held_out_rows:
        return None
    wrong = CHANCE_ACCURACY - 2.5 * (0.25 / course.held_out_rows) ** 0.5
    if max(held[-2:]) >= wrong or mean_of_last(course.accuracy, 5) < 0.6:
        return None
    evidence = [
        f"held-out accuracy {held[-2]:.2f}, then {held[-1]:.2f} on {course.held_out_rows} pairs; "
        f"{CHANCE_ACCURACY} is a coin toss",
        f"training accuracy {mean_of_last(course.accuracy, 5):.2f}",
    ]
    says = (
        "The better it does in training, the worse on held-out pairs. Most training pairs probably have chosen and rejected "
        "swapped: look at a few first."
    )
    return make_finding(
        course,
        "contradicted",
        "Held-out pairs say the opposite",
        says,
        evidence,
        "Mitchell 2023; 2.5 standard errors are our own",
        swap_pairs(course.recipe),
    )
