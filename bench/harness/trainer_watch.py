"""What is read off a trainer while it trains, the same for ours and for every peer. Where unsloth is wanted, import it before."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from bench.suites.gpu_case import StageMeasurement
from trainer_core.runs.events import Stage
from trainer_core.system.format import GIB


def record_peaks(stage: StageMeasurement) -> None:
    """At the memory reserved at most, and forget it."""
    if torch.cuda.is_available():
        stage.peak_gib = max(stage.peak_gib, torch.cuda.max_memory_reserved() / GIB)
        torch.cuda.reset_peak_memory_stats()


def record_step_peak(stage: StageMeasurement) -> None:
    if torch.cuda.is_available():
        stage.step_gib = max(stage.step_gib, torch.cuda.max_memory_allocated() / GIB)


def read_counts(stages: Mapping[Stage, StageMeasurement]) -> dict[str, StageMeasurement]:
    """With tokens as numbers: while it trained, they were left where they were counted, so that no step waited for the card."""
    return {
        name: one.model_copy(update={"tokens": [int(count) for count in one.tokens]}) for name, one in stages.items()
    }


def real_tokens(batch: Mapping[str, Any]) -> Any:
    """Tokens of a batch that are not padding: by its mask, or all ids where rows lie end to end and there is none."""
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else mask.sum()


class StageCallback(TrainerCallback):
    """Measures a stage.

    Args:
        killed: this process is killed before the last step but one.
    """

    def __init__(self, stage: StageMeasurement, killed: bool):
        self.stage, self.killed, self.since, self.counts = stage, killed, time.monotonic(), list[Any]()

    def on_train_begin(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        self.since = time.monotonic()

    def on_step_begin(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        if self.killed and state.global_step == state.max_steps - 2:
            os.kill(os.getpid(), signal.SIGKILL)
        self.counts.clear()  # the probe's
        record_peaks(self.stage)

    def on_step_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        self.stage.tokens.append(sum(self.counts))
        record_step_peak(self.stage)

    def on_log(self, args, state, control, logs=None, **_):  # type: ignore[no-untyped-def]
        if logs and "loss" in logs:
            self.stage.seconds.append(time.monotonic() - self.since)
            self.stage.losses.append(float(logs["loss"]))
            self.since = time.monotonic()

    def on_train_end(self, args, state, control, optimizer=None, **_):  # type: ignore[no-untyped-def]
        held = [value for one in optimizer.state.values() for value in one.values() if torch.is_tensor(value)]
        self.stage.states = sum(value.dtype == torch.uint8 for value in held), len(held)
        record_peaks(self.stage)


def watch_trainers(killed: str = "") -> dict[Stage, StageMeasurement]:
    """From now on each trainer is measured, by its stage.

    Args:
        killed: the stage before whose last step but one this process is killed.
    """
    stages: dict[Stage, StageMeasurement] = {}
    unwatched = Trainer.train

    def train(self: Any, *args: Any, **named: Any) -> Any:
        stage: Stage = "dpo" if "dpo" in type(self).__name__.lower() else "sft"
        watch, step = StageCallback(stages.setdefault(stage, StageMeasurement()), killed == stage), self.training_step

        def counted(model: Any, inputs: Any, *more: Any, **others: Any) -> Any:
            watch.counts.append(real_tokens(inputs))
            return step(model, inputs, *more, **others)

        self.training_step = counted
        self.add_callback(watch)
        return unwatched(self, *args, **named)

    Trainer.train = train  # type: ignore[method-assign]
    return stages
