"""A finding, and the statistics that rules share."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from trainer_core.diagnosis.series import (
    StageSeries,
    estimate_noise,
    mean_of_last,
    rolling_median,
    roughness,
)
from trainer_core.diagnosis.suggestions import (
    ensure_change,
)
from trainer_core.runs.events import Evaluation, Stage, Suggestion

LN2 = log(2)
"""The loss of sigmoid DPO where policy and reference agree [DPO]."""
HEALTHY_MARGIN = 3.0
"""Sound runs end with margins of 1 to 3 [field]; twice that before the half is on its way out, as is more with spikes [own]."""
SPIKE_SIGMA, SPIKES = 8.0, 3
"""A spike stands this many times the noise above its neighbours; three are no accident [own]."""
WORSE_SHARE = 0.03
"""A held-out loss this share above its best, at two measurements in a row, is worse [own] …"""
WORSE_ROWS, WORSE_CHECKS, WORSE_SIGMA = 32, 6, 5.0
"""… on that many rows. Fewer wiggle more, as the root of their number; once there are that many checks, how much is measured,
and it must be so many times that: checks that follow each other are alike, so the best is luck at times [own]."""
FALL_SHARE, FALL_SIGMA = 0.15, 5.0
"""Chosen answers lose a little likelihood in sound DPO; this share, so far beyond the noise, is much [Pal, Raz; figures: own]."""
CHANCE_ACCURACY, FLAT_ACCURACY = 0.5, 0.55
"""Accuracy of a guess, and what is hardly more [field: sound runs reach 0.6 to 0.8]."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, as a person reads it.

    Attributes:
        key: its name in code, such as "dpo.flat".
        step: the stage's step at which the evidence was complete.
        says: what it means, in one or two sentences.
        evidence: the numbers behind it.
        source: where the threshold is from.
        offer: what to do about it, and what that changes in the recipe (nothing, where only the data can help).
    """

    key: str
    stage: Stage
    step: int
    title: str
    says: str
    evidence: tuple[str, ...]
    source: str
    offer: Suggestion


def find_spikes(course: StageSeries) -> np.ndarray:
    """Where the loss stands far above its neighbours', by index."""
    width = 15
    if len(course.loss) <= width:
        return np.array([], int)
    above = course.loss[width:] - rolling_median(course.loss, width)[:-1]
    floor = 0.25 * float(np.median(course.loss)) if not course.method.needs_reference else course.loss[0]
    found = np.flatnonzero(above > max(SPIKE_SIGMA * 1.4826 * float(np.median(np.abs(above))), floor)) + width
    return found if len(found) and course.loss[found].max() >= course.loss[0] * 0.5 else np.array([], int)


def epoch_boundaries(course: StageSeries) -> list[int]:
    """The steps after which the rows come again."""
    return (
        list(range(course.steps_per_epoch, course.last_step, course.steps_per_epoch)) if course.steps_per_epoch else []
    )


def measure_fall(values: np.ndarray, size: int) -> tuple[float, float, float, float]:
    """How far the mean of `size` values fell from the start to the end; both means; the standard error."""
    began, ended = float(np.mean(values[:size])), mean_of_last(values, size)
    return began - ended, began, ended, estimate_noise(values) * (2 / size) ** 0.5


# ---- what several checks ask, and what they offer


def make_finding(
    course: StageSeries,
    key: str,
    title: str,
    says: str,
    evidence: list[str],
    source: str,
    offer: Suggestion,
    step: int | None = None,
) -> Finding:
    """Of the course's last step, if no other is named; what is offered always changes something."""
    at, helps = step or course.last_step, ensure_change(course, offer)
    return Finding(f"{course.stage}.{key}", course.stage, at, title, says, tuple(evidence), source, helps)


def has_sigmoid_loss(course: StageSeries) -> bool:
    """Is the loss sigmoid's, so that ln 2 and 0.2 mean what they say?"""
    return bool(abs(course.loss[0] - LN2) < 0.02)


def best_before_worsening(course: StageSeries) -> Evaluation | None:
    """The best held-out measurement, if the last two are clearly worse."""
    if len(course.held_out) < 3:
        return None
    best = min(course.held_out, key=lambda one: one.loss)
    bound = best.loss + max(WORSE_SHARE * abs(best.loss), 0.01, held_out_uncertainty(course, best.loss))
    return best if min(one.loss for one in course.held_out[-2:]) > bound else None


def held_out_uncertainty(course: StageSeries, best: float) -> float:
    """How far above its best a held-out loss may be by chance."""
    if len(course.held_out) >= WORSE_CHECKS:
        return WORSE_SIGMA * roughness([one.loss for one in course.held_out])
    return WORSE_SHARE * abs(best) * (WORSE_ROWS / max(1, course.held_out_rows)) ** 0.5


def mean_loss_near(course: StageSeries, step: int) -> float:
    """The mean loss of the five steps up to this one."""
    at = course.index_at(step) + 1
    return float(np.mean(course.loss[max(0, at - 5) : at]))
