"""What a run's numbers mean: each known way for SFT or DPO to go wrong, the evidence that names it, and one way out.

Every check is a pure function of what a run has said so far, and stays silent until its evidence is there. CHECKS is in order of
weight: the first finding is the one to act on. Sources as in config.py; besides: [Pal] Pal 2024, Smaug · [Raz] Razin 2024,
likelihood displacement · [Nak] Nakkiran 2020, double descent · [own] chosen here, so that noise alone does not raise it: see
tests/test_doctor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log
from typing import Any

import numpy as np

from trainer_core.config import Recipe
from trainer_core.course import (
    Course,
    joined,
    mean_after,
    medians,
    noise,
    rolling,
    steps_of_a_point,
    trend,
    turns,
    wiggle,
)
from trainer_core.cures import (
    FASTER,
    SLOWER,
    changing,
    faster,
    more_beta,
    short,
    single_loss,
    slower,
    steadier,
    tidy,
    unswapped,
    with_sft_term,
)
from trainer_core.data.words import has_markers
from trainer_core.events import Evaluated, LaneScore, Offer, OwnAnswers, Sampled, Stage
from trainer_core.run_view import RunView

LN2 = log(2)
"""The loss of sigmoid DPO where policy and reference agree [DPO]."""
MEMORISED = 0.2
"""A training loss below this, early, is memory and not skill [U]."""
EARLY = 1 / 3
"""The share of a DPO run that is early for that; half of an SFT run [own]."""
LOW_PAIRS = 32
"""A loss is low when it is so over that many pairs: of fewer, one run in ten is low by luck [own]."""
HEALTHY_MARGIN = 3.0
"""Sound runs end with margins of 1 to 3 [field]; twice that before the half is on its way out, as is more with spikes [own]."""
RISEN, REGAINED = 1.25, 0.15
"""A loss this many times its start, over several steps, has left; or back at its start, this share above its best [own]."""
SPIKE_SIGMA, SPIKES = 8.0, 3
"""A spike stands this many times the noise above its neighbours; three are no accident [own]."""
STILL_STEPS = 50
"""SFT that has not moved in this many steps at full rate does not learn [field]."""
MOVED, SURE, FELL_SIGMA = 0.05, 3.0, 3.0
"""Sound SFT loses 5 % of its loss and more: 0.62 → 0.58 is about the least seen. It stands still where less is sure by so many
standard errors, and the first steps are not that many above the later ones [own]."""
FLAT_STEPS, FLAT_MARGIN = 100, 0.1
"""A DPO margin still below this after that many steps at full rate is flat [field]."""
DEAD_STEPS, DEAD_MARGIN, DEAD_LOSS = 20, 0.005, 0.002
"""Margin and loss this close to their start, step after step: nothing is trained [own]."""
TRIVIAL_SHARE, TRIVIAL_PAIRS = 0.1, 48
"""All right within the first tenth of the steps [field], and for so many pairs in a row: at 0.9 a chance of 0.6 % [own]."""
WORSE = 0.03
"""A held-out loss this share above its best, at two measurements in a row, is worse [own] …"""
WORSE_ROWS, WORSE_CHECKS, WORSE_SIGMA = 32, 6, 5.0
"""… on that many rows. Fewer wiggle more, as the root of their number; once there are that many checks, how much is measured,
and it must be so many times that: checks that follow each other are alike, so the best is luck at times [own]."""
STAIR = 0.2
"""A training loss that falls by this share when the rows come again, twice, knows them by heart [field; figure: own]."""
FALLEN, FALLEN_SIGMA = 0.15, 5.0
"""Chosen answers lose a little likelihood in sound DPO; this share, so far beyond the noise, is much [Pal, Raz; figures: own]."""
COIN, HELD_OUT_FLAT = 0.5, 0.55
"""Accuracy of a guess, and what is hardly more [field: sound runs reach 0.6 to 0.8]."""
UNENDED, LONGER, REPEATED = 0.4, 1.5, 0.35
"""Lost share of answers that end by themselves; growth of answers; share of repeated phrases [own]."""
WHOLE = 0.75
"""Share of answers that must have ended before a stage, for their length to be known [own]."""
MARKED = 0.25
"""Share of answers with a template's markers: one in four, at two points in a row [own]."""


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
    offer: Offer


