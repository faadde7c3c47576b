"""Supervised fine-tuning: a new adapter on the base learns to write the assistant's answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig

from trainer_core.config import Recipe
from trainer_core.engine import arguments
from trainer_core.engine.checkpoint import ShelvedSft
from trainer_core.tokens import Encoded


def dataset(rows: Sequence[Encoded]) -> Dataset:
    return Dataset.from_dict({"input_ids": [r.input_ids for r in rows], "labels": [r.labels for r in rows]})


def trainer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    recipe: Recipe,
    scratch: Path,
    callbacks: list[TrainerCallback],
) -> ShelvedSft:
    """TRL's trainer on rows that are tokens and labels already, so that what is trained is what was shown."""
    built = ShelvedSft(
        model=model,
        args=SFTConfig(**arguments.shared(recipe.sft, recipe.seed, scratch), packing=recipe.sft.packing),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    if recipe.memory.sort_rows == "auto" and not recipe.sft.packing:
        built.sorts = "sft"
    return built
