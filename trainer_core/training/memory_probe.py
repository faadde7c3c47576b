"""Measures memory before the first step: the longest rows, forward and backward, at half and at the whole micro-batch.

No optimiser step runs, and gradients, random states and the trainer's sums are restored, so that the run is the same to
the last bit. If the whole batch will not fit, the next fallback of out_of_memory.py is taken at once.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.config.recipe import METHODS
from trainer_core.planning.measurements import ProbePoint, extrapolate_peak
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import MemoryProbed, Notice, Stage
from trainer_core.system.format import format_gb
from trainer_core.texts import Text, stage_text
from trainer_core.training import row_lengths
from trainer_core.training.peak_memory import MemoryMeter
from trainer_core.training.preserved_state import preserved_mode

MAX_PROBE_SECONDS = 20.0
MAX_RUN_SHARE = 0.02
"""A probe may take this many seconds, or this share of the run; one that exceeds both is cut short."""
EIGHT_BIT_BYTES = 2 + 8 / 256
"""Bytes of 8-bit AdamW per number: two states, and a scale per 256 numbers."""


class ProbeOutOfMemory(MemoryError):
    """The measured peak exceeds the memory limit."""

    def __init__(self, peak: int, limit: int):
        super().__init__(Text("memory.too_little_measured", peak=format_gb(peak), limit=format_gb(limit)))


def probe_share(counts: Sequence[int], batches: int) -> float:
    """Share of a run that a probe adds: three of the longest batches ÷ all batches of the run."""
    return 3 * max(counts) / (sum(counts) / len(counts) * batches)


class MemoryProbe(TrainerCallback):
    """Measures once, after set-up and before training.

    Args:
        has_rung: is there a smaller setting to fall back to? Without one the run is tried anyway.
        learned: receives the measurement, for later plans.
    """

    def __init__(
        self,
        trainer: Any,
        stage: Stage,
        setting: str,
        emit: EventLog,
        gauge: MemoryMeter,
        has_rung: bool,
        learned: Callable[[Sequence[ProbePoint], int], None],
    ):
        self.trainer, self.stage, self.setting, self.emit = trainer, stage, setting, emit
        self.gauge, self.has_rung, self.learned = gauge, has_rung, learned
        self.counts = trainer.row_lengths

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        batches = (state.max_steps - state.global_step) * args.gradient_accumulation_steps
        rule = self.setting == "auto" and not torch.cuda.is_available()
        share = probe_share(self.counts, max(1, batches))
        if rule and share > MAX_RUN_SHARE:
            self.emit(Notice(stage_text(self.stage, Text("note.memory_unmeasured", share=share, limit=MAX_RUN_SHARE))))
            return
        self.measure(max(1, batches), 0 if optimizer and optimizer.state else optimiser_state_bytes(self.trainer))

    def measure(self, batches: int, optimiser: int) -> None:
        """Measure half, then the whole batch unless that takes too long; then report."""
        batch, began = self.trainer.args.per_device_train_batch_size, time.monotonic()
        self.trainer.current_gradient_accumulation_steps = self.trainer.args.gradient_accumulation_steps
        with probe_mode(self.trainer):
            preload_optimiser()
            points = [ProbePoint(0, self.gauge.current_bytes())]
            if torch.cuda.is_available():
                self.run_passes(max(1, batch // 2))  # compiles, and makes the first offload
            if batch > 1:
                points.append(self.run_passes(batch // 2))
            whole = self.batch_tokens(batch)
            cut = self.is_too_long(points[-1], whole, batches, time.monotonic() - began)
            if not cut and extrapolate_peak([points[0], *points], whole) + optimiser <= self.gauge.limit_bytes():
                points.append(self.run_passes(batch))
        self.report_result(points, whole, optimiser, time.monotonic() - began)

    def is_too_long(self, last: ProbePoint, whole: int, batches: int, so_far: float) -> bool:
        """Would the whole micro-batch take more than 20 s, and more than 2 % of the run?"""
        if not last.tokens:
            return False
        each = last.seconds * whole / last.tokens
        mean = sum(self.counts) / len(self.counts) / max(self.counts)
        return (
            so_far + each > MAX_PROBE_SECONDS
            and so_far + each > MAX_RUN_SHARE * batches * each / self.pass_count * mean
        )

    def batch_tokens(self, batch: int) -> int:
        """Tokens of a padded micro-batch of the longest rows; a pair is two rows."""
        return max(self.counts) * batch * METHODS[self.stage].sequences

    @property
    def pass_count(self) -> int:
        """Micro-batches until a step reaches its peak. The first one's gradients fragment the freed memory, so that a second one
        needs more."""
        return min(2, self.trainer.args.gradient_accumulation_steps)

    def run_passes(self, batch: int) -> ProbePoint:
        """Run the first micro-batches of a step, forward and backward, over the longest rows, as training does."""
        trainer, began = self.trainer, time.monotonic()
        places = row_lengths.longest_rows(self.counts, batch)
        trainer.model.zero_grad()
        with self.gauge.track_peak() as peak:
            for _ in range(self.pass_count):
                inputs = trainer._prepare_inputs(
                    trainer.data_collator([trainer.train_dataset[place] for place in places])
                )
                trainer.training_step(
                    trainer.model, inputs, trainer._get_num_items_in_batch([inputs], trainer.args.device)
                )
        return ProbePoint(self.batch_tokens(batch), peak.bytes, time.monotonic() - began)

    def report_result(self, points: list[ProbePoint], whole: int, optimiser: int, seconds: float) -> None:
        """Emit the result, pass it to later plans, and decide whether to start training.

        Raises:
            ProbeOutOfMemory: it does not fit, and a smaller setting is left to try.
        """
        cut = points[-1].tokens < whole
        line = points if len(points) > 1 else [*points, *points]
        peak = round(extrapolate_peak(line, whole)) + optimiser
        most, half = self.gauge.limit_bytes(), points[min(1, len(points) - 1)].bytes
        self.emit(MemoryProbed(self.stage, whole, half, peak, most, round(seconds, 2), cut))
        if len(points) > 1:
            self.learned(points, optimiser)
        if peak > most and self.has_rung:
            raise ProbeOutOfMemory(peak, most)


def optimiser_state_bytes(trainer: Any) -> int:
    """Bytes of AdamW's states, which the first step will allocate."""
    numbers = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    return round(numbers * (EIGHT_BIT_BYTES if "8bit" in str(trainer.args.optim) else 8))


def preload_optimiser() -> None:
    """Run an optimiser step on one number, so that its imports (a hundred megabytes) are loaded before the measurement."""
    number = torch.nn.Parameter(torch.zeros(1))
    number.grad = torch.zeros(1)
    torch.optim.AdamW([number]).step()


@contextmanager
def probe_mode(trainer: Any) -> Iterator[None]:
    """Training mode with gradients; afterwards everything is restored, bit for bit."""
    model = trainer.model
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    grads = [None if weight.grad is None else weight.grad.clone() for weight in trained]
    sums = copy.deepcopy(trainer._metrics)
    counts = trainer._total_train_tokens, trainer.tokens_seen, trainer.tokens_learned
    with preserved_mode(trainer):
        model.train()
        try:
            yield
        finally:
            for weight, grad in zip(trained, grads, strict=True):
                weight.grad = grad
            trainer._metrics = sums
            trainer._total_train_tokens, trainer.tokens_seen, trainer.tokens_learned = counts
