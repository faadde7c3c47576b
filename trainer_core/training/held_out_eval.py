"""Evaluation on held-out rows while a stage trains, and early stopping when the best loss has passed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.data import Chat, Pair
from trainer_core.data.tokenize import MASKED, as_message_dicts, encode_chat, encode_pair
from trainer_core.planning.eval_budget import MAX_EVAL_ROWS, EvalBudget
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Evaluation, Notice, Stage
from trainer_core.training.preserved_state import preserved_state
from trainer_core.training.progress import ProgressCallback

TokenRow = dict[str, Any]


@dataclass(frozen=True)
class EvalSums:
    """Sums over rows. weight: answer tokens (SFT) or pairs (DPO); the other fields are means times that."""

    weight: float
    loss: float
    accuracy: float = 0.0
    margin: float = 0.0

    def __add__(self, other: EvalSums) -> EvalSums:
        return EvalSums(
            self.weight + other.weight,
            self.loss + other.loss,
            self.accuracy + other.accuracy,
            self.margin + other.margin,
        )


def sft_sums(trainer: Any, rows: list[TokenRow]) -> EvalSums:
    """The loss of a batch by SFT's own formula."""
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    tokens = int((batch["labels"][..., 1:] != MASKED).sum())
    return EvalSums(tokens, float(trainer.compute_loss(trainer.model, batch)) * tokens)


def dpo_sums(trainer: Any, rows: list[TokenRow]) -> EvalSums:
    """Loss, accuracy and margin of a batch by TRL's own formulas. The reference never moves, so its half is kept in the rows."""
    if not all("ref_chosen_logps" in row for row in rows):
        bare = [{name: value for name, value in row.items() if not name.startswith("ref_")} for row in rows]
        batch = trainer._prepare_inputs(trainer.data_collator(bare))
        for side, values in zip(
            ("chosen", "rejected"), trainer.compute_ref_log_probs(trainer.model, batch), strict=True
        ):
            for row, value in zip(rows, values.tolist(), strict=True):
                row[f"ref_{side}_logps"] = value
    with reference_from_rows(trainer):
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator(rows)))
    said, count = trainer._metrics["eval"], len(rows)
    accuracy, margin = (said[f"rewards/{name}"][-1] for name in ("accuracies", "margins"))
    return EvalSums(count, float(loss) * count, accuracy * count, margin * count)


@dataclass(frozen=True)
class HeldOutSet:
    """The rows of a stage as its trainer's collator takes them, and how a batch of them is measured.

    passes: over the rows in the first check, where DPO reads the reference as well.
    """

    stage: Stage
    rows: Sequence[TokenRow]
    tally: Callable[[Any, list[TokenRow]], EvalSums]
    passes: int = 1


def sft_held_out(tokenizer: Any, held_out: Sequence[Chat], length: int) -> HeldOutSet:
    """SFT's held-out conversations, cut as in training."""
    encoded = [encode_chat(tokenizer, chat).truncate(length) for chat in held_out[:MAX_EVAL_ROWS]]
    rows = [{"input_ids": row.input_ids, "labels": row.labels} for row in encoded if row.target_count]
    return HeldOutSet("sft", rows, sft_sums)


def dpo_held_out(trainer: Any, tokenizer: Any, held_out: Sequence[Pair], length: int) -> HeldOutSet:
    """DPO's held-out pairs, made tokens of by the trainer itself; those that differ beyond the length teach nothing."""
    shown = [pair for pair in held_out[:MAX_EVAL_ROWS] if encode_pair(tokenizer, pair).first_difference < length]
    if not shown:
        return HeldOutSet("dpo", (), dpo_sums)
    sides = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in shown]
    plain = [{name: as_message_dicts(messages) for name, messages in row.items()} for row in sides]
    made = trainer._prepare_dataset(Dataset.from_list(plain), tokenizer, trainer.args, "held-out")
    return HeldOutSet("dpo", list(made), dpo_sums, passes=2)


@contextmanager
def reference_from_rows(trainer: Any) -> Iterator[None]:
    """TRL reads the reference's log-probs from the batch, whether it does so in training or not."""
    usual = trainer.precompute_ref_logps
    trainer.precompute_ref_logps = True
    try:
        yield
    finally:
        trainer.precompute_ref_logps = usual


class HeldOutEval(TrainerCallback):
    """Measures the held-out rows on the way, has each new best saved, and ends a stage that is no better for `patience` checks.

    Args:
        before: the checks that earlier workers made up to here.

    Attributes:
        known: every check of the stage.
        stopped: has the stage been ended because its best has passed?
        used: on how many rows it is measured; 0 before the first check.
        saves: step → seconds of a checkpoint that was only made because of a new best.
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

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs or self.wants.should_stop or not self.is_due(state):
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
        """How many rows are measured; it is said where those are not all."""
        there = len(self.held_out.rows)
        count = self.eval_budget(state).rows_per_check(there, self.progress.median_step_seconds)
        if count < there:
            what = f"{count} of {there} held-out rows"
            self.emit(Notice(f"{self.held_out.stage.upper()}: the held-out curve is measured on {what}, to save time."))
        return count

    def evaluate_rows(self) -> EvalSums | None:
        """All rows that are measured; None where the user wants to leave before the end."""
        rows = sorted(self.held_out.rows[: self.used], key=row_tokens)
        tallies = []
        for batch in self.row_batches(rows):
            if self.wants.should_stop:
                return None
            tallies.append(self.held_out.tally(self.trainer, batch))
        return reduce(EvalSums.__add__, tallies)

    def row_batches(self, rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
        """Of the size used in training, so that a check needs no more memory than a step."""
        size = self.trainer.args.per_device_train_batch_size
        return (list(rows[at : at + size]) for at in range(0, len(rows), size))

    def build_event(self, step: int, sums: EvalSums, seconds: float) -> Evaluation:
        loss = sums.loss / sums.weight if sums.weight else math.nan
        took = round(seconds, 3)
        if self.held_out.stage == "sft":
            return Evaluation("sft", step, loss, rows=self.used, seconds=took)
        accuracy, margin = sums.accuracy / sums.weight, sums.margin / sums.weight
        return Evaluation("dpo", step, loss, accuracy, margin, self.used, took)

    def update_best(self, state: TrainerState, control: TrainerControl) -> None:
        """A new best is saved at once, so that it can be kept; with patience, too many checks without one end the stage."""
        best = self.best
        if best is None or state.global_step >= state.max_steps:
            return
        if best is self.known[-1]:
            self._asked = 0.0 if control.should_save else time.monotonic()
            control.should_save = True
        elif self.patience is not None and len(self.known) - 1 - self.known.index(best) >= self.patience:
            self.stopped = control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """What the save of a new best took is paid for by the checks: where saving is slow, there are fewer of them."""
        if self._asked:
            self.saves[state.global_step] = time.monotonic() - self._asked
            self._asked = 0.0


def row_tokens(row: TokenRow) -> int:
    """Tokens of a row, both sides of a pair."""
    return sum(len(value) for value in row.values() if isinstance(value, list))
