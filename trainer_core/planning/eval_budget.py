"""Time budget of a stage's evaluations, including saves of new bests: how many rows, and at which steps.

All evaluations together cost a bounded share of the stage's time, including the reference's pass over their rows: rows are
dropped first, then evaluations. Every evaluation uses the same rows, so that two differ by training alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer_core.methods.steps import is_spaced_step
from trainer_core.runs.events import Evaluation

EVAL_TIME_SHARE = 0.04
"""Largest share of the stage's training time; 5 % are promised, the rest covers slowdown outside the evaluation itself …"""
GRACE_SECONDS = 2.0
"""… but at least this much: otherwise a run of a minute would have no held-out curve."""
FORWARD_COST = 0.5
"""Cost of a row in evaluation ÷ in training: with frozen weights the backward pass costs as much as the forward pass. With
recomputed activations it is a third, so evaluation is cheaper than estimated."""
MIN_EVAL_ROWS, MAX_EVAL_ROWS = 4, 256
"""Fewer rows say too little, more add nothing."""


@dataclass(frozen=True)
class EvalBudget:
    """The evaluation budget of one stage.

    checks: requested evaluations, evenly spaced. total: optimiser steps. step_rows: rows per step. passes: over the rows in the
    first evaluation; two if DPO reads the reference as well.
    """

    checks: int
    total: int
    step_rows: int
    passes: int

    def allowed_seconds(self, step_seconds: float) -> float:
        """Seconds for all evaluations together."""
        return max(EVAL_TIME_SHARE * step_seconds * self.total, GRACE_SECONDS)

    def row_seconds(self, step_seconds: float) -> float:
        """Estimated seconds per row in an evaluation, from those in training."""
        return max(FORWARD_COST * step_seconds / self.step_rows, 1e-6)

    def rows_per_check(self, there: int, step_seconds: float) -> int:
        passes = self.checks + self.passes - 1
        affordable = int(self.allowed_seconds(step_seconds) / (self.row_seconds(step_seconds) * passes))
        return min(max(affordable, MIN_EVAL_ROWS), MAX_EVAL_ROWS, there)

    def is_due(self, step: int, made: Sequence[Evaluation], there: int, step_seconds: float) -> bool:
        """Is this step one of the evenly spaced evaluations that the budget still allows? The last step always is."""
        if not there or not is_spaced_step(step, self.total, self.checks):
            return False
        at, before = (one * self.checks // self.total for one in (step, made[-1].step if made else 0))
        return is_spaced_step(
            at - before, self.checks - before, max(1, self.affordable_checks(made, there, step_seconds))
        )

    def affordable_checks(self, made: Sequence[Evaluation], there: int, step_seconds: float) -> int:
        """Affordable remaining evaluations, from the last one's time, or before it from the estimated time per row."""
        allowed = self.allowed_seconds(step_seconds)
        if not made:
            return int(allowed / (min(MIN_EVAL_ROWS, there) * self.row_seconds(step_seconds))) - (self.passes - 1)
        last = made[-1].seconds / (self.passes if len(made) == 1 else 1)
        return int((allowed - sum(one.seconds for one in made)) / max(last, 1e-6))
