"""Training: the only package that knows Unsloth and TRL. Unsloth must be imported before everything it patches."""

import os

# rows become tokens in this process: on CUDA, Unsloth would fork it with the card and the template renderer open
os.environ["UNSLOTH_DATASET_NUM_PROC"] = "0"

import unsloth  # noqa: E402, F401  (before transformers, TRL and PEFT)

from trainer_core.engine.train import train  # noqa: E402

__all__ = ["train"]
