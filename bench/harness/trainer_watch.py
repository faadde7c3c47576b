"""What is read off a trainer while it trains, the same for ours and for every peer. Where unsloth is wanted, import it before."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from bench.suites.gpu_case import StageMeasurement
from trainer_core.runs.events import Stage
from trainer_core.system.format import GIB


@dataclass
class TrainerMeter:
    """Of one trainer. Peaks in bytes; tokens may still lie on the card."""

    seconds: list[float] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak: int = 0
    step_peak: int = 0
    states: tuple[int, int] = (0, 0)

    def record_peaks(self) -> None:
        """At the memory held at most, and forget it."""
        if torch.cuda.is_available():
            self.peak = max(self.peak, torch.cuda.max_memory_reserved())
            torch.cuda.reset_peak_memory_stats()

    @property
    def result(self) -> StageMeasurement:
        return StageMeasurement(
            seconds=tuple(self.seconds),
            tokens=tuple(int(count) for count in self.tokens),
            losses=tuple(self.losses),
            peak_gib=self.peak / GIB,
            step_gib=self.step_peak / GIB,
            states=self.states,
        )


def real_tokens(batch: Mapping[str, Any]) -> Any:
    """Tokens of a batch that are not padding: by its mask, or all ids where rows lie end to end and there is none."""
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else mask.sum()


class MeterCallback(TrainerCallback):
    """Reads a meter.

    Args:
        killed: this process is killed before the last step but one.
    """

    def __init__(self, meter: TrainerMeter, killed: bool):
        self.meter, self.killed, self.since, self.counts = meter, killed, time.monotonic(), list[Any]()

    def on_train_begin(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        self.since = time.monotonic()

    def on_step_begin(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        if self.killed and state.global_step == state.max_steps - 2:
            os.kill(os.getpid(), signal.SIGKILL)
        self.counts.clear()  # the probe's
        self.meter.record_peaks()

    def on_step_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
        self.meter.tokens.append(sum(self.counts))
        if torch.cuda.is_available():
            self.meter.step_peak = max(self.meter.step_peak, torch.cuda.max_memory_allocated())

    def on_log(self, args, state, control, logs=None, **_):  # type: ignore[no-untyped-def]
        if logs and "loss" in logs:
            self.meter.seconds.append(time.monotonic() - self.since)
            self.meter.losses.append(float(logs["loss"]))
            self.since = time.monotonic()

    def on_train_end(self, args, state, control, optimizer=None, **_):  # type: ignore[no-untyped-def]
        held = [value for one in optimizer.state.values() for value in one.values() if torch.is_tensor(value)]
        self.meter.states = sum(value.dtype == torch.uint8 for value in held), len(held)
        self.meter.record_peaks()


def watch_trainers(killed: str = "") -> dict[Stage, TrainerMeter]:
    """From now on each trainer is read by a meter of its own.

    Args:
        killed: the stage before whose last step but one this process is killed.
    """
    meters: dict[Stage, TrainerMeter] = {}
    unwatched = Trainer.train

    def train(self: Any, *args: Any, **named: Any) -> Any:
        stage: Stage = "dpo" if "dpo" in type(self).__name__.lower() else "sft"
        watch, step = MeterCallback(meters.setdefault(stage, TrainerMeter()), killed == stage), self.training_step

        def counted(model: Any, inputs: Any, *more: Any, **others: Any) -> Any:
            watch.counts.append(real_tokens(inputs))
            return step(model, inputs, *more, **others)

        self.training_step = counted
        self.add_callback(watch)
        return unwatched(self, *args, **named)

    Trainer.train = train  # type: ignore[method-assign]
    return meters
