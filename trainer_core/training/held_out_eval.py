"""Evaluation on held-out rows during a stage, and early stopping after the best loss."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from trainer_core.config.recipe import METHODS
from trainer_core.data.tokenize import MASKED
from trainer_core.methods.base import Method
from trainer_core.planning.eval_budget import EvalBudget
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Evaluation, Notice, Stage
from trainer_core.texts import Text, stage_text
from trainer_core.training.preserved_state import preserved_state
from trainer_core.training.progress import ProgressCallback, StepCallback
from trainer_core.training.token_rows import TokenRow


@dataclass(frozen=True)
class EvalSums:
    """Sums over rows. weight: answer tokens of conversations, or number of pairs; loss and metrics are means × weight."""

    weight: float
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: EvalSums) -> EvalSums:
        metrics = {name: value + other.metrics[name] for name, value in self.metrics.items()}
        return EvalSums(self.weight + other.weight, self.loss + other.loss, metrics)

    def mean_metrics(self) -> dict[str, float]:
        return {name: value / self.weight for name, value in self.metrics.items()}


def token_sums(trainer: Any, rows: list[TokenRow]) -> EvalSums:
    """The loss of a batch of conversations, by the trainer's own formula."""
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    tokens = int((batch["labels"][..., 1:] != MASKED).sum())
    return EvalSums(tokens, float(trainer.compute_loss(trainer.model, batch)) * tokens)


def pair_sums(trainer: Any, rows: list[TokenRow]) -> EvalSums:
    """Loss and metrics of a batch of pairs, by TRL's own formulas."""
    method, count = trainer.settings.method, len(rows)
    if method.needs_reference:
        loss = loss_beside_reference(trainer, rows)
    else:
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(rows)))
    said = {name.removeprefix("eval_"): values for name, values in trainer._metrics["eval"].items()}
    metrics = {one.key: said[one.log][-1] * count for one in method.metrics if one.held_out}
    return EvalSums(count, float(loss) * count, metrics)


def loss_beside_reference(trainer: Any, rows: list[TokenRow]) -> Any:
    """Cache the reference's half in the rows, because it never changes."""
    if not all("ref_chosen_logps" in row for row in rows):
        bare = [{name: value for name, value in row.items() if not name.startswith("ref_")} for row in rows]
        batch = trainer._prepare_inputs(trainer.data_collator(bare))
        for side, values in zip(
            ("chosen", "rejected"), trainer.compute_ref_log_probs(trainer.model, batch), strict=True
        ):
            for row, value in zip(rows, values.tolist(), strict=True):
                row[f"ref_{side}_logps"] = value
    with reference_from_rows(trainer):
        return trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(rows)))


@dataclass(frozen=True)
class HeldOutSet:
    """Held-out rows of a stage, in the format of its trainer's collator."""

    stage: Stage
    rows: Sequence[TokenRow]

    @property
    def method(self) -> Method:
        return METHODS[self.stage]

    @property
    def passes(self) -> int:
        """Passes over the rows in the first evaluation; two if the reference is read as well."""
        return 2 if self.method.needs_reference else 1

    def measure_batch(self, trainer: Any, rows: list[TokenRow]) -> EvalSums:
        return (token_sums if self.method.rows == "chat" else pair_sums)(trainer, rows)


@contextmanager
def reference_from_rows(trainer: Any) -> Iterator[None]:
    """Make TRL read the reference's log-probs from the batch, even if it does not in training."""
    usual = trainer.precompute_ref_logps
    trainer.precompute_ref_logps = True
    try:
        yield
    finally:
        trainer.precompute_ref_logps = usual


