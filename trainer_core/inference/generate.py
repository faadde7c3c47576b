"""The generation loop: prompts × lanes in one batch with one cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trainer_core.config.recipe import Sampling
from trainer_core.data import Message
from trainer_core.errors import UserError
from trainer_core.inference.coupled_sampling import CoupledSampler
from trainer_core.inference.load import LaneSet

PREFILL_TOKENS = 256
"""Prompt tokens per pass, so that Stop works within a second on a CPU."""


@dataclass
class GenerationRow:
    """An unfinished answer of a lane; rows with equal `seed_key` draw equal random numbers."""

    lane: str
    prompt: str
    seed_key: str
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    seconds: float = 0.0

    def append(self, token: int, ends: frozenset[int], seconds: float) -> None:
        """Append a token, or end the row; `seconds` since the start."""
        self.seconds = seconds
        if token in ends:
            self.ended = True
        else:
            self.tokens.append(token)


def generate_rows(
    lanes: LaneSet, rows: Sequence[GenerationRow], sampling: Sampling, after_pass: Callable[[], bool]
) -> None:
    """Generate every row to its end; `after_pass` returns False to stop.

    Raises:
        UserError: a prompt leaves no room in the context.
    """
    batch, sampler, began = GenerationBatch(lanes, rows), CoupledSampler(sampling), time.monotonic()
    if not batch.prefill(after_pass):
        return
    for step in range(min(sampling.max_new_tokens, batch.room)):
        drawn = sampler.draw(batch.logits, batch.seen, [row.seed_key for row in batch.rows], step)
        for row, token in zip(batch.rows, drawn.tolist(), strict=True):
            row.append(token, lanes.end_token_ids, time.monotonic() - began)
        growing = [index for index, row in enumerate(batch.rows) if not row.ended]
        if not after_pass() or not growing:
            return
        batch.append_tokens(drawn, growing)


class GenerationBatch:
    """The unfinished rows with their key-value cache."""

    def __init__(self, lanes: LaneSet, rows: Sequence[GenerationRow]):
        self.lanes, self.rows = lanes, list(rows)
        self.seen, self.mask = left_pad([encode_text(lanes, row.prompt) for row in rows], lanes.device)
        self.cache: Any = None
        self.logits: torch.Tensor
        self.room = lanes.context_length - self.seen.shape[1]
        if self.room < 1:
            raise UserError("lane_answers.long_prompt", tokens=self.seen.shape[1], most=lanes.context_length)

    def prefill(self, after_pass: Callable[[], bool]) -> bool:
        """Read the prompts in parts; False if stopped between two of them."""
        for start in range(0, self.seen.shape[1], PREFILL_TOKENS):
            if start and not after_pass():
                return False
            self.run_pass(start, min(start + PREFILL_TOKENS, self.seen.shape[1]))
        return True

    def append_tokens(self, drawn: torch.Tensor, growing: Sequence[int]) -> None:
        """Append each row's token, drop the finished rows, and compute the next logits."""
        self.seen = torch.cat([self.seen, drawn[:, None]], 1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], 1)
        if len(growing) < len(self.rows):
            kept = torch.tensor(growing, device=self.seen.device)
            self.rows = [self.rows[index] for index in growing]
            self.seen, self.mask = self.seen[kept], self.mask[kept]
            self.cache.batch_select_indices(kept)
        self.run_pass(self.seen.shape[1] - 1, self.seen.shape[1])

    def run_pass(self, start: int, end: int) -> None:
        """One pass over the tokens from `start` to `end`."""
        mask = self.mask[:, :end]
        out = self.lanes.forward(
            [self.lanes.mixtures[row.lane] for row in self.rows],
            input_ids=self.seen[:, start:end],
            attention_mask=mask,
            position_ids=row_positions(mask)[:, start:],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache, self.logits = out.past_key_values, out.logits[:, -1].float()


def with_system_prompt(system: str, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with its system prompt replaced; unchanged if `system` is empty."""
    if not system:
        return tuple(messages)
    return (Message("system", system), *(message for message in messages if message.role != "system"))


def encode_text(lanes: LaneSet, text: str) -> list[int]:
    """The tokens of a rendered chat template, which has its special tokens already."""
    return list(lanes.tokenizer(text, add_special_tokens=False)["input_ids"])


def left_pad(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows × width token ids with the padding on the left, and the mask that is 1 on real tokens."""
    # The padding is masked. A row's first token keeps its repetition penalty, and some models have no padding token.
    width = max(len(sequence) for sequence in sequences)
    ids = [[sequence[0]] * (width - len(sequence)) + list(sequence) for sequence in sequences]
    mask = [[0] * (width - len(sequence)) + [1] * len(sequence) for sequence in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def row_positions(mask: torch.Tensor) -> torch.Tensor:
    """Each token's position in its row, without the padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)
