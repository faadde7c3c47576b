"""SFT: its settings."""

from __future__ import annotations

from pydantic import Field

from trainer_core.methods.base import Training


class Sft(Training):  # [U, field]
    """Supervised fine-tuning: learn to write the good answers. Rate 2e-4."""

    packing: bool = Field(default=False, title="Pack short rows")
    """Put several short rows into one sequence. Faster on CUDA for short data; changes the number of steps."""
