"""DPO: direct preference optimisation."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainer_core.methods import base
from trainer_core.methods.base import (
    Advice,
    DivergenceBounds,
    LoraScale,
    Method,
    ModelShape,
    Reasoned,
    Training,
    UsualRates,
)
from trainer_core.methods.steps import count_steps

LossType = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft",
]  # fmt: skip
REFERENCE_FREE_LOSSES = {"simpo", "orpo", "cpo"}
SMOOTHED_LOSSES = {"robust", "exo_pair", "aot", "aot_unpaired"}
"""The losses that read `label_smoothing`; TRL's other formulas have no place for it."""


EPOCHS = ((base.SMALL_DATASET_ROWS, 2.0), (math.inf, 1.0))
"""(below so many pairs, passes): one, and two where a higher beta and dropout hold it back [HF]."""
RATES = UsualRates(usual=5e-6, small_base=5e-5, stabilised=1e-6, why="5e-6: the usual rate for DPO on adapters")  # [HF]


def advise(count: int, shape: ModelShape, lora: LoraScale) -> Advice:
    epochs = base.recommend_epochs(EPOCHS, count, "pairs")
    steps = count_steps(count, Training(batch_size=1, accumulation=base.EFFECTIVE_BATCH, epochs=epochs[0]))
    rate = base.recommend_rate(RATES, shape, lora, steps)
    return {"epochs": epochs, "learning_rate": rate, "beta": recommend_beta(count)}


def recommend_beta(count: int) -> Reasoned:
    if count < base.SMALL_DATASET_ROWS:
        return 0.3, f"beta 0.3: with {count:,} pairs the policy must stay near its reference"
    return 0.1, "beta 0.1: the usual start"


class Dpo(Training):  # [DPO]
    """Direct preference optimisation: prefer the chosen answer over the rejected one."""

    # early: pairs that the policy still gets wrong cost twice the first loss in healthy runs; with 2.0, 4 of 10,000 were
    # stopped. later: the loss ends near 0 (`python -m reliability alarms`)
    method: ClassVar[Method] = Method(
        key="dpo",
        title="DPO",
        rows="pairs",
        advise=advise,
        divergence=DivergenceBounds(early=4.0, later=2.0),
        advised=("beta",),
        sequences=2,
        reference="policy at start",
    )

    learning_rate: float = Field(default=5e-6, gt=0, le=1, title="Learning rate")  # [HF, TM]
    """Usual is 5e-6, ten times the rate of full tuning, as LoRA wants. A base under 1B for a few dozen steps needs more."""
    batch_size: int = Field(default=2, ge=1, le=512, title="Batch size")
    """Pairs in memory at once. Each pair is two rows, so half of the SFT batch costs the same memory."""
    accumulation: int = Field(default=8, ge=1, le=1024, title="Accumulation")  # [HF: 8 to 16 and more]
    """Batches added up before each step. Batch × accumulation is usually 16 pairs."""
    beta: float = Field(default=0.1, gt=0, le=10, title="Beta")  # [DPO, HF]
    """How closely the policy is tied to its reference. 0.1 is the usual start; 0.01 to 0.5 is the range to try."""
    losses: tuple[LossType, ...] = Field(default=("sigmoid",), min_length=1, title="Loss")
    """Sigmoid is DPO as published. Sigmoid + sft steadies format and fluency."""
    loss_weights: tuple[float, ...] | None = Field(default=None, title="Loss weights")
    """One weight per loss; empty: 1 each."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, title="Label smoothing")  # [cDPO]
    """The share of pairs you believe to be labelled the wrong way round. For robust, exo_pair, aot and aot_unpaired."""

    @model_validator(mode="before")
    @classmethod
    def refuse_reference_free(cls, values: Any) -> Any:
        asked = values.get("losses") if isinstance(values, dict) else None
        for name in asked if isinstance(asked, list | tuple) else (asked,):
            if str(name).lower() in REFERENCE_FREE_LOSSES:
                raise ValueError(
                    f"{name} works without a reference, and Tunebench measures every run against its reference "
                    "(the step-0 proof). Use sigmoid, ipo or apo_zero"
                )
        return values

    @model_validator(mode="after")
    def check_losses(self) -> Self:
        if self.loss_weights is not None and len(self.loss_weights) != len(self.losses):
            raise ValueError(
                f"{len(self.loss_weights)} loss weights for {len(self.losses)} losses; give one weight per loss"
            )
        if "exo_pair" in self.losses and self.label_smoothing == 0:
            raise ValueError("exo_pair needs a label smoothing above 0, for example 0.001")
        if self.label_smoothing and not SMOOTHED_LOSSES & set(self.losses):
            raise ValueError(
                f"Label smoothing {self.label_smoothing:g} would change nothing: it is not read by {' or '.join(self.losses)}. "
                "Take the loss robust, or set label smoothing to 0"
            )
        return self
