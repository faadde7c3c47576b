"""The learning rate of each step, by our own rule; see `methods/steps.py`."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from trainer_core.methods.base import Training
from trainer_core.methods.steps import rate_factor


class ScheduledRate(Trainer):
    """Mixin for TRL trainers.

    Attributes:
        settings: the stage's; set before training begins.
    """

    settings: Training

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            stepped: Any = optimizer or self.optimizer
            self.lr_scheduler = LambdaLR(stepped, lambda step: rate_factor(step, self.settings, num_training_steps))
            self._created_lr_scheduler = True
        return self.lr_scheduler
