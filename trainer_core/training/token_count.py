"""Counts training tokens in the same way for every trainer.

TRL counts in `compute_loss`, which Unsloth replaces for SFT on CUDA with a version that does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import Trainer

from trainer_core.data.tokenize import MASKED

MASKS = ("attention_mask", "chosen_attention_mask", "rejected_attention_mask")
LABELS = ("labels", "chosen_labels", "rejected_labels")
"""Label columns of a batch's rows, or of both sides of its pairs."""


class CountsTokens(Trainer):
    """Mixin for TRL trainers.

    Attributes:
        tokens_seen: since this process started; a tensor on a card, so that no step waits for it.
        tokens_learned: those that the loss is computed on.
    """

    tokens_seen: int | Tensor = 0
    tokens_learned: int | Tensor = 0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self.tokens_seen = self.tokens_seen + count_batch_tokens(inputs)
        self.tokens_learned = self.tokens_learned + count_label_tokens(inputs)
        return super().training_step(model, inputs, num_items_in_batch)


def count_batch_tokens(inputs: Mapping[str, Tensor]) -> int | Tensor:
    """Tokens of a batch without padding. A padding-free batch has no mask: all its ids count."""
    masks = [inputs[name] for name in MASKS if inputs.get(name) is not None]
    return sum((mask.sum() for mask in masks[1:]), masks[0].sum()) if masks else inputs["input_ids"].numel()


def count_label_tokens(inputs: Mapping[str, Tensor]) -> Tensor:
    """Labelled tokens of a batch; of pairs, those of both answers."""
    if "completion_mask" in inputs and "labels" not in inputs:
        return inputs["completion_mask"].sum()
    sides = [inputs[name] for name in LABELS if name in inputs]
    return sum(((side != MASKED).sum() for side in sides[1:]), (sides[0] != MASKED).sum())
