"""What every training method has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from trainer_core.schema import StrictModel

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.97, 0.99, 1.0)

Reasoned = tuple[Any, str]
Advice = dict[str, Reasoned]
"""Field name -> a value and why."""


@dataclass(frozen=True)
class LengthQuantiles:
    """How long the rows are: ascending (share, tokens), such as (0.5, 210): half of them have 210 tokens at most."""

    points: tuple[tuple[float, int], ...]

    @classmethod
    def from_counts(cls, counts: Sequence[int]) -> LengthQuantiles:
        """From the token count of every row; at least one."""
        ordered = sorted(counts)
        return cls(tuple((share, ordered[math.ceil(share * len(ordered)) - 1]) for share in QUANTILES))

    @property
    def longest(self) -> int:
        return self.points[-1][1]

    def length_covering(self, share: float) -> int:
        """Tokens that hold this share of the rows in full."""
        return next(tokens for held, tokens in self.points if held >= share)

    def share_within(self, length: int) -> float:
        """The share of the rows that this length holds in full, at least."""
        return max((held for held, tokens in self.points if tokens <= length), default=0.0)


@dataclass(frozen=True)
class DatasetStats:
    """What planning must know about the data: SFT rows, DPO pairs (a prompt with its longer answer), their lengths."""

    rows: int
    pairs: int
    chat: LengthQuantiles | None = None
    pair: LengthQuantiles | None = None

    def row_count(self, stage: str) -> int:
        return self.rows if stage == "sft" else self.pairs

    def length_quantiles(self, stage: str) -> LengthQuantiles:
        found = self.chat if stage == "sft" else self.pair
        if found is None:
            raise ValueError(f"no lengths for {stage}")
        return found


Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]
Optimiser = Literal["auto", "adamw_8bit", "paged_adamw_8bit", "adamw_torch"]


class Training(StrictModel):
    """What SFT and DPO have in common. The effective batch is batch size × accumulation."""

    learning_rate: float = Field(default=2e-4, gt=0, le=1, title="Learning rate")
    """How far each step moves."""
    scheduler: Scheduler = Field(default="cosine", title="Schedule")  # [field]
    """How the learning rate falls; cosine is the common choice for both methods."""
    warmup: float = Field(default=0.1, ge=0, le=0.5, title="Warm-up share")  # [field]
    """Share of the steps in which the learning rate rises from 0. DPO without it diverges early."""
    epochs: float = Field(default=1.0, gt=0, le=100, title="Epochs")  # [HF]
    """How often each row is seen. One is enough for most sets; more memorises."""
    max_steps: int | None = Field(default=None, ge=1, title="Steps at most")
    """Stop after this many steps, even within an epoch. Empty: as many as the epochs take."""
    batch_size: int = Field(default=4, ge=1, le=512, title="Batch size")
    """Rows (or pairs) in memory at once. It moves memory and speed, not the result, while accumulation makes up for it."""
    accumulation: int = Field(default=4, ge=1, le=1024, title="Accumulation")  # [TM]
    """Batches added up before each step. Batch × accumulation is usually 16: LoRA suffers above 32."""
    max_length: int = Field(default=1024, ge=32, le=1_048_576, title="Length in tokens")
    """Longer rows are cut at this length; the number of cut rows is shown before the run."""
    weight_decay: float = Field(default=0.01, ge=0, le=1, title="Weight decay")  # [U]
    """Pulls the adapter gently back towards zero."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=100, title="Gradient clip")  # [QLoRA]
    """Longer gradients are shortened to this norm."""
    optimiser: Optimiser = Field(default="auto", title="Optimiser")  # [QLoRA]
    """Auto: 8-bit AdamW on CUDA, plain AdamW on the processor."""
    evaluations: int = Field(default=10, ge=0, le=100, title="Held-out checks")
    """How often the loss on held-out rows is measured; they get 5 % of the time at most. 0: never."""
    patience: int | None = Field(default=None, ge=1, le=100, title="Stop early")  # [HF]
    """Stop after this many held-out checks without a new best (3 is usual) and keep the best. Empty: go to the end."""

    @property
    def effective_batch(self) -> int:
        """Rows (or pairs) behind one optimiser step."""
        return self.batch_size * self.accumulation
