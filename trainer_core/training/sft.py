"""Supervised fine-tuning: a new adapter on the base learns to write the assistant's answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig

from trainer_core.config.recipe import Recipe
from trainer_core.data.tokenize import EncodedChat
from trainer_core.training import load, row_lengths, trl_arguments
from trainer_core.training.checkpointing import SftTrainer


def build_dataset(encoded: Sequence[EncodedChat]) -> Dataset:
    return Dataset.from_dict({"input_ids": [r.input_ids for r in encoded], "labels": [r.labels for r in encoded]})


def build_sft_trainer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    given: Dataset,
    recipe: Recipe,
    scratch: Path,
    callbacks: list[TrainerCallback],
) -> SftTrainer:
    """TRL's trainer on rows that are tokens and labels already, so that what is trained is what was shown."""
    with load.preserve_adapter_dtype(model):
        built = SftTrainer(
            model=model,
            args=SFTConfig(
                **trl_arguments.common_arguments(recipe.sft, recipe.seed, scratch), packing=recipe.sft.packing
            ),
            train_dataset=given,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
    built.settings = recipe.sft
    built.row_lengths = row_lengths.count_tokens(built.train_dataset, "chat", recipe.sft.max_length)
    built.sorts = recipe.memory.sort_rows == "auto" and not recipe.sft.packing
    return built
