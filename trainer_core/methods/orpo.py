"""ORPO: odds ratio preference optimisation (Hong 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from trainer_core.methods import base
from trainer_core.methods.base import (
    DivergenceBounds,
    Method,
    Metric,
    MetricChart,
    PairLogprobs,
    Training,
    UsualRates,
)

METRICS = (
    Metric("margin", "rewards/margins", held_out=True),
    Metric("accuracy", "rewards/accuracies", held_out=True),
    Metric("chosen", "logps/chosen"),
    Metric("rejected", "logps/rejected"),
    Metric("odds", "log_odds_chosen"),
)
CHARTS = (
    MetricChart(
        ("loss",),
        "ORPO loss",
        "How unlikely the model finds prompt and chosen answer, in nats per token, plus a term for the odds. Lower is better.",
        reading="loss",
    ),
    MetricChart(
        ("odds",),
        "Log odds",
        "Above 0 the chosen answers are more likely per token than the rejected ones.",
        0.0,
        "even",
        reading="loss",
    ),
    MetricChart(
        ("accuracy",),
        "ORPO accuracy",
        "The share of pairs whose chosen answer is the more likely one per token. 0.5 is chance.",
        0.5,
        "chance",
    ),
    MetricChart(
        ("chosen", "rejected"),
        "Log-probabilities per token",
        "How likely the answers are, in nats per token. Chosen ones should rise, rejected ones less.",
    ),
)
EPOCHS = ((base.SMALL_DATASET_ROWS, 3.0), (10_000, 2.0), (math.inf, 1.0))
"""(below so many pairs, passes): one to three, as it must also learn to answer [Hong 2024 and its configurations]."""
RATES = UsualRates(
    usual=8e-6, small_base=5e-5, stabilised=2e-6, why="8e-6: the rate of its authors; adapters take up to 5e-5"
)


def first_loss(settings: Orpo, pairs: Sequence[PairLogprobs]) -> float:
    """The loss of a batch in nats: mean negative log-probability per token over prompt and chosen answer, minus β × the mean log
    sigmoid of the log odds ratio (Hong 2024, equations 4 to 7, with probabilities per token)."""
    surprise = -sum(pair.whole for pair in pairs) / sum(pair.whole_tokens for pair in pairs)
    ratios = [
        log_odds(pair.chosen / pair.chosen_tokens) - log_odds(pair.rejected / pair.rejected_tokens) for pair in pairs
    ]
    return surprise + settings.beta * sum(math.log1p(math.exp(-ratio)) for ratio in ratios) / len(ratios)


def log_odds(logprob: float) -> float:
    """log(p / (1 - p)) from log p, in nats; p is capped just below 1."""
    below = min(logprob, -1e-7)
    return below - math.log(-math.expm1(below))


class Orpo(Training):
    """Odds ratio preference optimisation: learns the chosen answers and the preference in one stage, without a reference."""

    method: ClassVar[Method] = Method(
        key="orpo",
        title="ORPO",
        rows="pairs",
        trl="trl.experimental.orpo:ORPO",
        columns="labelled sides",
        arguments=lambda settings: {"beta": settings.beta},
        # its loss is a mean over the tokens of a micro-batch, so its composition matters
        sorts_rows=lambda settings: False,
        metrics=METRICS,
        charts=CHARTS,
        epochs=EPOCHS,
        rates=RATES,
        divergence=DivergenceBounds(early=2.0, later=0.5),
        fastest_rate=5e-5,
        sequences=2,
        full_logits=True,
        predict_loss=first_loss,
    )

    learning_rate: float = Field(default=8e-6, gt=0, le=1, title="Learning rate")
    """Its authors use 5e-6 to 8e-6 for full fine-tuning. Adapters take up to 5e-5; a small base with few steps needs that."""
    batch_size: int = Field(default=1, ge=1, le=512, title="Batch size")
    """Pairs in memory at once. ORPO keeps the logits of both answers, so a pair uses as much memory as several in DPO."""
    accumulation: int = Field(default=16, ge=1, le=1024, title="Gradient accumulation")
    """Batches accumulated before each step. Batch × accumulation is usually 16 pairs."""
    beta: float = Field(default=0.1, gt=0, le=10, title="Beta")
    """Weight of the odds term beside the loss of chosen answers (λ in the paper). Prompts are learned too; long ones count."""
