"""How any training goes wrong."""

from __future__ import annotations

from math import inf, isfinite

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
from trainer_core.diagnosis.suggestions import halve_alpha, halve_rate, lower_rate, stabilise
from trainer_core.texts import Text

MEMORISED_LOSS = 0.2
"""A training loss below this, early, comes from memory and not from skill [U]."""
EARLY_SHARE = 1 / 3
"""The share of a DPO run that is early for that; half of an SFT run [own]."""
LOW_PAIRS = 32
"""A loss is low if its mean over this many pairs is: over fewer, one run in ten is low by luck [own]."""
RISE_FACTOR, REGAIN_SHARE = 1.25, 0.15
"""A loss has left if it is this many times its start over several steps, or back at its start and this share above its best
[own]."""


def check_divergence(course: StageSeries) -> Finding | None:
    """The loss is not finite, or has been far above its start for several steps."""
    loss, left = course.loss, is_preference_divergence if course.method.needs_reference else is_token_divergence
    # 16-bit training starts with one or two gradients that are not finite
    broken = not isfinite(loss[-1]) or not np.isfinite(course.grad_norm[-3:]).any()
    if not broken and not is_instant_divergence(loss) and (len(loss) < 10 or not left(loss)):
        return None
    best = float(np.min(loss[np.isfinite(loss)], initial=inf))
    evidence = [Text("evidence.best_loss", loss=loss[-1], step=course.last_step, best=best)]
    if course.method.needs_reference and np.any(np.isfinite(course.margin)):
        largest = float(np.nanmax(np.abs(course.margin)))
        evidence.append(Text("evidence.largest_margin", margin=largest, sound=HEALTHY_MARGIN))
    return make_finding(course, "diverging", evidence, lower_rate(course))


def is_instant_divergence(loss: np.ndarray) -> bool:
    """The last three are more than twice the first two, or rise to more than four times the first: beyond any noise, so there is
    no need to wait. The second loss may be high too, since the first step moves the weights."""
    if len(loss) < 4:
        return False
    third, second, last = loss[-3:]
    rising = 1.5 * loss[0] < third < second < last and last > 4 * loss[0]
    return bool(rising or loss[-3:].min() > 2 * max(loss[0], loss[1]))


def is_token_divergence(loss: np.ndarray) -> bool:
    """The median of the last five is high, by far more than noise; or, slower, all progress is lost again."""
    five, width = rolling_median(loss, 5), max(10, len(loss) // 15)
    if five[-1] > RISE_FACTOR * five[0] and five[-1] > float(np.min(five)) + 6 * estimate_noise(loss):
        return True
    smooth = rolling_mean(loss, width)
    best = float(np.min(smooth))
    return bool(
        smooth[-1] > smooth[0] and smooth[-1] > (1 + REGAIN_SHARE) * best + 6 * estimate_noise(loss) / width**0.5
    )


def is_preference_divergence(loss: np.ndarray) -> bool:
    """A loss against a reference swings as it diverges: the mean of the last eight is above the start, two of them far above."""
    return bool(
        mean_of_last(loss, 8) > max(RISE_FACTOR * loss[0], loss[0] + 0.3) and np.sum(loss[-8:] > loss[0] + 0.8) >= 2
    )


def check_spikes(course: StageSeries) -> Finding | None:
    """Single steps whose loss stands far above their neighbours."""
    spikes = find_spikes(course)
    if len(spikes) < SPIKES or check_diverging_margin(course):
        return None
    evidence = [Text("evidence.spikes", spikes=len(spikes), usual=float(np.median(course.loss[15:])))]
    evidence += [Text("evidence.spike", loss=course.loss[at], step=course.steps[at]) for at in spikes[-SPIKES:]]
    return make_finding(course, "spikes", evidence, halve_rate(course))


def check_double_descent(course: StageSeries) -> Finding | None:
    """The smoothed loss dips, rises and dips again, and not because a new epoch began."""
    width = max(10, len(course.loss) // 15)
    if len(course.loss) < 6 * width:
        return None
    smooth = rolling_median(course.loss, width)  # a mean would turn a few spikes into a wave
    found = find_wave(smooth, max(10 * estimate_noise(course.loss) / width**0.5, 0.08 * float(np.median(smooth))))
    if not found:
        return None
    dip, top = found
    dip_step, top_step = course.steps[dip + width // 2], course.steps[top + width // 2]
    if any(abs(step - top_step) <= 2 * width for step in epoch_boundaries(course)):
        return None
    low, high, now = smooth[[dip, top, -1]]
    wave = Text("evidence.wave", dip=low, dip_step=dip_step, top=high, top_step=top_step, now=now)
    return make_finding(course, "double_descent", [wave], stabilise(course))


def find_wave(smooth: np.ndarray, least: float) -> tuple[int, int] | None:
    """The indices of the first dip and of the top after it, from which the values fall again; each swing is at least `least`."""
    corners = turning_points(smooth, least)
    tops = [at for at, end in zip(corners, corners[1:], strict=False) if smooth[end] < smooth[at]]
    return (corners[corners.index(tops[1]) - 1], tops[1]) if len(tops) > 1 else None


def check_memorised_loss(course: StageSeries) -> Finding | None:
    """The loss is below MEMORISED_LOSS early in the run."""
    referenced = course.method.needs_reference
    share, width = EARLY_SHARE if referenced else 0.5, course.points_for(LOW_PAIRS, 5)
    if len(course.loss) < 2 * width or (referenced and not has_sigmoid_loss(course)):
        return None
    means = rolling_mean(course.loss, width)
    low = np.flatnonzero(means < MEMORISED_LOSS)
    if not len(low) or course.steps[low[0] + width - 1] > share * course.total_steps:
        return None
    step = int(course.steps[low[0] + width - 1])
    evidence = [Text("evidence.low_loss", loss=means[low[0]], step=step, total=course.total_steps)]
    says = Text("finding.low_loss.says", limit=MEMORISED_LOSS)
    return make_finding(course, "low_loss", evidence, halve_alpha(course), says=says, step=step)
