"""Interrupts training without a trace: restores random numbers, the model's mode and the trainer's sums."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

FLAGS = ("training", "gradient_checkpointing", "_flag_for_generation")
"""Module attributes that Unsloth's `for_inference` sets: the mode, recomputation of activations, its cached decoding path."""
UNSET = object()


@dataclass(frozen=True)
class ModelMode:
    """A snapshot of a model's mode: the flags of its modules, `use_cache` of its configs, its tokenizer's padding.

    On CUDA, Unsloth's `generate` calls `for_inference`, which turns recomputation off and the cache on. Afterwards it calls
    `for_training` only if the model was in training mode before, and for some families never.
    """

    model: nn.Module
    training: bool
    values: tuple[tuple[Any, str, Any], ...]
    """Object, attribute, value; UNSET: the object itself had no such attribute."""

    @classmethod
    def capture(cls, model: nn.Module, *tokenizers: Any) -> ModelMode:
        modules = list(model.modules())
        flags = [(module, name) for module in modules for name in FLAGS]
        configs = [vars(module).get(name) for module in modules for name in ("config", "generation_config")]
        caches = [(config, "use_cache") for config in configs if config is not None]
        readers = [*tokenizers, *(vars(module).get("_saved_temp_tokenizer") for module in modules)]
        sides = [(reader, "padding_side") for reader in readers if reader is not None]
        parts = {(id(owner), name): (owner, name) for owner, name in (*flags, *caches, *sides)}.values()
        return cls(model, model.training, tuple((owner, name, vars(owner).get(name, UNSET)) for owner, name in parts))

    def restore(self) -> None:
        """Restore the mode: with Unsloth's own function if there is one, then each value exactly."""
        for_training = getattr(self.model, "for_training", None)
        if self.training and callable(for_training):
            for_training()
        for owner, name, value in self.values:
            if value is not UNSET:
                setattr(owner, name, value)
            elif name in vars(owner):
                delattr(owner, name)


@contextmanager
def preserved_mode(trainer: Any) -> Iterator[None]:
    """Afterwards mode, random numbers and the trainer's sums are restored, bit for bit."""
    mode = ModelMode.capture(trainer.model, trainer.processing_class)
    kept, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        try:
            yield
        finally:
            mode.restore()
            random.setstate(kept)
            np.random.set_state(numbers)


@contextmanager
def preserved_state(trainer: Any) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards everything is restored."""
    with preserved_mode(trainer), torch.no_grad(), trainer.compute_loss_context_manager():
        trainer.model.eval()
        try:
            yield
        finally:
            trainer._metrics["eval"].clear()
