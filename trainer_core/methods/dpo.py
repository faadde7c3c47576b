"""DPO: direct preference optimisation."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainer_core.methods import base
from trainer_core.methods.base import (
    DivergenceBounds,
    Method,
    Metric,
    MetricChart,
    Reasoned,
    Training,
    UsualRates,
)
from trainer_core.system.format import format_rate
from trainer_core.texts import Text

LossType = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft",
]  # fmt: skip
REFERENCE_FREE_LOSSES = {"simpo", "orpo", "cpo"}
SMOOTHED_LOSSES = {"robust", "exo_pair", "aot", "aot_unpaired"}
"""The losses that use `label_smoothing`; TRL's other formulas ignore it."""
BATCH_COUPLED_LOSSES: frozenset[LossType] = frozenset({"aot", "aot_unpaired", "sft"})
"""Losses that compare or average the pairs of one micro-batch, so its composition matters."""
LN2 = math.log(2)

METRICS = (
    Metric("margin", "rewards/margins", held_out=True),
    Metric("accuracy", "rewards/accuracies", held_out=True, blank_at_zero="margin"),  # then no side is preferred
    Metric("chosen", "logps/chosen"),
    Metric("rejected", "logps/rejected"),
)
CHARTS = (
    MetricChart(
        ("loss",),
        "DPO loss",
        "Starts where policy and reference are equal and falls as the chosen answers pull ahead.",
        0.6931,
        "ln 2",
        reading="preference loss",
    ),
    MetricChart(
        ("margin",),
        "Reward margin",
        "Above 0 the model has moved towards the chosen answers and away from the rejected ones.",
        0.0,
        "start",
        reading="margin",
    ),
    MetricChart(
        ("accuracy",),
        "Reward accuracy",
        "The share of pairs whose chosen answer gained more than the rejected one. 0.5 is chance.",
        0.5,
        "chance",
        reading="accuracy",
    ),
    MetricChart(
        ("chosen", "rejected"),
        "Log-probabilities",
        "How likely whole answers are, in nats. Rejected ones should fall, chosen ones hardly.",
        reading="log-probabilities",
    ),
)
EPOCHS = ((base.SMALL_DATASET_ROWS, 2.0), (math.inf, 1.0))
"""(below so many pairs, passes): one, or two when a higher beta and dropout limit overfitting [HF]."""
RATES = UsualRates(usual=5e-6, small_base=5e-5, stabilised=1e-6, why="5e-6: the usual rate for DPO on adapters")  # [HF]
RATE_HELP = (
    f"Typical: {format_rate(RATES.usual)}, ten times the rate of full fine-tuning ({format_rate(RATES.usual / 10)}). "
    f"A base under 1B that trains a few dozen steps needs more, such as {format_rate(RATES.small_base)}."
)


def recommend_beta(count: int) -> Reasoned:
    if count < base.SMALL_DATASET_ROWS:
        return 0.3, f"beta 0.3: with {count:,} pairs the policy must stay near its reference"
    return 0.1, "beta 0.1: the usual start"


def trl_arguments(settings: Dpo) -> dict[str, Any]:
    return {
        "beta": settings.beta,
        "loss_type": list(settings.losses),
        "loss_weights": list(settings.loss_weights) if settings.loss_weights else None,
        "label_smoothing": settings.label_smoothing,
    }


def loss_steepness(settings: Dpo) -> float:
    """Most that the loss can change per unit of margin at its start: |dloss/dmargin|, at least 1.

    Squared losses change by 1/β per nat of log-ratio, and the margin by β; all others change by at most 1 per unit of margin.
    """
    weights = settings.loss_weights or (1.0,) * len(settings.losses)
    each = (settings.beta**-2 if loss in ("ipo", "sppo_hard") else 1.0 for loss in settings.losses)
    return max(1.0, sum(weight * steep for weight, steep in zip(weights, each, strict=True)))


def expected_first_loss(settings: Dpo) -> float | None:
    """The loss of a policy equal to its reference, in nats; None if it depends on the data (the sft term).

    Each loss's formula at log-ratio 0, with β and ε (label smoothing) as set.
    """
    values = [initial_loss(loss, settings.beta, settings.label_smoothing) for loss in settings.losses]
    if any(value is None for value in values):
        return None
    weights = settings.loss_weights or (1.0,) * len(values)
    return sum(weight * value for weight, value in zip(weights, values, strict=True) if value is not None)


