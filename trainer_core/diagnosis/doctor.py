"""What a run's numbers mean: each known way for SFT or DPO to go wrong, the evidence that names it, and one way out.

Every check is a pure function of what a run has said so far, and stays silent until its evidence is there. CHECKS is in order of
weight: the first finding is the one to act on. Sources as in config/recipe.py; besides: [Pal] Pal 2024, Smaug · [Raz] Razin
2024, likelihood displacement · [Nak] Nakkiran 2020, double descent · [own] chosen here, so that noise alone does not raise it:
see tests/trainer_core/diagnosis/test_doctor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.diagnosis.finding import Finding
from trainer_core.diagnosis.rules_answers import (
    AnswerTraits,
    check_longer_answers,
    check_missing_eos,
    check_repetition,
    traits_from_samples,
    traits_from_scores,
)
from trainer_core.diagnosis.rules_any import check_divergence, check_double_descent, check_memorised_loss, check_spikes
from trainer_core.diagnosis.rules_dpo import (
    check_chosen_collapse,
    check_diverging_margin,
    check_easy_pairs,
    check_flat_margin,
    check_generalisation,
    check_no_gradient,
    check_overfitting,
    check_swapped_pairs,
)
from trainer_core.diagnosis.rules_sft import check_memorisation, check_not_learning
from trainer_core.diagnosis.series import (
    StageSeries,
    average_points,
    steps_per_point,
)
from trainer_core.runs.compare_events import LaneScore
from trainer_core.runs.events import Stage
from trainer_core.runs.run_state import RunState


def diagnose(view: RunState, recipe: Recipe, scores: Iterable[LaneScore] = ()) -> tuple[Finding, ...]:
    """Every finding on a run so far, the weightiest first.

    Args:
        scores: how the run's lanes answered in Compare, where they were scored.
    """
    courses = [build_series(view, recipe, stage) for stage in recipe.method.stages]
    answered = traits_from_samples(view) | {
        score.lane.lower(): traits_from_scores(score.own) for score in scores if score.own
    }
    found = [check(course) for check in CHECKS for course in courses if course.points]
    found += [check(courses[-1], answered) for check in ANSWER_CHECKS if courses[-1].points]
    return tuple(one for one in found if one)


def build_series(view: RunState, recipe: Recipe, stage: Stage) -> StageSeries:
    """The part of a run that belongs to one stage."""
    steps = [point for point in view.points if point.stage == stage]
    points = average_points(steps, steps_per_point(recipe.stage_settings(stage)))
    held_out = tuple(one for one in view.evaluated if one.stage == stage)
    there = view.prepared.held_out if view.prepared else 0
    measured = held_out[-1].rows if held_out and held_out[-1].rows else there
    trained = view.prepared.row_count(METHODS[stage].rows) if view.prepared else 0
    return StageSeries(stage, recipe, points, held_out, measured, trained)


CHECKS: tuple[Callable[[StageSeries], Finding | None], ...] = (
    check_divergence, check_diverging_margin, check_swapped_pairs, check_no_gradient,
    check_not_learning, check_overfitting, check_memorisation, check_generalisation,
    check_chosen_collapse, check_easy_pairs, check_memorised_loss, check_flat_margin, check_spikes,
    check_double_descent,
)  # fmt: skip
ANSWER_CHECKS: tuple[Callable[[StageSeries, Mapping[str, AnswerTraits]], Finding | None], ...] = (
    check_missing_eos,
    check_repetition,
    check_longer_answers,
)
