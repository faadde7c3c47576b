"""Looking at the model in mid-training without a trace: what is random, the mode and the trainer's sums stay as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def aside(trainer: Any) -> Iterator[None]:
    """A block without gradients in evaluation mode, after which training goes on as if it had not been there."""
    model, was_training = trainer.model, trainer.model.training
    kept, numbers = random.getstate(), np.random.get_state()
    cards = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(cards), torch.no_grad(), trainer.compute_loss_context_manager():
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)
            trainer._metrics["eval"].clear()
            random.setstate(kept)
            np.random.set_state(numbers)
