"""How a stage goes wrong that learns to write answers: without a reference, its loss is that of the tokens."""

from __future__ import annotations

import numpy as np

from trainer_core.diagnosis.finding import (
    Finding,
    best_before_worsening,
    epoch_boundaries,
    make_finding,
    mean_loss_near,
)
from trainer_core.diagnosis.series import (
    StageSeries,
    estimate_noise,
    linear_trend,
    mean_of_last,
)
from trainer_core.diagnosis.suggestions import (
    RAISE_RATE_FACTOR,
    raise_rate,
)
from trainer_core.runs.events import Suggestion

MIN_FLAT_STEPS = 50
"""SFT that has not moved in this many steps at full rate does not learn [field]."""
MIN_LOSS_CHANGE, TREND_SIGMA, DROP_SIGMA = 0.05, 3.0, 3.0
"""Sound SFT loses 5 % of its loss and more: 0.62 → 0.58 is about the least seen. It stands still where less is sure by so many
standard errors, and the first steps are not that many above the later ones [own]."""
EPOCH_DROP_SHARE = 0.2
"""A training loss that falls by this share when the rows come again, twice, knows them by heart [field; figure: own]."""


def check_not_learning(course: StageSeries) -> Finding | None:
    """No movement in STILL_STEPS at full rate, and none to come: were the fall steeper by all that noise can hide, it would
    still be too little at the end. Where the gradient is 0 nothing is left to chance."""
    if course.method.needs_reference or course.last_step < course.warmup_end + MIN_FLAT_STEPS:
        return None
    rise, error = linear_trend(course.loss)
    level, scatter = float(np.mean(course.loss)), estimate_noise(course.loss)
    frozen = not np.any(course.grad_norm[np.isfinite(course.grad_norm)])
    to_come = (TREND_SIGMA * error - rise) * course.total_steps / course.last_step
    if not frozen and (
        rise > max(0.03 * level, error) or to_come > MIN_LOSS_CHANGE * level or has_early_drop(course.loss)
    ):
        return None
    evidence = [f"loss {level:.3f} ± {scatter:.3f} over {course.last_step} steps, change {rise:+.3f} ± {error:.3f}"]
    if frozen:
        evidence.append("gradient norm 0 at every step: nothing is trained")
    says = "The loss is where it began. The steps are too small, or nothing of what they should move is trained."
    return make_finding(
        course, "still", "It is not learning", says, evidence, "common practice", raise_rate(course, RAISE_RATE_FACTOR)
    )


def has_early_drop(loss: np.ndarray) -> bool:
    """The first values are above the lowest third of the later ones: it learned quickly, whatever came then."""
    few = min(max(10, len(loss) // 10), 50)
    lowest = min(float(np.mean(part)) for part in np.array_split(loss[few:], 3))
    return float(np.mean(loss[:few])) - lowest > max(DROP_SIGMA * estimate_noise(loss) / few**0.5, 0.03 * lowest)


def check_memorisation(course: StageSeries) -> Finding | None:
    """Held-out loss rises while the training loss falls; or the training loss falls in stairs, where the rows come again."""
    if course.method.needs_reference:
        return None
    best, stairs = best_before_worsening(course), find_epoch_drops(course)
    if best and mean_of_last(course.loss, 5) <= mean_loss_near(course, best.step):
        at = best.step
        evidence = [
            f"held-out loss {best.loss:.3f} at step {best.step}, now {course.held_out[-1].loss:.3f}",
            f"training loss {mean_loss_near(course, best.step):.3f} → {mean_of_last(course.loss, 5):.3f}",
        ]
        offer = Suggestion(
            f"Stop {course.method.title} at step {at}, where it was best", {f"{course.stage}.max_steps": at}
        )
    elif len(stairs) > 1 and not is_latest_best(course):
        at = course.steps_per_epoch
        evidence = [f"training loss {before:.2f} → {after:.2f} at step {step}" for step, before, after in stairs]
        evidence.append(f"there the same rows come again: a pass takes {at} steps")
        offer = Suggestion(
            f"Stop {course.method.title} after one pass, at step {at}", {f"{course.stage}.max_steps": at}
        )
    else:
        return None
    says = "It goes on learning the rows by heart, and gets worse on rows it has not seen."
    if not best:
        says = (
            "It knows the rows by heart: each time they come again it is better at once, and learns little in between."
        )
    return make_finding(
        course,
        "memorising",
        "It has begun to memorise",
        says,
        evidence,
        "Tunstall 2024, common practice; what counts as worse is our own",
        offer,
    )


def find_epoch_drops(course: StageSeries) -> list[tuple[int, float, float]]:
    """Where the loss falls by STAIR, and by far more than noise, as the rows come again: the step, the loss before and after."""
    found = []
    width = min(max(5, course.steps_per_epoch // 4), 20)
    for step in epoch_boundaries(course):
        at = course.index_at(step) + 1
        before, after = course.loss[max(0, at - width) : at], course.loss[at : at + width]
        fall = float(np.mean(before)) - float(np.mean(after)) if len(after) == len(before) == width else 0.0
        if fall > max(
            EPOCH_DROP_SHARE * float(np.mean(before)), DROP_SIGMA * estimate_noise(course.loss) * (2 / width) ** 0.5
        ):
            found.append((step, float(np.mean(before)), float(np.mean(after))))
    return found


def is_latest_best(course: StageSeries) -> bool:
    """Is the newest held-out loss the lowest of several?"""
    losses = [one.loss for one in course.held_out]
    return len(losses) > 1 and losses[-1] == min(losses)
