"""Sampling with random numbers that all lanes share."""

# A token is drawn as argmax(log p + g) with Gumbel noise g, which is exactly a draw from p (Gumbel-max trick, Maddison 2014).
# All lanes of a prompt use the same g at the same step, so they differ by their adapters alone.
#
# The noise is made on the device of the logits: copying 150,000 numbers from the CPU takes milliseconds per token. A seed
# therefore gives the same answers on the same device alone; another device rounds the logits differently anyway.

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
    """Draws the next token of every row."""

    def __init__(self, sampling: Sampling):
        self.sampling = sampling
        self.filters = build_filters(sampling)

    def draw(self, logits: torch.Tensor, seen: torch.Tensor, seed_keys: Sequence[str], step: int) -> torch.Tensor:
        """One token per row.

        Args:
            logits: rows × vocabulary, float32.
            seen: rows × tokens so far, for the repetition penalty.
            seed_keys: of the rows; equal keys get equal noise.
        """
        scores = self.filters(cast(torch.LongTensor, seen), cast(torch.FloatTensor, logits))
        if self.sampling.temperature == 0:
            return scores.argmax(-1)
        size, device = logits.shape[-1], logits.device
        noises = {key: gumbel_noise(self.sampling.seed, key, step, size, device) for key in set(seed_keys)}
        noise = torch.stack([noises[key] for key in seed_keys])
        return (scores + noise).argmax(-1)  # without the log-softmax: a constant per row moves no argmax


def build_filters(sampling: Sampling) -> LogitsProcessorList:
    """The logits processors of the settings, in the order of transformers' `generate`."""
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


def gumbel_noise(seed: int, seed_key: str, step: int, size: int, device: torch.device) -> torch.Tensor:
    """`size` standard Gumbel values that depend on the arguments alone."""
    digest = hashlib.blake2b(f"{seed}\0{step}\0{seed_key}".encode(), digest_size=8).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)
    return -torch.empty(size, device=device).exponential_(generator=generator).log()
