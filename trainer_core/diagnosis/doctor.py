"""What a run's numbers mean: each known way for SFT or DPO to go wrong, the evidence that names it, and one way out.

Every check is a pure function of what a run has said so far, and stays silent until its evidence is there. CHECKS is in order of
weight: the first finding is the one to act on. Sources as in config.py; besides: [Pal] Pal 2024, Smaug · [Raz] Razin 2024,
likelihood displacement · [Nak] Nakkiran 2020, double descent · [own] chosen here, so that noise alone does not raise it: see
tests/trainer_core/diagnosis/test_doctor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from trainer_core.config.recipe import Recipe
from trainer_core.diagnosis.finding import Finding
from trainer_core.diagnosis.rules_answers import Answers, from_samples, longer, repeating, scored, unended
from trainer_core.diagnosis.rules_any import diverged, double_descent, spiking, too_low
from trainer_core.diagnosis.rules_dpo import (
    collapsing,
    contradicted,
    dead,
    flat,
    margins_diverging,
    not_general,
    overfitting,
    trivial,
)
from trainer_core.diagnosis.rules_sft import memorising, not_learning
from trainer_core.diagnosis.series import (
    Course,
    joined,
    steps_of_a_point,
)
from trainer_core.runs.events import LaneScore, Stage
from trainer_core.runs.run_state import RunView


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


CHECKS: tuple[Callable[[Course], Finding | None], ...] = (
    diverged, margins_diverging, contradicted, dead,
    not_learning, overfitting, memorising, not_general, collapsing, trivial, too_low, flat, spiking,
    double_descent,
)  # fmt: skip
ANSWER_CHECKS: tuple[Callable[[Course, Mapping[str, Answers]], Finding | None], ...] = (unended, repeating, longer)
