"""TRL's trainer for each method, with our additions: checkpoints, schedule, rows sorted within a step."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.runs.events import Stage
from trainer_core.training import load, trl_arguments
from trainer_core.training.checkpointing import DurableCheckpoints
from trainer_core.training.length_sorting import LengthSorted
from trainer_core.training.reference_cache import CachedReference
from trainer_core.training.token_rows import TOKEN_COLUMNS

TrainerBuilder = Callable[..., Any]
"""Builds a stage's trainer; see `build_trainer`."""


class AnswerColumns(Trainer):
    """Mixin for TRL's pair trainers: tokenised rows stay as they are."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


class LabelledSides(Trainer):
    """Mixin for trainers of trl.experimental: rows stay as they are, and sums are where TRL's other trainers keep them."""

    _total_train_tokens = 0

    def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
        return feature

    def store_metrics(self, metrics: dict[str, float], train_eval: str = "train") -> None:
        """Keep the metrics of evaluations apart: TRL would count them as training."""
        trainer: Any = super()
        trainer.store_metrics(metrics, "train" if self.model.training else "eval")  # type: ignore[union-attr]

    @property
    def _metrics(self) -> Any:
        return vars(self)["_stored_metrics"]

    @_metrics.setter
    def _metrics(self, sums: Any) -> None:
        vars(self)["_stored_metrics"] = sums


COLUMN_MIXINS: dict[str, type[Trainer]] = {"answers": AnswerColumns, "labelled sides": LabelledSides}


@cache
def trainer_classes(stage: Stage) -> tuple[type[Any], type[Any]]:
    """A method's trainer and its arguments class."""
    method = METHODS[stage]
    module, name = method.trl.split(":")
    found = importlib.import_module(module)
    mixins = [DurableCheckpoints, LengthSorted]
    mixins += [CachedReference] if method.needs_reference else []
    mixins += [COLUMN_MIXINS[method.columns]] if method.columns in COLUMN_MIXINS else []
    bases = (*mixins, getattr(found, f"{name}Trainer"))
    return type(f"{stage.capitalize()}Trainer", bases, {}), getattr(found, f"{name}Config")


def build_trainer(
    stage: Stage,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    recipe: Recipe,
    scratch: Path,
    callbacks: Sequence[TrainerCallback],
) -> Any:
    """A stage's trainer on tokenised rows.

    With a fresh adapter the reference is the base itself, so TRL's copy is dropped.
    """
    settings, method, fresh = recipe.stage_settings(stage), METHODS[stage], is_fresh(model)
    trainer_class, config_class = trainer_classes(stage)
    arguments = trl_arguments.common_arguments(settings, recipe.seed, scratch) | method.arguments(settings)
    with load.preserve_adapter_dtype(model):
        built = trainer_class(
            model=model,
            args=config_class(**arguments),
            train_dataset=rows,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
    if fresh and method.needs_reference:
        model.delete_adapter("ref")
    built.settings = settings
    built.row_lengths = TOKEN_COLUMNS[method.columns].count_tokens(built.train_dataset, settings.max_length)
    built.sorts = recipe.memory.sort_rows == "auto" and method.sorts_rows(settings)
    return built


def is_fresh(model: PeftModel) -> bool:
    """Is the adapter still without effect? LoRA starts with B = 0."""
    return all(not weight.any() for name, weight in model.named_parameters() if "lora_B.default" in name)