class HeldOutEval(StepCallback):
    """Evaluates the held-out rows, saves each new best, and ends a stage after `patience` evaluations without one.

    Args:
        before: evaluations by earlier workers.

    Attributes:
        known: all evaluations of the stage.
        stopped: has early stopping ended the stage?
        used: rows per evaluation; 0 before the first one.
        saves: step → seconds of a checkpoint made only because of a new best.
    """

    def __init__(
        self,
        trainer: Any,
        held_out: HeldOutSet,
        checks: int,
        patience: int | None,
        progress: ProgressCallback,
        before: Sequence[Evaluation] = (),
    ):
        self.trainer, self.held_out, self.checks, self.patience = trainer, held_out, checks, patience
        self.progress, self.known, self.stopped = progress, list(before), False
        self.used = before[-1].rows if before else 0
        self.saves, self._asked = dict[int, float](), 0.0

    @property
    def emit(self) -> EventLog:
        return self.progress.emit

    @property
    def wants(self) -> StopRequests:
        return self.progress.wants

    @property
    def best(self) -> Evaluation | None:
        finite = [one for one in self.known if math.isfinite(one.loss)]
        return min(finite, key=lambda one: one.loss, default=None)

    def after_step(self, logs: dict[str, float], state: TrainerState, control: TrainerControl) -> None:
        if self.wants.should_stop or not self.is_due(state):
            return
        began = time.monotonic()
        self.used = self.used or self.resolve_row_count(state)
        with preserved_state(self.trainer):
            found = self.evaluate_rows()
        took = time.monotonic() - began
        self.progress.exclude_time(took)
        if found is None:
            return
        self.known.append(self.build_event(state.global_step, found, took))
        self.emit(self.known[-1])
        self.update_best(state, control)

    def is_due(self, state: TrainerState) -> bool:
        there, step_seconds = len(self.held_out.rows), self.progress.median_step_seconds
        paid = [replace(one, seconds=one.seconds + self.saves.get(one.step, 0.0)) for one in self.known]
        return self.eval_budget(state).is_due(state.global_step, paid, there, step_seconds)

    def eval_budget(self, state: TrainerState) -> EvalBudget:
        args = self.trainer.args
        step_rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
        return EvalBudget(self.checks, state.max_steps, step_rows, self.held_out.passes)

    def resolve_row_count(self, state: TrainerState) -> int:
        """Rows per evaluation; emits a notice if they are fewer than all."""
        there = len(self.held_out.rows)
        count = self.eval_budget(state).rows_per_check(there, self.progress.median_step_seconds)
        if count < there:
            self.emit(Notice(stage_text(self.held_out.stage, Text("note.held_out_rows", count=count, total=there))))
        return count

    def evaluate_rows(self) -> EvalSums | None:
        """The sums over all rows; None if the user stops the run meanwhile."""
        rows = sorted(self.held_out.rows[: self.used], key=row_tokens)
        tallies = []
        for batch in self.row_batches(rows):
            if self.wants.should_stop:
                return None
            tallies.append(self.held_out.measure_batch(self.trainer, batch))
        return reduce(EvalSums.__add__, tallies)

    def row_batches(self, rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
        """Batches of the training size, so that an evaluation needs no more memory than a step."""
        size = self.trainer.args.per_device_train_batch_size
        return (list(rows[at : at + size]) for at in range(0, len(rows), size))

    def build_event(self, step: int, sums: EvalSums, seconds: float) -> Evaluation:
        loss = sums.loss / sums.weight if sums.weight else math.nan
        return Evaluation(self.held_out.stage, step, loss, sums.mean_metrics(), self.used, round(seconds, 3))

    def update_best(self, state: TrainerState, control: TrainerControl) -> None:
        """Save a new best at once, so that it can be used later; end the stage after `patience` evaluations without one."""
        best = self.best
        if best is None or state.global_step >= state.max_steps:
            return
        if best is self.known[-1]:
            self._asked = 0.0 if control.should_save else time.monotonic()
            control.should_save = True
        elif self.patience is not None and len(self.known) - 1 - self.known.index(best) >= self.patience:
            self.stopped = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Charge the save of a new best to the evaluation budget: slow saves mean fewer evaluations."""
        if self._asked:
            self.saves[state.global_step] = time.monotonic() - self._asked
            self._asked = 0.0


def row_tokens(row: TokenRow) -> int:
    """Tokens of a row, both sides of a pair."""
    return sum(len(value) for value in row.values() if isinstance(value, list))
