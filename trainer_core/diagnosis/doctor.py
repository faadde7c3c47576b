"""What a run's numbers mean: each known way for SFT or DPO to go wrong, its evidence, and what to do.

Every check is a pure function of the run so far, and finds nothing until its evidence is complete. CHECKS is in order of weight:
act on the first finding. Sources as in config/recipe.py, and: [Pal] Pal 2024, Smaug · [Raz] Razin 2024, likelihood displacement
· [Nak] Nakkiran 2020, double descent · [own] our own, chosen so that noise alone is never a finding: see
tests/trainer_core/diagnosis/test_doctor.py.
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
from trainer_core.diagnosis.series import StageSeries, average_points, steps_per_point
from trainer_core.runs.compare_events import LaneScore
from trainer_core.runs.events import Stage
from trainer_core.runs.run_state import RunState


def diagnose(view: RunState, recipe: Recipe, scores: Iterable[LaneScore] = ()) -> tuple[Finding, ...]:
    """Every finding on a run so far, the weightiest first.

    Args:
        scores: of the run's lanes in Compare, if they were scored.
    """
    courses = [build_series(view, recipe, stage) for stage in recipe.method.stages]
    scored = {score.lane.lower(): traits_from_scores(score.own) for score in scores if score.own}
    traits = traits_from_samples(view) | scored
    found = [check(course) for check in CHECKS for course in courses if course.points]
    found += [check(courses[-1], traits) for check in ANSWER_CHECKS if courses[-1].points]
    return tuple(finding for finding in found if finding)


def build_series(view: RunState, recipe: Recipe, stage: Stage) -> StageSeries:
    """The part of a run that belongs to one stage."""
    steps = [point for point in view.points if point.stage == stage]
    points = average_points(steps, steps_per_point(recipe.stage_settings(stage)))
    held_out = tuple(measured for measured in view.evaluated if measured.stage == stage)
    measured_rows = held_out[-1].rows if held_out else 0
    data = view.prepared
    held_out_rows, rows = (data.held_out, data.row_count(METHODS[stage].rows)) if data else (0, 0)
    return StageSeries(stage, recipe, points, held_out, measured_rows or held_out_rows, rows)


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