def initial_loss(loss: LossType, beta: float, smoothing: float) -> float | None:
    """One loss at log-ratio 0."""
    match loss:
        case "sigmoid" | "sigmoid_norm" | "robust" | "aot" | "aot_unpaired":
            return LN2  # -log σ(0); smoothing mixes two equal terms
        case "hinge" | "apo_zero" | "apo_down":
            return 1.0
        case "ipo":
            return 1 / (2 * beta) ** 2
        case "sppo_hard":
            return 1 / (2 * beta**2)
        case "nca_pair" | "bco_pair":
            return 2 * LN2
        case "exo_pair":  # KL(½, ½ ‖ 1-ε, ε)
            return -LN2 - 0.5 * math.log(1 - smoothing) - 0.5 * math.log(smoothing)
        case "discopop":  # ½ log-logistic + ½ exponential at 0
            return 0.5 * LN2 + 0.5
        case "sft":
            return None


class Dpo(Training):  # [DPO]
    """Direct preference optimisation: prefer the chosen answer over the rejected one."""

    # early: pairs that the policy still gets wrong cost twice the first loss in healthy runs; 2.0 stopped 4 of 10,000 of them.
    # later: the loss ends near 0 (`python -m reliability alarms`)
    method: ClassVar[Method] = Method(
        key="dpo",
        title="DPO",
        rows="pairs",
        trl="trl:DPO",
        columns="answers",
        arguments=trl_arguments,
        sorts_rows=lambda settings: not BATCH_COUPLED_LOSSES & set(settings.losses),
        metrics=METRICS,
        charts=CHARTS,
        epochs=EPOCHS,
        rates=RATES,
        divergence=DivergenceBounds(early=4.0, later=2.0),
        slowest_rate=5e-7,  # [HF]
        fastest_rate=5e-5,
        advised={"beta": recommend_beta},
        sequences=2,
        reference="policy at start",
        reward_scale=lambda settings: settings.beta,
        initial_loss=expected_first_loss,
        loss_steepness=loss_steepness,
    )

    learning_rate: float = Field(default=RATES.usual, gt=0, le=1, title="Learning rate", description=RATE_HELP)
    batch_size: int = Field(default=2, ge=1, le=512, title="Batch size")
    """Pairs in memory at once. A pair is two rows, so half of the SFT batch uses the same memory."""
    accumulation: int = Field(default=8, ge=1, le=1024, title="Gradient accumulation")  # [HF: 8 to 16 and more]
    """Batches accumulated before each step. Batch × accumulation is usually 16 pairs."""
    beta: float = Field(default=0.1, gt=0, le=10, title="Beta")  # [DPO, HF]
    """β: how closely the model stays to its reference. Start with 0.1; try 0.01 to 0.5."""
    losses: tuple[LossType, ...] = Field(default=("sigmoid",), min_length=1, title="Loss")
    """Sigmoid is the published DPO loss. Sigmoid + sft stabilises format and fluency."""
    loss_weights: tuple[float, ...] | None = Field(default=None, title="Loss weights")
    """One weight per loss. Empty: 1 each."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, title="Label smoothing")  # [cDPO]
    """Share of pairs you expect to be mislabelled. For robust, exo_pair, aot and aot_unpaired."""

    @model_validator(mode="before")
    @classmethod
    def refuse_reference_free(cls, values: Any) -> Any:
        asked = values.get("losses") if isinstance(values, dict) else None
        for name in asked if isinstance(asked, list | tuple) else (asked,):
            if str(name).lower() in REFERENCE_FREE_LOSSES:
                raise ValueError(Text("dpo.no_reference", loss=str(name)))
        return values

    @model_validator(mode="after")
    def check_losses(self) -> Self:
        if self.loss_weights is not None and len(self.loss_weights) != len(self.losses):
            raise ValueError(Text("dpo.wrong_weights", weights=len(self.loss_weights), losses=len(self.losses)))
        if "exo_pair" in self.losses and self.label_smoothing == 0:
            raise ValueError(Text("dpo.no_smoothing"))
        if self.label_smoothing and not SMOOTHED_LOSSES & set(self.losses):
            losses = ", ".join(self.losses)
            raise ValueError(Text("dpo.unread_smoothing", smoothing=self.label_smoothing, losses=losses))
        return self
