"""The definition of a training method, and the settings that all methods share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from trainer_core.schema import StrictModel

RowKind = Literal["chat", "pairs"]
"""The rows a method reads: conversations, or a prompt with a better and a worse answer."""
ROW_NOUNS: Mapping[RowKind, str] = {"chat": "examples", "pairs": "pairs"}
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.97, 0.99, 1.0)

Reasoned = tuple[Any, str]
Advice = dict[str, Reasoned]
"""Field name → a value and its reason."""


@dataclass(frozen=True)
class LengthQuantiles:
    """Row lengths as ascending (share, tokens), such as (0.5, 210): half of the rows have 210 tokens at most."""

    points: tuple[tuple[float, int], ...]

    @classmethod
    def from_counts(cls, counts: Sequence[int]) -> LengthQuantiles:
        """From the token count of every row; at least one row."""
        ordered = sorted(counts)
        return cls(tuple((share, ordered[math.ceil(share * len(ordered)) - 1]) for share in QUANTILES))

    @property
    def longest(self) -> int:
        return self.points[-1][1]

    def length_covering(self, share: float) -> int:
        """Tokens that fit this share of the rows without truncation."""
        return next(tokens for held, tokens in self.points if held >= share)

    def share_within(self, length: int) -> float:
        """The largest listed share of the rows that fits into this length."""
        return max((held for held, tokens in self.points if tokens <= length), default=0.0)


@dataclass(frozen=True)
class DatasetStats:
    """Facts about the data for planning: conversations, pairs (a prompt with its longer answer), their lengths."""

    rows: int
    pairs: int
    chat: LengthQuantiles | None = None
    pair: LengthQuantiles | None = None

    def row_count(self, rows: RowKind) -> int:
        return self.rows if rows == "chat" else self.pairs

    def length_quantiles(self, rows: RowKind) -> LengthQuantiles:
        found = self.chat if rows == "chat" else self.pair
        if found is None:
            raise ValueError(f"no lengths for {rows} rows")
        return found


Scheduler = Literal["cosine", "linear", "constant", "constant_with_warmup"]
Optimiser = Literal["auto", "adamw_8bit", "paged_adamw_8bit", "adamw_torch"]


EFFECTIVE_BATCH = 16
"""Default rows per optimiser step [TM: LoRA suffers above 32]."""
SMALL_DATASET_ROWS = 1000
"""Fewer rows than this are easily memorised."""


@dataclass(frozen=True)
class UsualRates:
    """A method's learning rates: usual, for a base under 1B with few steps, and with rank-stabilised scaling."""

    usual: float
    small_base: float
    stabilised: float
    why: str


@dataclass(frozen=True)
class DivergenceBounds:
    """Limits as multiples of the stage's first loss; a step with a higher loss is bad.

    early: before there are enough good steps to tell a spike from noise.
    later: together with a multiple of the recent median, which means nothing once the loss is near 0.
    """

    early: float
    later: float


@dataclass(frozen=True)
class Metric:
    """A number that a method's trainer logs at each step, beside the loss.

    key: its name in events. log: TRL's name for it.
    held_out: is it measured on held-out rows too?
    blank_at_zero: another metric; while that is 0, this one means nothing.
    """

    key: str
    log: str
    held_out: bool = False
    blank_at_zero: str = ""


@dataclass(frozen=True)
class MetricChart:
    """A chart of one or more metrics.

    keys: the metrics; every method has "loss". says: what the chart shows, in a sentence or two.
    level, level_name: a horizontal line, and its meaning. reading: how the page words the latest numbers.
    """

    keys: tuple[str, ...]
    title: str
    says: str
    level: float | None = None
    level_name: str = ""
    reading: str = ""


@dataclass(frozen=True)
class PairLogprobs:
    """A model's log-probabilities of one pair: sums in nats, with token counts.

    whole: prompt and chosen answer together; chosen, rejected: the answers alone.
    """

    chosen: float
    chosen_tokens: int
    rejected: float
    rejected_tokens: int
    whole: float
    whole_tokens: int


