"""SFT: supervised fine-tuning."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from trainer_core.methods import base
from trainer_core.methods.base import (
    DivergenceBounds,
    Method,
    MetricChart,
    Training,
    UsualRates,
)

EPOCHS = ((base.SMALL_DATASET_ROWS, 3.0), (10_000, 2.0), (math.inf, 1.0))
"""(below so many rows, passes): one to three [HF]."""
RATES = UsualRates(usual=2e-4, small_base=5e-4, stabilised=5e-5, why="2e-4: the usual rate for adapters")  # [U]

CHARTS = (
    MetricChart(
        ("loss",),
        "SFT loss",
        "How unlikely the model finds the good answers, in nats per token. Lower is better.",
        reading="token loss",
    ),
)


class Sft(Training):  # [U, field]
    """Supervised fine-tuning: learn to write the good answers. Rate 2e-4."""

    packing: bool = Field(default=False, title="Packing")
    """Put several short rows into one sequence. Faster on CUDA for short data; changes the number of steps."""

    # later: of runs whose loss rose tenfold, 1.25 stops 65 of 1,000 late or never, and 0.5 stops 7 of 10,000 one to three steps
    # late: their first bad losses were ten times exceptionally low ones (`python -m reliability alarms`)
    method: ClassVar[Method] = Method(
        key="sft",
        title="SFT",
        rows="chat",
        trl="trl:SFT",
        columns="labels",
        arguments=lambda settings: {"packing": settings.packing},
        sorts_rows=lambda settings: not settings.packing,
        charts=CHARTS,
        epochs=EPOCHS,
        rates=RATES,
        divergence=DivergenceBounds(early=2.0, later=0.5),
        fastest_rate=5e-4,  # [U]
    )

    @property
    def packs_rows(self) -> bool:
        return self.packing