@dataclass(frozen=True)
class Answers:
    """What a lane's own answers are like: mean tokens, and shares. An answer that did not end was cut: it is at least as long.

    marked: with a chat template's markers, which are no part of an answer.
    """

    tokens: float
    ended: float
    repetition: float
    marked: float = 0.0


def examine(view: RunView, recipe: Recipe, scores: Iterable[LaneScore] = ()) -> tuple[Finding, ...]:
    """Every finding on a run so far, the weightiest first.

    Args:
        scores: how the run's lanes answered in Compare, where they were scored.
    """
    courses = [course_of(view, recipe, stage) for stage in recipe.method.stages]
    answered = from_samples(view) | {score.lane.lower(): scored(score.own) for score in scores if score.own}
    found = [check(course) for check in CHECKS for course in courses if course.points]
    found += [check(courses[-1], answered) for check in ANSWER_CHECKS if courses[-1].points]
    return tuple(one for one in found if one)


def course_of(view: RunView, recipe: Recipe, stage: Stage) -> Course:
    """The part of a run that belongs to one stage."""
    steps = [point for point in view.points if point.stage == stage]
    points = joined(steps, steps_of_a_point(getattr(recipe, stage)))
    held_out = tuple(one for one in view.evaluated if one.stage == stage)
    there = view.prepared.held_out if view.prepared else 0
    measured = held_out[-1].rows if held_out and held_out[-1].rows else there
    trained = getattr(view.prepared, "chats" if stage == "sft" else "pairs", 0)
    return Course(stage, recipe, points, held_out, measured, trained)


def from_samples(view: RunView) -> dict[str, Answers]:
    """What the sample answers are like, by lane. Of a stage its last two points, and of both the milder: one odd answer of
    four is no evidence, and a stage with one point has none."""
    before = next((one for one in view.sampled if one.step == 0 and one.samples), None)
    found = {"base": own(before)} if before else {}
    for stage in ("sft", "dpo"):
        points = [own(one) for one in view.sampled if one.stage == stage and one.step and one.samples]
        if len(points) > 1:
            found[stage] = milder(*points[-2:])
    return found


def own(said: Sampled) -> Answers:
    """A point's answers in numbers. Phrases are counted by words, for the tokens are not kept."""

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(said.samples)

    return Answers(
        mean(one.tokens for one in said.samples),
        mean(one.ended for one in said.samples),
        mean(repeated(one.answer.split()) for one in said.samples),
        mean(has_markers(one.answer) for one in said.samples),
    )


def scored(said: OwnAnswers) -> Answers:
    return Answers(said.tokens.value, said.ended.value, said.repetition.value)


