"""Follows TRL's training loop: emits an event per logged step and obeys stop requests between steps."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.config.recipe import METHODS
from trainer_core.diagnosis.divergence import DivergenceDetector
from trainer_core.diagnosis.suggestions import next_lower_rate, round_setting
from trainer_core.errors import TrainingError
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Notice, Stage, Suggestion, TrainStep
from trainer_core.system.format import format_rate
from trainer_core.texts import Text, stage_text


class TrlLog(BaseModel):
    """TRL's log of a step, with TRL's names; the method's metrics are in `model_extra`."""

    model_config = ConfigDict(extra="allow")

    loss: float
    grad_norm: float = 0.0
    learning_rate: float = 0.0

    def read_metrics(self, stage: Stage) -> dict[str, float]:
        logged = self.model_extra or {}
        return {one.key: float(logged[one.log]) for one in METHODS[stage].metrics if logged.get(one.log) is not None}


class StepCallback(TrainerCallback):
    """Called after each optimiser step, once its numbers are logged and before it is saved."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.after_step(logs, state, control)

    def after_step(self, logs: dict[str, float], state: TrainerState, control: TrainerControl) -> None:
        raise NotImplementedError


class ProgressCallback(StepCallback):
    """Emits one event per optimiser step, stops the loop at the user's request, and ends a diverged run.

    Attributes:
        trainer: source of token counts and the loss scaler; set before training begins.
        saved: step of the newest checkpoint that this worker saved or resumed from; 0: none.
    """

    trainer: Any = None

    def __init__(self, stage: Stage, emit: EventLog, wants: StopRequests, guard: DivergenceDetector):
        self.stage, self.emit, self.wants, self.guard = stage, emit, wants, guard
        self.saved = 0
        self._began = self._before = 0.0
        self._tokens = self._reported = 0
        self._first = 1
        self._seconds: list[float] = []

    @property
    def median_step_seconds(self) -> float:
        """The median step; the first one, which also compiles, counts only while it is the only one."""
        return median(self._seconds[1:] or self._seconds or [0.0])

    def exclude_time(self, seconds: float) -> None:
        """Exclude time spent outside training from the step, though not from the time left."""
        self._before += seconds

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._began = self._before = time.monotonic()
        self._first = state.global_step + 1
        self.saved = state.global_step

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.saved = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.wants.should_stop:
            control.should_training_stop = True

    def after_step(self, logs: dict[str, float], state: TrainerState, control: TrainerControl) -> None:
        """Judge the step between the decision to save and the save itself: a diverged step is not saved."""
        logged = TrlLog.model_validate(logs)
        self.emit(self.build_step_event(logged, state))
        step_skipped = self.trainer.accelerator.optimizer_step_was_skipped
        wrong = self.guard.check_step(logged.loss, logged.grad_norm, step_skipped)
        self.report_skipped(step_skipped)
        if wrong:
            rate = self.trainer.args.learning_rate
            raise self.divergence_error(Text("diverged.third_step", step=state.global_step), rate)
        if control.should_save and (self.guard.bad or not has_finite_weights(self.trainer.model)):
            control.should_save = False

    def report_skipped(self, step_skipped: bool) -> None:
        """Report how many steps the loss scaler skipped, once it has found its scale."""
        count = self.guard.skipped - self._reported
        if count and not step_skipped:
            self._reported += count
            self.emit(Notice(stage_text(self.stage, Text("note.loss_scale", count=count))))

    def build_step_event(self, logged: TrlLog, state: TrainerState) -> TrainStep:
        """The event of this step. Time left comes from the mean step after this worker's first, which also compiles."""
        now = time.monotonic()
        seconds = now - self._before
        seen = int(self.trainer.tokens_seen)
        tokens = seen - self._tokens
        if state.global_step == self._first:
            self._began = now
        mean = (now - self._began) / (state.global_step - self._first) if state.global_step > self._first else seconds
        self._before, self._tokens = now, seen
        self._seconds.append(seconds)
        return TrainStep(
            stage=self.stage,
            step=state.global_step,
            total=state.max_steps,
            loss=logged.loss,
            learning_rate=logged.learning_rate,
            grad_norm=logged.grad_norm,
            seconds=seconds,
            tokens_per_second=tokens / seconds if seconds else 0.0,
            seconds_left=mean * (state.max_steps - state.global_step),
            metrics=logged.read_metrics(self.stage),
        )

    @property
    def failure_text(self) -> Text:
        """What is wrong with the last step or its weights."""
        return self.guard.wrong_now or Text("diverged.weights")

    def divergence_error(self, where: Text, rate: float) -> TrainingError:
        """The error for a run that cannot be saved any more."""
        slower = round_setting(next_lower_rate(self.stage, rate))
        rates = {"rate": format_rate(slower), "before": format_rate(rate)}
        again = Suggestion(Text("suggestion.restart_slower", **rates), {f"{self.stage}.learning_rate": slower})
        kept = Text("diverged.checkpoint", step=self.saved) if self.saved else Text("diverged.no_checkpoint")
        facts = {"stage": self.stage.upper(), "where": where, "reason": self.failure_text, "kept": kept}
        return TrainingError("diverged.stopped", offers=(again,), **facts)


def has_finite_weights(model: nn.Module) -> bool:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return bool(torch.stack([torch.isfinite(weight).all() for weight in trained]).all())
