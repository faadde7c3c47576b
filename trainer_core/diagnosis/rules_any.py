"""How any training goes wrong."""

from __future__ import annotations

from math import isfinite

import numpy as np

from trainer_core.diagnosis.finding import (
    HEALTHY_MARGIN,
    SPIKES,
    Finding,
    epoch_boundaries,
    find_spikes,
    has_sigmoid_loss,
    make_finding,
)
from trainer_core.diagnosis.rules_dpo import check_diverging_margin
from trainer_core.diagnosis.series import (
    StageSeries,
    estimate_noise,
    mean_of_last,
    rolling_mean,
    rolling_median,
    turning_points,
)
from trainer_core.diagnosis.suggestions import lower_rate, round_setting, stabilise
from trainer_core.runs.events import Suggestion
from trainer_core.system.format import format_rate

MEMORISED_LOSS = 0.2
"""A training loss below this, early, is memory and not skill [U]."""
EARLY_SHARE = 1 / 3
"""The share of a DPO run that is early for that; half of an SFT run [own]."""
LOW_PAIRS = 32
"""A loss is low when it is so over that many pairs: of fewer, one run in ten is low by luck [own]."""
RISE_FACTOR, REGAIN_SHARE = 1.25, 0.15
"""A loss this many times its start, over several steps, has left; or back at its start, this share above its best [own]."""


# ---- every stage


def check_divergence(course: StageSeries) -> Finding | None:
    """The loss is no number, or has left its start upwards for several steps."""
    loss, left = course.loss, is_preference_divergence if course.method.needs_reference else is_token_divergence
    broken = (
        not isfinite(loss[-1]) or not np.isfinite(course.grad_norm[-3:]).any()
    )  # 16-bit training starts with one or two
    if not broken and not is_instant_divergence(loss) and (len(loss) < 10 or not left(loss)):
        return None
    finite = loss[np.isfinite(loss)]
    evidence = [
        f"loss {loss[-1]:.3g} at step {course.last_step}, {float(np.min(finite)) if len(finite) else 0:.3g} at its best"
    ]
    if course.method.needs_reference and np.any(np.isfinite(course.margin)):
        evidence.append(
            f"margin up to {np.nanmax(np.abs(course.margin)):.3g}; sound runs end at 1 to {HEALTHY_MARGIN:g}"
        )
    says = "The steps are too large: each undoes more than the one before has learned. What follows will not recover."
    return make_finding(
        course, "diverging", "The run is diverging", says, evidence, "common practice", lower_rate(course)
    )


def is_instant_divergence(loss: np.ndarray) -> bool:
    """The last three are more than twice the first two, or rise to more than four times the first: beyond any noise, so no more
    steps are waited for. The second loss may be high already, since the first step moves the weights."""
    if len(loss) < 4:
        return False
    third, second, last = loss[-3:]
    rising = 1.5 * loss[0] < third < second < last and last > 4 * loss[0]
    return bool(rising or loss[-3:].min() > 2 * max(loss[0], loss[1]))


def is_token_divergence(loss: np.ndarray) -> bool:
    """The last five are high in the middle, by far more than noise; or, slower, all that was won is lost again."""
    five, width = rolling_median(loss, 5), max(10, len(loss) // 15)
    if five[-1] > RISE_FACTOR * five[0] and five[-1] > float(np.min(five)) + 6 * estimate_noise(loss):
        return True
    soft = rolling_mean(loss, width)
    best = float(np.min(soft))
    return bool(soft[-1] > soft[0] and soft[-1] > (1 + REGAIN_SHARE) * best + 6 * estimate_noise(loss) / width**0.5)


def is_preference_divergence(loss: np.ndarray) -> bool:
    """A loss against a reference swings when it leaves: the mean of the last eight is above the start, two of them far above."""
    return bool(
        mean_of_last(loss, 8) > max(RISE_FACTOR * loss[0], loss[0] + 0.3) and np.sum(loss[-8:] > loss[0] + 0.8) >= 2
    )


def check_spikes(course: StageSeries) -> Finding | None:
    """Single steps whose loss stands far above their neighbours'."""
    spikes = find_spikes(course)
    if len(spikes) < SPIKES or check_diverging_margin(course):
        return None
    where = ", ".join(f"{course.loss[at]:.2f} at step {course.steps[at]:.0f}" for at in spikes[-SPIKES:])
    evidence = [
        f"{len(spikes)} spikes; the last: {where}",
        f"around them the loss is {np.median(course.loss[15:]):.2f}",
    ]
    says = "Now and then a batch throws the model back: a few rows are odd (cut, garbage, another language), or the rate is high."
    rate = course.settings.learning_rate / 2
    offer = Suggestion(
        f"Half the {course.stage.upper()} learning rate ({format_rate(rate)})",
        {f"{course.stage}.learning_rate": round_setting(rate)},
    )
    return make_finding(
        course, "spikes", "The loss jumps", says, evidence, "common practice; what counts as a spike is our own", offer
    )


def check_double_descent(course: StageSeries) -> Finding | None:
    """The smoothed loss dips, rises and dips again, and not because the rows have come again."""
    width = max(10, len(course.loss) // 15)
    if len(course.loss) < 6 * width:
        return None
    soft = rolling_median(course.loss, width)  # not means: a few spikes are no wave
    least = max(10 * estimate_noise(course.loss) / width**0.5, 0.08 * float(np.median(soft)))
    corners = turning_points(soft, least)
    falls = [at for at, to in zip(corners, corners[1:], strict=False) if soft[to] < soft[at]]
    if len(falls) < 2:
        return None
    top = falls[1]
    if any(abs(step - course.steps[top + width // 2]) <= 2 * width for step in epoch_boundaries(course)):
        return None
    dip = corners[corners.index(top) - 1]
    evidence = [
        f"down to {soft[dip]:.2f} near step {course.steps[dip + width // 2]:.0f}, up to {soft[top]:.2f} near step "
        f"{course.steps[top + width // 2]:.0f}, now {soft[-1]:.2f}"
    ]
    says = "Dip, rise, dip: large ranks first fit each row by itself, then find what rows share. Judge it by the second dip."
    return make_finding(
        course,
        "double-descent",
        "The loss came back up before it fell again",
        says,
        evidence,
        "Nakkiran 2020, common practice",
        stabilise(course),
    )


def check_memorised_loss(course: StageSeries) -> Finding | None:
    """The loss is below MEMORISED while there is much to come."""
    referenced = course.method.needs_reference
    share, width = EARLY_SHARE if referenced else 0.5, course.points_for(LOW_PAIRS, 5)
    if len(course.loss) < 2 * width or (referenced and not has_sigmoid_loss(course)):
        return None
    low = np.flatnonzero(rolling_mean(course.loss, width) < MEMORISED_LOSS)
    if not len(low) or course.steps[low[0] + width - 1] > share * course.total_steps:
        return None
    at = int(course.steps[low[0] + width - 1])
    evidence = [f"loss {np.mean(course.loss[low[0] : low[0] + width]):.3f} at step {at} of {course.total_steps}"]
    says = (
        f"A loss below {MEMORISED_LOSS:g} this early means that the rows are learned by heart, or "
        f"that they hold little to learn."
    )
    alpha = max(1, course.lora.alpha // 2)
    offer = Suggestion(f"Half the LoRA alpha ({alpha})", {"lora.alpha": alpha})
    return make_finding(
        course, "low-loss", "The loss is very low very early", says, evidence, "Unsloth's guide 2025", offer, at
    )