def repeated(words: Sequence[str], width: int = 4) -> float:
    """The share of phrases of four words that were written before in the same answer."""
    phrases = [tuple(words[at : at + width]) for at in range(len(words) - width + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0


def milder(one: Answers, other: Answers) -> Answers:
    return Answers(
        min(one.tokens, other.tokens),
        max(one.ended, other.ended),
        min(one.repetition, other.repetition),
        min(one.marked, other.marked),
    )


# ---- both stages


def diverged(course: Course) -> Finding | None:
    """The loss is no number, or has left its start upwards for several steps."""
    loss, left = course.loss, left_mildly if course.stage == "sft" else left_wildly
    broken = not isfinite(loss[-1]) or not np.isfinite(course.norm[-3:]).any()  # 16-bit training starts with one or two
    if not broken and not left_at_once(loss) and (len(loss) < 10 or not left(loss)):
        return None
    finite = loss[np.isfinite(loss)]
    evidence = [
        f"loss {loss[-1]:.3g} at step {course.last}, {float(np.min(finite)) if len(finite) else 0:.3g} at its best"
    ]
    if course.stage == "dpo" and np.any(np.isfinite(course.margin)):
        evidence.append(
            f"margin up to {np.nanmax(np.abs(course.margin)):.3g}; sound runs end at 1 to {HEALTHY_MARGIN:g}"
        )
    says = "The steps are too large: each undoes more than the one before has learned. What follows will not recover."
    return finding(course, "diverging", "The run is diverging", says, evidence, "common practice", slower(course))


def left_at_once(loss: np.ndarray) -> bool:
    """The last three are more than twice the first two, or rise to more than four times the first: beyond any noise, so no more
    steps are waited for. The second loss may be high already, since the first step moves the weights."""
    if len(loss) < 4:
        return False
    third, second, last = loss[-3:]
    rising = 1.5 * loss[0] < third < second < last and last > 4 * loss[0]
    return bool(rising or loss[-3:].min() > 2 * max(loss[0], loss[1]))


def left_mildly(loss: np.ndarray) -> bool:
    """The last five are high in the middle, by far more than noise; or, slower, all that was won is lost again."""
    five, width = medians(loss, 5), max(10, len(loss) // 15)
    if five[-1] > RISEN * five[0] and five[-1] > float(np.min(five)) + 6 * noise(loss):
        return True
    soft = rolling(loss, width)
    best = float(np.min(soft))
    return bool(soft[-1] > soft[0] and soft[-1] > (1 + REGAINED) * best + 6 * noise(loss) / width**0.5)


def left_wildly(loss: np.ndarray) -> bool:
    """DPO swings when it leaves: the mean of the last eight is above the start, two of them far above."""
    return bool(mean_after(loss, 8) > max(RISEN * loss[0], loss[0] + 0.3) and np.sum(loss[-8:] > loss[0] + 0.8) >= 2)


def margins_diverging(course: Course) -> Finding | None:
    """The margin is far beyond a sound one long before the end, or beyond it while the loss has begun to jump."""
    if course.stage != "dpo" or "ipo" in course.recipe.dpo.losses:  # IPO sets its margin itself
        return None
    ahead = course.steps > 10
    margin, steps = course.margin[ahead], course.steps[ahead]
    if len(margin) < 10:
        return None
    wide = rolling(margin, 10) > 2 * HEALTHY_MARGIN
    early = bool(np.any(wide & (steps[9:] <= course.total / 2)))
    spikes = spikes_of(course) if mean_after(margin, 10) > HEALTHY_MARGIN else np.array([], int)
    if not early and len(spikes) < SPIKES:
        return None
    evidence = [
        f"margin {mean_after(margin, 10):.2f} at step {course.last} of {course.total}; sound runs end at 1 to {HEALTHY_MARGIN:g}"
    ]
    if len(spikes):
        evidence.append(f"the loss jumped {len(spikes)} times, to {course.loss[spikes[-1]]:.2f} last")
    says = "The policy runs away from its reference: margins grow without bound, and the loss jumps sooner or later."
    return finding(
        course,
        "margins",
        "The margins are diverging",
        says,
        evidence,
        "common practice; twice the sound margin is our own",
        slower(course),
    )


def spikes_of(course: Course) -> np.ndarray:
    """Where the loss stands far above its neighbours', by index."""
    width = 15
    if len(course.loss) <= width:
        return np.array([], int)
    above = course.loss[width:] - medians(course.loss, width)[:-1]
    floor = 0.25 * float(np.median(course.loss)) if course.stage == "sft" else course.loss[0]
    found = np.flatnonzero(above > max(SPIKE_SIGMA * 1.4826 * float(np.median(np.abs(above))), floor)) + width
    return found if len(found) and course.loss[found].max() >= course.loss[0] * 0.5 else np.array([], int)


def spiking(course: Course) -> Finding | None:
    """Single steps whose loss stands far above their neighbours'."""
    spikes = spikes_of(course)
    if len(spikes) < SPIKES or margins_diverging(course):
        return None
    where = ", ".join(f"{course.loss[at]:.2f} at step {course.steps[at]:.0f}" for at in spikes[-SPIKES:])
    evidence = [
        f"{len(spikes)} spikes; the last: {where}",
        f"around them the loss is {np.median(course.loss[15:]):.2f}",
    ]
    says = "Now and then a batch throws the model back: a few rows are odd (cut, garbage, another language), or the rate is high."
    rate = course.settings.learning_rate / 2
    offer = Offer(
        f"Half the {course.stage.upper()} learning rate ({short(rate)})", {f"{course.stage}.learning_rate": tidy(rate)}
    )
    return finding(
        course, "spikes", "The loss jumps", says, evidence, "common practice; what counts as a spike is our own", offer
    )


def double_descent(course: Course) -> Finding | None:
    """The smoothed loss dips, rises and dips again, and not because the rows have come again."""
    width = max(10, len(course.loss) // 15)
    if len(course.loss) < 6 * width:
        return None
    soft = medians(course.loss, width)  # not means: a few spikes are no wave
    least = max(10 * noise(course.loss) / width**0.5, 0.08 * float(np.median(soft)))
    corners = turns(soft, least)
    falls = [at for at, to in zip(corners, corners[1:], strict=False) if soft[to] < soft[at]]
    if len(falls) < 2:
        return None
    top = falls[1]
    if any(abs(step - course.steps[top + width // 2]) <= 2 * width for step in again(course)):
        return None
    dip = corners[corners.index(top) - 1]
    evidence = [
        f"down to {soft[dip]:.2f} near step {course.steps[dip + width // 2]:.0f}, up to {soft[top]:.2f} near step "
        f"{course.steps[top + width // 2]:.0f}, now {soft[-1]:.2f}"
    ]
    says = "Dip, rise, dip: large ranks first fit each row by itself, then find what rows share. Judge it by the second dip."
    return finding(
        course,
        "double-descent",
        "The loss came back up before it fell again",
        says,
        evidence,
        "Nakkiran 2020, common practice",
        steadier(course),
    )


# ---- SFT


def not_learning(course: Course) -> Finding | None:
    """No movement in STILL_STEPS at full rate, and none to come: were the fall steeper by all that noise can hide, it would
    still be too little at the end. Where the gradient is 0 nothing is left to chance."""
    if course.stage != "sft" or course.last < course.warm + STILL_STEPS:
        return None
    rise, error = trend(course.loss)
    level, scatter = float(np.mean(course.loss)), noise(course.loss)
    frozen = not np.any(course.norm[np.isfinite(course.norm)])
    to_come = (SURE * error - rise) * course.total / course.last
    if not frozen and (rise > max(0.03 * level, error) or to_come > MOVED * level or fell_at_once(course.loss)):
        return None
    evidence = [f"loss {level:.3f} ± {scatter:.3f} over {course.last} steps, change {rise:+.3f} ± {error:.3f}"]
    if frozen:
        evidence.append("gradient norm 0 at every step: nothing is trained")
    says = "The loss is where it began. The steps are too small, or nothing of what they should move is trained."
    return finding(course, "still", "It is not learning", says, evidence, "common practice", faster(course, FASTER))


def fell_at_once(loss: np.ndarray) -> bool:
    """The first values are above the lowest third of the later ones: it learned quickly, whatever came then."""
    few = min(max(10, len(loss) // 10), 50)
    lowest = min(float(np.mean(part)) for part in np.array_split(loss[few:], 3))
    return float(np.mean(loss[:few])) - lowest > max(FELL_SIGMA * noise(loss) / few**0.5, 0.03 * lowest)


def memorising(course: Course) -> Finding | None:
    """Held-out loss rises while the training loss falls; or the training loss falls in stairs, where the rows come again."""
    if course.stage != "sft":
        return None
    best, stairs = passed_best(course), stairs_of(course)
    if best and mean_after(course.loss, 5) <= around(course, best.step):
        at = best.step
        evidence = [
            f"held-out loss {best.loss:.3f} at step {best.step}, now {course.held_out[-1].loss:.3f}",
            f"training loss {around(course, best.step):.3f} → {mean_after(course.loss, 5):.3f}",
        ]
        offer = Offer(f"Stop SFT at step {at}, where it was best", {"sft.max_steps": at})
    elif len(stairs) > 1 and not still_best(course):
        at = course.epoch_steps
        evidence = [f"training loss {before:.2f} → {after:.2f} at step {step}" for step, before, after in stairs]
        evidence.append(f"there the same rows come again: a pass takes {at} steps")
        offer = Offer(f"Stop SFT after one pass, at step {at}", {"sft.max_steps": at})
    else:
        return None
    says = "It goes on learning the rows by heart, and gets worse on rows it has not seen."
    if not best:
        says = (
            "It knows the rows by heart: each time they come again it is better at once, and learns little in between."
        )
    return finding(
        course,
        "memorising",
        "It has begun to memorise",
        says,
        evidence,
        "Tunstall 2024, common practice; what counts as worse is our own",
        offer,
    )


def again(course: Course) -> list[int]:
    """The steps after which the rows come again."""
    return list(range(course.epoch_steps, course.last, course.epoch_steps)) if course.epoch_steps else []


def stairs_of(course: Course) -> list[tuple[int, float, float]]:
    """Where the loss falls by STAIR, and by far more than noise, as the rows come again: the step, the loss before and after."""
    found = []
    width = min(max(5, course.epoch_steps // 4), 20)
    for step in again(course):
        at = course.at(step) + 1
        before, after = course.loss[max(0, at - width) : at], course.loss[at : at + width]
        fall = float(np.mean(before)) - float(np.mean(after)) if len(after) == len(before) == width else 0.0
        if fall > max(STAIR * float(np.mean(before)), FELL_SIGMA * noise(course.loss) * (2 / width) ** 0.5):
            found.append((step, float(np.mean(before)), float(np.mean(after))))
    return found


def still_best(course: Course) -> bool:
    """Is the newest held-out loss the lowest of several?"""
    losses = [one.loss for one in course.held_out]
    return len(losses) > 1 and losses[-1] == min(losses)


def too_low(course: Course) -> Finding | None:
    """The loss is below MEMORISED while there is much to come."""
    share, width = EARLY if course.stage == "dpo" else 0.5, course.points_for(LOW_PAIRS, 5)
    if len(course.loss) < 2 * width or (course.stage == "dpo" and not starts_at_ln2(course)):
        return None
    low = np.flatnonzero(rolling(course.loss, width) < MEMORISED)
    if not len(low) or course.steps[low[0] + width - 1] > share * course.total:
        return None
    at = int(course.steps[low[0] + width - 1])
    evidence = [f"loss {np.mean(course.loss[low[0] : low[0] + width]):.3f} at step {at} of {course.total}"]
    says = f"A loss below {MEMORISED:g} this early means that the rows are learned by heart, or that they hold little to learn."
    alpha = max(1, course.lora.alpha // 2)
    offer = Offer(f"Half the LoRA alpha ({alpha})", {"lora.alpha": alpha})
    return finding(
        course, "low-loss", "The loss is very low very early", says, evidence, "Unsloth's guide 2025", offer, at
    )


# ---- DPO


def dead(course: Course) -> Finding | None:
    """Margin and loss stay exactly where they started."""
    if course.stage != "dpo" or not starts_at_ln2(course):
        return None
    moving = np.array([point.learning_rate > 0 for point in course.points]) & (course.steps > course.warm)
    count = min(DEAD_STEPS, max(6, course.total // 2))
    if moving.sum() < count:
        return None
    margin, loss = course.margin[-count:], course.loss[-count:]
    if np.nanmax(np.abs(margin)) > DEAD_MARGIN or np.max(np.abs(loss - LN2)) > DEAD_LOSS:
        return None
    evidence = [f"loss {loss[-1]:.4f} (ln 2 is {LN2:.4f}), margin {margin[-1]:+.4f} after {course.last} steps"]
    if not np.any(course.norm[-count:]):
        evidence.append("gradient norm 0: nothing is trained")
    says = "Policy and reference are still the same model: the adapter is not being trained, or by far too little."
    return finding(
        course,
        "dead",
        "DPO has not begun to move",
        says,
        evidence,
        "Rafailov 2023; how close counts as the same is our own",
        faster(course, SLOWER),
    )


def flat(course: Course) -> Finding | None:
    """The margin stays near 0 and is not on its way."""
    needed = min(FLAT_STEPS, max(30, int(0.8 * course.total) - course.warm))
    if course.stage != "dpo" or course.last < course.warm + needed or dead(course):
        return None
    margin = course.margin[np.isfinite(course.margin)]
    if len(margin) < 20 or mean_after(margin, 20) >= FLAT_MARGIN or mean_after(course.accuracy, 20) > 0.65:
        return None
    rise, error = trend(margin)
    to_come = max(rise, 0) * (course.total / course.last - 1)
    if rise > 3 * error and mean_after(margin, 20) + to_come >= 3 * FLAT_MARGIN:
        return None
    evidence = [
        f"margin {mean_after(margin, 20):+.3f}, accuracy {mean_after(course.accuracy, 20):.2f} over 20 steps up to {course.last}"
    ]
    says = "Chosen answers do not pull ahead: the rate is too low, β too high, or the pairs disagree with each other."
    return finding(course, "flat", "The margin stays flat", says, evidence, "common practice", faster(course, FASTER))


def trivial(course: Course) -> Finding | None:
    """Every pair is right, from a step in the first tenth of the run on."""
    if course.stage != "dpo" or "ipo" in course.recipe.dpo.losses:  # IPO ends at a set margin, however easy the pairs
        return None
    held = [one.accuracy for one in course.held_out if one.accuracy is not None]
    if held and held[-1] < COIN:
        return None  # what held-out pairs contradict is wrong, not easy
    right = course.accuracy >= 0.999
    enough = course.points_for(TRIVIAL_PAIRS, 1)
    begins = np.flatnonzero(rolling(right, enough) > 0.999)
    if len(right) < enough or not len(begins) or course.steps[begins[0]] > max(3, TRIVIAL_SHARE * course.total):
        return None
    first = int(begins[0])
    at, pairs = int(course.steps[first + enough - 1]), enough * course.rows_of_a_point
    evidence = [f"accuracy 1.00 from step {course.steps[first]:.0f} of {course.total} on, for {pairs} pairs"]
    says = (
        "All pairs are told apart at once: they are too easy (by length, by a fixed phrase), repeated, or known from SFT. "
        "Little can be learned from them; look at some."
    )
    rank = max(4, course.lora.rank // 2)
    changes: dict[str, Any] = {"lora.rank": rank, "lora.alpha": max(1, course.lora.alpha * rank // course.lora.rank)}
    offer = Offer(f"The IPO loss and rank {rank}", changes | single_loss("ipo"))
    return finding(
        course,
        "trivial",
        "The pairs are too easy",
        says,
        evidence,
        "common practice; the number of pairs is our own",
        offer,
        at,
    )


def collapsing(course: Course) -> Finding | None:
    """Both sides lose likelihood, the rejected one faster."""
    if course.stage != "dpo" or len(course.points) < 20 or np.isnan(course.column("chosen")).any():
        return None
    size = max(5, min(20, len(course.points) // 5))
    (chosen, began, ended, error), (rejected, *_) = (fall(course.column(name), size) for name in ("chosen", "rejected"))
    if chosen < max(FALLEN_SIGMA * error, FALLEN * abs(began)) or rejected <= chosen:
        return None
    evidence = [
        f"chosen answers {began:.0f} → {ended:.0f} nats, rejected ones down by {rejected:.0f}",
        f"over {course.last} steps; noise ± {error:.1f}",
    ]
    says = "The gap grows because both answers become unlikely, the rejected one faster. The model may end up writing neither."
    return finding(
        course,
        "collapse",
        "Both answers are losing likelihood",
        says,
        evidence,
        "Pal 2024, Razin 2024; how much is our own",
        with_sft_term(course.recipe.dpo),
    )


def fall(values: np.ndarray, size: int) -> tuple[float, float, float, float]:
    """How far the mean of `size` values fell from the start to the end; both means; the standard error."""
    began, ended = float(np.mean(values[:size])), mean_after(values, size)
    return began - ended, began, ended, noise(values) * (2 / size) ** 0.5


def overfitting(course: Course) -> Finding | None:
    """Training margin up, held-out loss past its best, held-out margin no longer growing."""
    best = passed_best(course)
    if best is None or course.stage != "dpo" or still_gains(best, course.held_out[-1]):
        return None
    then, now = float(course.margin[course.at(best.step)]), mean_after(course.margin, 5)
    if now < then:
        return None
    evidence = [
        f"held-out loss {best.loss:.3f} at step {best.step}, now {course.held_out[-1].loss:.3f}",
        f"training margin {then:.2f} → {now:.2f}",
    ]
    says = "On the training pairs it still improves; on pairs it has not seen it is past its best."
    offer = Offer(f"Stop DPO at step {best.step}, where it was best", {"dpo.max_steps": best.step})
    return finding(
        course,
        "overfitting",
        "It is overfitting",
        says,
        evidence,
        "Tunstall 2024, common practice; what counts as worse is our own",
        offer,
    )


def still_gains(best: Evaluated, last: Evaluated) -> bool:
    """Has the held-out margin grown by a tenth since the lowest loss? Then a few pairs that are badly wrong raise the loss,
    while the others still gain: seen in real runs whose held-out accuracy rose to the end."""
    if best.margin is None or last.margin is None:
        return False
    return last.margin > best.margin + 0.1 * abs(best.margin)


def not_general(course: Course) -> Finding | None:
    """The training margin is large, and held-out pairs know nothing of it."""
    held = [
        (one.accuracy, one.margin) for one in course.held_out if one.accuracy is not None and one.margin is not None
    ]
    if course.stage != "dpo" or len(held) < 3 or passed_best(course) or contradicted(course):
        return None
    (accuracy, margin), trained = held[-1], mean_after(course.margin, 5)
    if trained < 1 or accuracy > HELD_OUT_FLAT or not -0.1 * trained < margin < 0.2 * trained:
        return None
    evidence = [
        f"training margin {trained:.2f}, held-out {margin:.2f}",
        f"held-out accuracy {accuracy:.2f}; {COIN} is a coin toss",
    ]
    says = "What it learns from the training pairs does not carry over: too few or too varied pairs, or labels that disagree."
    changes = {"dpo.label_smoothing": 0.1, "dpo.beta": max(0.3, course.recipe.dpo.beta), **single_loss("robust")}
    offer = Offer("The robust loss (smoothing 0.1) and β 0.3", changes)
    return finding(
        course,
        "not-general",
        "It learns the training pairs only",
        says,
        evidence,
        "Tunstall 2024, Mitchell 2023",
        offer,
    )


def contradicted(course: Course) -> Finding | None:
    """Held-out pairs come out wrong more often than a coin, twice, while the training pairs come out right."""
    held = [one.accuracy for one in course.held_out if one.accuracy is not None]
    if course.stage != "dpo" or len(held) < 2 or not course.held_out_rows:
        return None
    wrong = COIN - 2.5 * (0.25 / course.held_out_rows) ** 0.5
    if max(held[-2:]) >= wrong or mean_after(course.accuracy, 5) < 0.6:
        return None
    evidence = [
        f"held-out accuracy {held[-2]:.2f}, then {held[-1]:.2f} on {course.held_out_rows} pairs; {COIN} is a coin toss",
        f"training accuracy {mean_after(course.accuracy, 5):.2f}",
    ]
    says = (
        "The better it does in training, the worse on held-out pairs. Most training pairs probably have chosen and rejected "
        "swapped: look at a few first."
    )
    return finding(
        course,
        "contradicted",
        "Held-out pairs say the opposite",
        says,
        evidence,
        "Mitchell 2023; 2.5 standard errors are our own",
        unswapped(course.recipe),
    )


# ---- answers


def unended(course: Course, answered: Mapping[str, Answers]) -> Finding | None:
    """The adapter's answers have a template's markers; or DPO's run on to where they are cut, and ended by themselves before.
    SFT may learn longer answers than can be shown: that they are cut then says nothing."""
    ours = answered.get(course.stage)
    before = max(
        (one for lane, one in answered.items() if lane != course.stage), key=lambda one: one.ended, default=None
    )
    if ours is None or before is None:
        return None
    run_on = before.ended - ours.ended >= UNENDED and ours.tokens >= LONGER * before.tokens
    if ours.marked - before.marked >= MARKED:
        evidence = [
            f"{ours.marked:.0%} of the answers hold markers of the chat template; {before.marked:.0%} did before"
        ]
        says = (
            "The format is coming apart: the model writes the marks between turns into its answers. Check the template."
        )
    elif course.stage == "dpo" and run_on:
        evidence = [
            f"{ours.ended:.0%} of the answers end by themselves; {before.ended:.0%} did before this stage",
            f"at least {ours.tokens:.0f} tokens each; {before.tokens:.0f} before",
        ]
        says = "The format is coming apart: the model no longer says when it is done."
    else:
        return None
    offer = with_sft_term(course.recipe.dpo) if course.stage == "dpo" else slower(course)
    return finding(
        course,
        "format",
        "Answers no longer end by themselves",
        says,
        evidence,
        "common practice; how many is our own",
        offer,
    )


def longer(course: Course, answered: Mapping[str, Answers]) -> Finding | None:
    """DPO's answers have grown well beyond those of the model before it."""
    before, ours = answered.get("sft") or answered.get("base"), answered.get("dpo")
    if course.stage != "dpo" or before is None or ours is None or before.ended < WHOLE or unended(course, answered):
        return None
    if ours.tokens < LONGER * before.tokens or not len(course.margin) or mean_after(course.margin, 5) <= 0:
        return None
    evidence = [
        f"{before.tokens:.0f} tokens before DPO, {'at least ' if ours.ended < 1 else ''}{ours.tokens:.0f} after",
        f"margin {mean_after(course.margin, 5):.2f}",
    ]
    says = (
        "Part of the margin is length: the chosen answers are probably longer than the rejected ones in the data. The Data tab "
        "counts it under Health: Chosen is longer."
    )
    offer = Offer("The length-normalised loss", single_loss("sigmoid_norm"))
    return finding(
        course,
        "verbosity",
        "Answers grow with the margin",
        says,
        evidence,
        "common practice; how much is our own",
        offer,
    )


def repeating(course: Course, answered: Mapping[str, Answers]) -> Finding | None:
    """The adapter says the same phrases over and over, and the base did not."""
    base, ours = answered.get("base"), answered.get(course.stage)
    if base is None or ours is None or ours.repetition < max(REPEATED, 2 * base.repetition):
        return None
    evidence = [f"{ours.repetition:.0%} of its phrases are repeats; {base.repetition:.0%} for the base"]
    says = "The answers go in circles: the adapter has moved too far from its base."
    offer = slower(course) if course.stage == "sft" else more_beta(course.recipe.dpo)
    return finding(
        course, "repeating", "Answers repeat themselves", says, evidence, "common practice; how much is our own", offer
    )


CHECKS: tuple[Callable[[Course], Finding | None], ...] = (
    diverged, margins_diverging, contradicted, dead,
    not_learning, overfitting, memorising, not_general, collapsing, trivial, too_low, flat, spiking,
    double_descent,
)  # fmt: skip
ANSWER_CHECKS: tuple[Callable[[Course, Mapping[str, Answers]], Finding | None], ...] = (unended, repeating, longer)


# ---- what several checks ask, and what they offer


def finding(
    course: Course,
    key: str,
    title: str,
    says: str,
    evidence: list[str],
    source: str,
    offer: Offer,
    step: int | None = None,
) -> Finding:
    """Of the course's last step, if no other is named; what is offered always changes something."""
    at, helps = step or course.last, changing(course, offer)
    return Finding(f"{course.stage}.{key}", course.stage, at, title, says, tuple(evidence), source, helps)


def starts_at_ln2(course: Course) -> bool:
    """Is the loss sigmoid's, so that ln 2 and 0.2 mean what they say?"""
    return bool(abs(course.loss[0] - LN2) < 0.02)


def passed_best(course: Course) -> Evaluated | None:
    """The best held-out measurement, if the last two are clearly worse."""
    if len(course.held_out) < 3:
        return None
    best = min(course.held_out, key=lambda one: one.loss)
    bound = best.loss + max(WORSE * abs(best.loss), 0.01, doubt(course, best.loss))
    return best if min(one.loss for one in course.held_out[-2:]) > bound else None


def doubt(course: Course, best: float) -> float:
    """How far above its best a held-out loss may be by chance."""
    if len(course.held_out) >= WORSE_CHECKS:
        return WORSE_SIGMA * wiggle([one.loss for one in course.held_out])
    return WORSE * abs(best) * (WORSE_ROWS / max(1, course.held_out_rows)) ** 0.5


def around(course: Course, step: int) -> float:
    """The mean loss of the five steps up to this one."""
    at = course.at(step) + 1
    return float(np.mean(course.loss[max(0, at - 5) : at]))
