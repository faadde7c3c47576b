"""Counts the tokens that are trained on, for every trainer alike.

TRL counts in `compute_loss`, which Unsloth replaces for SFT on CUDA and then no longer counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import Trainer

from trainer_core.data.tokenize import MASKED

MASKS = ("attention_mask", "chosen_attention_mask", "rejected_attention_mask")
LABELS = ("labels", "chosen_labels", "rejected_labels")
"""Of a batch's rows, or of the sides of its pairs."""


class CountsTokens(Trainer):
    """Mixed into a TRL trainer.

    Attributes:
        tokens_seen: since this process began; on a card a tensor there, so that no step waits for the count.
        tokens_learned: those of them that the loss is computed on.
    """

    tokens_seen: int | Tensor = 0
    tokens_learned: int | Tensor = 0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        self.tokens_seen = self.tokens_seen + count_batch_tokens(inputs)
        self.tokens_learned = self.tokens_learned + count_label_tokens(inputs)
        return super().training_step(model, inputs, num_items_in_batch)


def count_batch_tokens(inputs: Mapping[str, Tensor]) -> int | Tensor:
    """Tokens of a batch without its padding. A padding-free batch has no mask, and every one of its ids counts."""
    masks = [inputs[name] for name in MASKS if inputs.get(name) is not None]
    return sum((mask.sum() for mask in masks[1:]), masks[0].sum()) if masks else inputs["input_ids"].numel()


def count_label_tokens(inputs: Mapping[str, Tensor]) -> Tensor:
    """Tokens of a batch with a label; of pairs those of both answers."""
    if "completion_mask" in inputs and "labels" not in inputs:
        return inputs["completion_mask"].sum()
    sides = [inputs[name] for name in LABELS if name in inputs]
    return sum(((side != MASKED).sum() for side in sides[1:]), (sides[0] != MASKED).sum())
