"""The token loop: prompts × lanes in one batch with one cache, all growing in step."""

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
"""Prompt tokens per pass: a long prompt must not keep Stop waiting for seconds on a processor."""


@dataclass
class GenerationRow:
    """One answer in the making: a prompt in a lane. `dice` is what its chance hangs on, equal in all lanes."""

    lane: str
    prompt: str
    seed_key: str
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    seconds: float = 0.0

    def append(self, token: int, ends: frozenset[int], seconds: float) -> None:
        """Grow by a token, or end; the end token is no part of the answer."""
        self.seconds = seconds
        if token in ends:
            self.ended = True
        else:
            self.tokens.append(token)


def generate_rows(lanes: LaneSet, rows: Sequence[GenerationRow], sampling: Sampling, grew: Callable[[], bool]) -> None:
    """Grow every row to its end; `grew` is called after each pass, and False ends the loop.

    Raises:
        UserError: a prompt leaves no room in the context.
    """
    batch, sampler, began = GenerationBatch(lanes, rows), CoupledSampler(sampling), time.monotonic()
    if not batch.prefill(grew):
        return
    for step in range(min(sampling.max_new_tokens, batch.room)):
        drawn = sampler.draw(batch.logits, batch.seen, [row.seed_key for row in batch.rows], step)
        for row, token in zip(batch.rows, drawn.tolist(), strict=True):
            row.append(token, lanes.end_token_ids, time.monotonic() - began)
        growing = [index for index, row in enumerate(batch.rows) if not row.ended]
        if not grew() or not growing:
            return
        batch.append_tokens(drawn, growing)


class GenerationBatch:
    """The rows that still grow, with all that the model keeps of them.

    Prompts are padded on the left. The padding is masked, so any token will do; a row's own first token also leaves
    its repetition penalty alone, and needs no padding token, which some models lack.
    """

    def __init__(self, lanes: LaneSet, rows: Sequence[GenerationRow]):
        self.lanes, self.rows = lanes, list(rows)
        self.seen, self.mask = left_pad([encode_text(lanes, row.prompt) for row in rows], lanes.device)
        self.cache: Any = None
        self.logits: torch.Tensor
        self.room = lanes.context_length - self.seen.shape[1]
        if self.room < 1:
            raise UserError("lane_answers.long_prompt", tokens=self.seen.shape[1], most=lanes.context_length)

    def prefill(self, go_on: Callable[[], bool]) -> bool:
        """Take in the prompts, part by part; False if told to stop between two parts."""
        for start in range(0, self.seen.shape[1], PREFILL_TOKENS):
            if start and not go_on():
                return False
            self.run_pass(start, min(start + PREFILL_TOKENS, self.seen.shape[1]))
        return True

    def append_tokens(self, drawn: torch.Tensor, growing: Sequence[int]) -> None:
        """Append each row's token, let go of the rows that ended, and look one token further."""
        self.seen = torch.cat([self.seen, drawn[:, None]], 1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], 1)
        if len(growing) < len(self.rows):
            kept = torch.tensor(growing, device=self.seen.device)
            self.rows = [self.rows[index] for index in growing]
            self.seen, self.mask = self.seen[kept], self.mask[kept]
            self.cache.batch_select_indices(kept)
        self.run_pass(self.seen.shape[1] - 1, self.seen.shape[1])

    def run_pass(self, start: int, end: int) -> None:
        """One pass over the columns from `start` to `end`."""
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
    """The conversation with this system prompt in place of its own; as it is without one."""
    if not system:
        return tuple(messages)
    return (Message("system", system), *(message for message in messages if message.role != "system"))


def encode_text(lanes: LaneSet, text: str) -> list[int]:
    """Text that a chat template has written, as tokens; the template has put the special ones in already."""
    return list(lanes.tokenizer(text, add_special_tokens=False)["input_ids"])


def left_pad(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows × width token ids with the padding on the left, and the mask that is 1 on real tokens."""
    width = max(len(sequence) for sequence in sequences)
    ids = [[sequence[0]] * (width - len(sequence)) + list(sequence) for sequence in sequences]
    mask = [[0] * (width - len(sequence)) + [1] * len(sequence) for sequence in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def row_positions(mask: torch.Tensor) -> torch.Tensor:
    """The position of every token in its own row, counted without the padding."""
    return (mask.cumsum(-1) - 1).clamp(min=0)
