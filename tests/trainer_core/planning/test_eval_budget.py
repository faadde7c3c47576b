"""How often the held-out rows are measured, and on how many: never more than the stage's time allows."""

from __future__ import annotations

from random import Random

import pytest

from trainer_core.methods.steps import is_spaced_step
from trainer_core.planning.eval_budget import EVAL_TIME_SHARE, FORWARD_COST, GRACE_SECONDS, MIN_EVAL_ROWS, EvalBudget
from trainer_core.runs.events import Evaluation


def checked(budget: EvalBudget, there: int, step_seconds: float, row_seconds: float) -> list[Evaluation]:
    """The checks of a whole stage whose rows take so long."""
    made: list[Evaluation] = []
    rows = budget.rows_per_check(there, step_seconds)
    for step in range(1, budget.total + 1):
        if budget.is_due(step, made, there, step_seconds):
            passes = 1 if made else budget.passes
            made.append(Evaluation("dpo", step, 0.7, rows=rows, seconds=rows * passes * row_seconds))
    return made


def drawn(seed: int) -> tuple[EvalBudget, int, float]:
    random = Random(seed)
    budget = EvalBudget(
        random.randint(1, 20), random.randint(1, 2000), random.choice((1, 8, 32)), random.choice((1, 2))
    )
    return budget, random.randint(1, 400), random.choice((0.01, 0.3, 5.4))


@pytest.mark.parametrize("seed", range(200))
def test_the_checks_of_a_stage_cost_what_they_may_and_end_with_the_last_step(seed: int) -> None:
    budget, there, step_seconds = drawn(seed)
    each = budget.row_seconds(step_seconds)
    made = checked(budget, there, step_seconds, each)
    assert made[-1].step == budget.total and len(made) <= budget.checks
    least = min(MIN_EVAL_ROWS, there) * each * budget.passes  # one check is made however little time there is
    assert (
        sum(one.seconds for one in made)
        <= max(EVAL_TIME_SHARE * step_seconds * budget.total, GRACE_SECONDS, least) * 1.0001
    )


@pytest.mark.parametrize("seed", range(200))
def test_a_check_that_takes_twice_as_long_is_made_less_often(seed: int) -> None:
    budget, there, step_seconds = drawn(seed)
    each = 2 * budget.row_seconds(step_seconds)
    made = checked(budget, there, step_seconds, each)
    first, last = made[0].seconds, made[-1].seconds
    assert made[-1].step == budget.total
    assert sum(one.seconds for one in made) <= max(budget.allowed_seconds(step_seconds), first) + last


def test_where_there_is_time_every_check_measures_all_rows() -> None:
    budget = EvalBudget(checks=10, total=1000, step_rows=8, passes=2)
    made = checked(budget, 48, 4.0, budget.row_seconds(4.0))
    assert [one.step for one in made] == [step for step in range(1, 1001) if is_spaced_step(step, 1000, 10)]
    assert {one.rows for one in made} == {48}


def test_a_short_stage_gets_few_rows_and_then_few_checks() -> None:
    """30 steps of 8 pairs: 4 % are 19 passes over a pair; four go into the reference, so three checks of four are left."""
    budget = EvalBudget(checks=10, total=30, step_rows=8, passes=2)
    made = checked(budget, 16, 5.4, FORWARD_COST * 5.4 / 8)
    assert [one.rows for one in made] == [4, 4, 4] and made[-1].step == 30


def test_a_stage_that_goes_on_knows_what_was_spent() -> None:
    budget = EvalBudget(checks=10, total=100, step_rows=8, passes=1)
    dear = [Evaluation("sft", 10, 0.7, rows=4, seconds=budget.allowed_seconds(5.0))]
    assert [step for step in range(11, 101) if budget.is_due(step, dear, 16, 5.0)] == [100]


def test_without_rows_or_checks_there_are_none() -> None:
    assert not any(EvalBudget(10, 50, 8, 1).is_due(step, [], 0, 1.0) for step in range(1, 51))
    assert not any(EvalBudget(0, 50, 8, 1).is_due(step, [], 9, 1.0) for step in range(1, 51))
