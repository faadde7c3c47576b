"""Training: the only package that imports Unsloth and TRL. Unsloth must be imported before everything it patches."""

import unsloth  # noqa: F401  (first, always)

from trainer_core.training.pipeline import train

__all__ = ["train"]
