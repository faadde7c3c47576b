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
"""With a gradient of exactly 0 in each of them, nothing reaches the adapter: one batch can be without, three were in no run."""


class RequireLearning(StepCallback):
    """Ends a run in its first steps when nothing can be learned from it."""

    def __init__(self, trainer: Any, stage: Stage):
        self.trainer, self.stage = trainer, stage
        self.still = 0

    def after_step(self, logs: dict[str, float], state: TrainerState, control: TrainerControl) -> None:
        if state.global_step > FIRST_STEPS:
            return
        name, seen = self.stage.upper(), int(self.trainer.tokens_seen)
        if not int(self.trainer.tokens_learned):
            raise TrainingError(
                f"{name} has nothing to learn: the first step has {seen:,} tokens, and the loss is computed on none of them. "
                "Look at the rows under Data, where learned tokens are coloured."
            )
        self.still = self.still + 1 if logs.get("grad_norm") == 0.0 else 0
        if self.still >= min(FIRST_STEPS, state.max_steps):
            raise TrainingError(
                f"{name} learns nothing: the gradient was 0 in the first {self.still} steps. The run was stopped. Check that the "
                "better and the worse answers differ, and that the loss weights are not 0."
            )


def require_change(model: PeftModel, stage: Stage, start: Path | None, rate: float) -> None:
    """Has training changed the adapter?

    Args:
        start: the adapter file that the stage began from; None: a fresh one, which changes nothing while its B is 0.

    Raises:
        TrainingError: it ends as it began.
    """
    weights = get_peft_model_state_dict(model, adapter_name="default")
    if start is None:
        moved = any(bool(weight.any()) for name, weight in weights.items() if "lora_B" in name)
    else:
        before = load_file(start)
        moved = any(not torch.equal(weight.cpu(), before[name].to(weight.dtype)) for name, weight in weights.items())
    if not moved:
        raise TrainingError(
            f"{stage.upper()} learned nothing: after the last step the adapter is what it was before the first one. A learning "
            f"rate of {rate:g} may be too small for 32-bit weights; raise it. The adapter was not saved."
        )
