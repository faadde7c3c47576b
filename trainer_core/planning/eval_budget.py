"""The time that a stage's evaluations may take, saves of new bests included: how many rows, and at which steps.

All checks together cost a bounded share of the stage's time, the reference's pass over their rows included: rows are left out
first, then checks. The same rows are measured at every check, so that two of them differ by the training alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer_core.methods.steps import is_spaced_step
from trainer_core.runs.events import Evaluation

EVAL_TIME_SHARE = 0.04
"""Of the stage's training time, at most; 5 % are promised, and what a check disturbs beside its own time has to fit as well …"""
GRACE_SECONDS = 2.0
"""… but so much in any case: a run of a minute would have no held-out curve otherwise."""
FORWARD_COST = 0.5
"""Of a row's time in training, the part that a check takes: with frozen weights the way back costs as much as the way forth.
Where activations are computed again it is a third, so a check is then cheaper than expected."""
MIN_EVAL_ROWS, MAX_EVAL_ROWS = 4, 256
"""Rows. Fewer say too little, more say nothing new."""


@dataclass(frozen=True)
class EvalBudget:
    """The bound for one stage.

    checks: asked for, evenly spaced. total: optimiser steps. step_rows: rows of a step. passes: over the rows in the first
    check, where DPO reads the reference as well.
    """

    checks: int
    total: int
    step_rows: int
    passes: int

    def allowed_seconds(self, step_seconds: float) -> float:
        """That all checks may take."""
        return max(EVAL_TIME_SHARE * step_seconds * self.total, GRACE_SECONDS)

    def row_seconds(self, step_seconds: float) -> float:
        """What a row should take in a check, by what it takes in training."""
        return max(FORWARD_COST * step_seconds / self.step_rows, 1e-6)

    def rows_per_check(self, there: int, step_seconds: float) -> int:
        """How many of the rows that there are each check measures."""
        passes = self.checks + self.passes - 1
        affordable = int(self.allowed_seconds(step_seconds) / (self.row_seconds(step_seconds) * passes))
        return min(max(affordable, MIN_EVAL_ROWS), MAX_EVAL_ROWS, there)

    def is_due(self, step: int, made: Sequence[Evaluation], there: int, step_seconds: float) -> bool:
        """Is this step one of the evenly spaced ones, as many as can still be paid for? The last step is one in any case."""
        if not there or not is_spaced_step(step, self.total, self.checks):
            return False
        at, before = (one * self.checks // self.total for one in (step, made[-1].step if made else 0))
        return is_spaced_step(
            at - before, self.checks - before, max(1, self.affordable_checks(made, there, step_seconds))
        )

    def affordable_checks(self, made: Sequence[Evaluation], there: int, step_seconds: float) -> int:
        """How many more checks can be paid for: by the last one, or by what a row should take before there was one."""
        allowed = self.allowed_seconds(step_seconds)
        if not made:
            return int(allowed / (min(MIN_EVAL_ROWS, there) * self.row_seconds(step_seconds))) - (self.passes - 1)
        last = made[-1].seconds / (self.passes if len(made) == 1 else 1)
        return int((allowed - sum(one.seconds for one in made)) / max(last, 1e-6))
