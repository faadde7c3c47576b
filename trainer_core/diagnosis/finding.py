"""A finding, and the statistics that rules share."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from trainer_core.diagnosis.series import StageSeries, estimate_noise, mean_of_last, rolling_median, roughness
from trainer_core.diagnosis.suggestions import ensure_change
from trainer_core.runs.events import Evaluation, Stage, Suggestion
from trainer_core.texts import Text

LN2 = log(2)
"""The loss of sigmoid DPO where policy and reference agree [DPO]."""
HEALTHY_MARGIN = 3.0
"""Sound runs end with margins of 1 to 3 [field]. Twice that in the first half, or more with spikes, is too much [own]."""
SPIKE_SIGMA, SPIKES = 8.0, 3
"""A spike is this many times the noise above its neighbours; three are no accident [own]."""
WORSE_SHARE = 0.03
"""A held-out loss this share above its best, at two measurements in a row, is worse [own] …"""
WORSE_ROWS, WORSE_CHECKS, WORSE_SIGMA = 32, 6, 5.0
"""… on this many rows. Fewer rows vary more, by the root of their number. From this many checks on, the variation itself is
measured, and worse is this many times that: neighbouring checks are alike, so the best can be luck [own]."""
FALL_SHARE, FALL_SIGMA = 0.15, 5.0
"""Chosen answers lose a little likelihood in sound DPO; this share, far above the noise, is much [Pal, Raz; figures: own]."""
CHANCE_ACCURACY, FLAT_ACCURACY = 0.5, 0.55
"""Accuracy of a guess, and what is hardly more [field: sound runs reach 0.6 to 0.8]."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, in texts of the section `[finding.<name>]`.

    Attributes:
        key: stage and name, such as "dpo.flat".
        step: the stage's step at which the evidence was complete.
        says: what it means, in one or two sentences.
        evidence: the numbers behind it.
        source: where the threshold is from.
        offer: what to do about it, and what that changes in the recipe.
    """

    key: str
    stage: Stage
    step: int
    title: Text
    says: Text
    evidence: tuple[Text, ...]
    source: Text
    offer: Suggestion


def make_finding(
    course: StageSeries,
    name: str,
    evidence: list[Text],
    offer: Suggestion,
    says: Text | None = None,
    step: int | None = None,
) -> Finding:
    """The finding of that name.

    Args:
        offer: replaced by another if the recipe is already so.
        says: if the name's own explanation does not fit the case.
        step: if it is not the last one.
    """
    title, explanation, source = (Text(f"finding.{name}.{part}") for part in ("title", "says", "source"))
    at, helps = step or course.last_step, ensure_change(course, offer)
    return Finding(
        f"{course.stage}.{name}", course.stage, at, title, says or explanation, tuple(evidence), source, helps
    )


def find_spikes(course: StageSeries) -> np.ndarray:
    """Where the loss stands far above its neighbours, by index."""
    width = 15
    if len(course.loss) <= width:
        return np.array([], int)
    above = course.loss[width:] - rolling_median(course.loss, width)[:-1]
    floor = 0.25 * float(np.median(course.loss)) if not course.method.needs_reference else course.loss[0]
    found = np.flatnonzero(above > max(SPIKE_SIGMA * 1.4826 * float(np.median(np.abs(above))), floor)) + width
    return found if len(found) and course.loss[found].max() >= course.loss[0] * 0.5 else np.array([], int)


def epoch_boundaries(course: StageSeries) -> list[int]:
    """The last step of each epoch but the final one."""
    size = course.steps_per_epoch
    return list(range(size, course.last_step, size)) if size else []


def measure_fall(values: np.ndarray, size: int) -> tuple[float, float, float, float]:
    """How far the mean of `size` values fell from start to end; both means; the standard error."""
    start, end = float(np.mean(values[:size])), mean_of_last(values, size)
    return start - end, start, end, estimate_noise(values) * (2 / size) ** 0.5


def has_sigmoid_loss(course: StageSeries) -> bool:
    """Is the loss sigmoid's, so that ln 2 and 0.2 have their meaning?"""
    return bool(abs(course.loss[0] - LN2) < 0.02)


def best_before_worsening(course: StageSeries) -> Evaluation | None:
    """The best held-out measurement, if the last two are clearly worse."""
    if len(course.held_out) < 3:
        return None
    best = min(course.held_out, key=lambda measured: measured.loss)
    bound = best.loss + max(WORSE_SHARE * abs(best.loss), 0.01, held_out_uncertainty(course, best.loss))
    return best if min(measured.loss for measured in course.held_out[-2:]) > bound else None


def held_out_uncertainty(course: StageSeries, best: float) -> float:
    """How far above its best a held-out loss may be by chance."""
    if len(course.held_out) >= WORSE_CHECKS:
        return WORSE_SIGMA * roughness([measured.loss for measured in course.held_out])
    return WORSE_SHARE * abs(best) * (WORSE_ROWS / max(1, course.held_out_rows)) ** 0.5


def mean_loss_near(course: StageSeries, step: int) -> float:
    """The mean loss of the five steps up to this one."""
    end = course.index_at(step) + 1
    return float(np.mean(course.loss[max(0, end - 5) : end]))