@dataclass(frozen=True)
class Method:
    """A training method as a value. The method's settings class has it as `method`.

    key: the recipe's section, the stage in events, and `adapter-<key>/`. title: for labels and lanes.
    trl: module and name of TRL's trainer, such as "trl:SFT" for `trl.SFTTrainer` and `trl.SFTConfig`.
    columns: the row format of that trainer, see `training/token_rows.py`.
    arguments: the method's own settings as TRL arguments, beside the shared ones.
    sorts_rows: do these settings allow reordering the rows of a step?
    metrics, charts: what is logged beside the loss, and what is drawn.
    sequences: token rows per row of a micro-batch.
    full_logits: does its trainer hold the logits of all tokens at once, not piece by piece?
    reference: the policy's reference; "policy at start" is the policy before the stage.
    slowest_rate, fastest_rate: the useful range of learning rates with LoRA; tiny bases need more and retain what they have.
    epochs: ascending (below so many rows, passes over them). rates: the initial learning rates.
    advised: further advice: setting → a value for this number of rows, and the reason.
    reward_scale: reward per nat of log-ratio between policy and reference.
    initial_loss: loss of a policy equal to its reference, in nats; None if it depends on the data.
    loss_steepness: |dloss / dmargin| there, at least 1.
    predict_loss: without a reference: the first loss, from the log-probabilities of the first batch's pairs.
    """

    key: str
    title: str
    rows: RowKind
    trl: str
    columns: str
    epochs: tuple[tuple[float, float], ...]
    rates: UsualRates
    divergence: DivergenceBounds
    fastest_rate: float
    charts: tuple[MetricChart, ...]
    arguments: Callable[[Any], dict[str, Any]] = lambda settings: {}
    sorts_rows: Callable[[Any], bool] = lambda settings: True
    metrics: tuple[Metric, ...] = ()
    advised: Mapping[str, Callable[[int], Reasoned]] = field(default_factory=dict)
    slowest_rate: float = 0.0
    sequences: int = 1
    full_logits: bool = False
    reference: Literal["none", "policy at start"] = "none"
    reward_scale: Callable[[Any], float] = lambda settings: 1.0
    initial_loss: Callable[[Any], float | None] = lambda settings: None
    loss_steepness: Callable[[Any], float] = lambda settings: 1.0
    predict_loss: Callable[[Any, Sequence[PairLogprobs]], float] | None = None

    @cached_property
    def metric_keys(self) -> frozenset[str]:
        return frozenset(metric.key for metric in self.metrics)

    @property
    def needs_reference(self) -> bool:
        return self.reference != "none"


class Training(StrictModel):
    """Settings of all methods. The effective batch is batch size × accumulation."""

    method: ClassVar[Method]

    @classmethod
    def group_label(cls) -> str:
        return cls.method.title

    learning_rate: float = Field(default=2e-4, gt=0, le=1, title="Learning rate")
    """Step size. Typical for LoRA SFT: 2e-4."""
    scheduler: Scheduler = Field(default="cosine", title="Learning rate scheduler")  # [field]
    """How the learning rate falls. Cosine is the common choice."""
    warmup: float = Field(default=0.1, ge=0, le=0.5, title="Warm-up ratio")  # [field]
    """Fraction of the steps in which the learning rate rises from 0. Without it, DPO diverges early."""
    epochs: float = Field(default=1.0, gt=0, le=100, title="Epochs")  # [HF]
    """Passes over the data. One is enough for most data sets; more tends to memorise."""
    max_steps: int | None = Field(default=None, ge=1, title="Max steps")
    """Stop after this many steps, even within an epoch. Empty: as many as the epochs need."""
    batch_size: int = Field(default=4, ge=1, le=512, title="Batch size")
    """Rows (or pairs) in memory at once. Changes memory and speed, not the result, if gradient accumulation compensates."""
    accumulation: int = Field(default=4, ge=1, le=1024, title="Gradient accumulation")  # [TM]
    """Batches accumulated before each step. Batch × accumulation is usually 16; LoRA suffers above 32."""
    max_length: int = Field(default=1024, ge=32, le=1_048_576, title="Max length (tokens)")
    """Max sequence length. Longer rows are truncated; their number is shown before the run."""
    weight_decay: float = Field(default=0.01, ge=0, le=1, title="Weight decay")  # [U]
    """Pulls the adapter gently towards zero."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=100, title="Max gradient norm")  # [QLoRA]
    """Gradient clipping: larger gradients are scaled down to this norm."""
    optimiser: Optimiser = Field(default="auto", title="Optimiser")  # [QLoRA]
    """Auto: 8-bit AdamW on CUDA, plain AdamW on the processor."""
    evaluations: int = Field(default=10, ge=0, le=100, title="Evaluations")
    """How often the loss on held-out rows is measured, in at most 5 % of the time. 0: never."""
    patience: int | None = Field(default=None, ge=1, le=100, title="Early stopping")  # [HF]
    """Patience: stop after this many evaluations without a new best (3 is usual) and keep the best. Empty: off."""

    @property
    def effective_batch(self) -> int:
        """Rows (or pairs) per optimiser step."""
        return self.batch_size * self.accumulation

    @property
    def packs_rows(self) -> bool:
        """Does one sequence hold several short rows, so that it is always full?"""
        return False
