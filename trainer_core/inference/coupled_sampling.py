"""Random numbers, drawn once for all lanes.

A token is drawn as argmax(log p + g) with Gumbel noise g, which is exactly a draw from p (Gumbel-max trick, Maddison 2014).
All lanes of a prompt use the same g at the same step, so that they differ by their adapters and by nothing else.

The noise is made where the logits are, for all lanes lie on one device: on a card, 150,000 numbers made by the processor and
sent over take milliseconds a token. A seed therefore means the same answers on the same device; a card and the processor, and
two kinds of card, draw other numbers, as their logits are rounded otherwise anyway.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trainer_core.config.recipe import Sampling


class CoupledSampler:
    """Draws the next token of every row by one set of settings."""

    def __init__(self, sampling: Sampling):
        self.sampling = sampling
        self.filters = build_filters(sampling)

    def draw(self, logits: torch.Tensor, seen: torch.Tensor, dice: Sequence[str], step: int) -> torch.Tensor:
        """One token per row.

        Args:
            logits: rows × vocabulary, float32.
            seen: rows × tokens so far, for the repetition penalty.
            dice: what each row's noise hangs on besides seed and step; rows with the same dice share their luck.
        """
        scores = self.filters(cast(torch.LongTensor, seen), cast(torch.FloatTensor, logits))
        if self.sampling.temperature == 0:
            return scores.argmax(-1)
        thrown = {
            one: gumbel_noise(self.sampling.seed, one, step, logits.shape[-1], logits.device) for one in set(dice)
        }
        noise = torch.stack([thrown[one] for one in dice])
        return (scores + noise).argmax(-1)  # without the log-softmax: a constant per row moves no argmax


def build_filters(sampling: Sampling) -> LogitsProcessorList:
    """What shapes the distribution, in the order of transformers' `generate`."""
    found = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature == 0:
        return found
    if sampling.temperature != 1:
        found.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        found.append(MinPLogitsWarper(sampling.min_p))
    return found


def gumbel_noise(seed: int, dice: str, step: int, size: int, device: torch.device) -> torch.Tensor:
    """`size` standard Gumbel values on the device, which depend on these five and nothing else: each throw has a generator of its
    own, so neither other rows nor earlier steps move it."""
    digest = hashlib.blake2b(f"{seed}\0{step}\0{dice}".encode(), digest_size=8).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)
    return -torch.empty(size, device=device).exponential_(generator=generator).log()
