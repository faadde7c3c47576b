"""Fails a run that learned nothing: all labels masked, all gradients 0, or an unchanged adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from trainer_core.errors import TrainingError
from trainer_core.runs.events import Stage
from trainer_core.training.progress import StepCallback

FIRST_STEPS = 3
"""Steps with a gradient of exactly 0 that fail a run: single batches can have one, three in a row occurred in no run."""


class RequireLearning(StepCallback):
    """Ends a run that learns nothing in its first steps."""

    def __init__(self, trainer: Any, stage: Stage):
        self.trainer, self.stage = trainer, stage
        self.still = 0

    def after_step(self, logs: dict[str, float], state: TrainerState, control: TrainerControl) -> None:
        if state.global_step > FIRST_STEPS:
            return
        name, seen = self.stage.upper(), int(self.trainer.tokens_seen)
        if not int(self.trainer.tokens_learned):
            raise TrainingError("learning.no_tokens", stage=name, tokens=seen)
        self.still = self.still + 1 if logs.get("grad_norm") == 0.0 else 0
        if self.still >= min(FIRST_STEPS, state.max_steps):
            raise TrainingError("learning.no_gradient", stage=name, steps=self.still)


def require_change(model: PeftModel, stage: Stage, start: Path | None, rate: float) -> None:
    """Require that training has changed the adapter.

    Args:
        start: the adapter file at the start of the stage; None: a fresh one, which changes nothing while its B is 0.

    Raises:
        TrainingError: the adapter is unchanged.
    """
    weights = get_peft_model_state_dict(model, adapter_name="default")
    if start is None:
        moved = any(bool(weight.any()) for name, weight in weights.items() if "lora_B" in name)
    else:
        before = load_file(start)
        moved = any(not torch.equal(weight.cpu(), before[name].to(weight.dtype)) for name, weight in weights.items())
    if not moved:
        raise TrainingError("learning.no_change", stage=stage.upper(), rate=rate)
