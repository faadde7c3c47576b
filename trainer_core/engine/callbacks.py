"""The window into TRL's training loop: each logged step becomes an event, and a request to stop is obeyed between steps."""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.events import EventLog, Stage, Step
from trainer_core.runs import Wants


class Logged(BaseModel):
    """What TRL logs at a step, by TRL's names. Tokens count from the start of training."""

    model_config = ConfigDict(extra="ignore")

    loss: float
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    num_tokens: float = 0.0
    margin: float | None = Field(default=None, alias="rewards/margins")
    accuracy: float | None = Field(default=None, alias="rewards/accuracies")
    chosen: float | None = Field(default=None, alias="logps/chosen")
    rejected: float | None = Field(default=None, alias="logps/rejected")


class Progress(TrainerCallback):
    """Emits one Step per optimiser step and stops the loop when the user wants it."""

    def __init__(self, stage: Stage, emit: EventLog, wants: Wants):
        self.stage, self.emit, self.wants = stage, emit, wants
        self._began = self._before = 0.0
        self._tokens = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._began = self._before = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.wants.stop.is_set():
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.emit(self.step(Logged.model_validate(logs), state))

    def step(self, logged: Logged, state: TrainerState) -> Step:
        """The event of the step just done. Time left comes from the mean step after the first, which also compiles."""
        now = time.monotonic()
        seconds = now - self._before
        tokens = logged.num_tokens - self._tokens
        if state.global_step == 1:
            self._began = now
        mean = (now - self._began) / (state.global_step - 1) if state.global_step > 1 else seconds
        self._before, self._tokens = now, logged.num_tokens
        return Step(
            stage=self.stage,
            step=state.global_step,
            total=state.max_steps,
            loss=logged.loss,
            learning_rate=logged.learning_rate,
            grad_norm=logged.grad_norm,
            seconds=seconds,
            tokens_per_second=tokens / seconds if seconds else 0.0,
            seconds_left=mean * (state.max_steps - state.global_step),
            margin=logged.margin,
            accuracy=logged.accuracy,
            chosen=logged.chosen,
            rejected=logged.rejected,
        )
