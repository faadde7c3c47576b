"""The page's labels by their codes; and models, methods and lists written the same way in every part of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer_core.config.recipe import METHODS, STARTER, Recipe
from trainer_core.schema import field_label
from trainer_core.texts import render_text, templates

PAGE = "page."
"""The sections of the texts with the page's labels."""
STAGE_LABELS = {key: method.title for key, method in METHODS.items()}


def page_text(code: str, /, **params: Any) -> str:
    """A label or sentence of the page: `train_tab.no_run` is `page.train_tab.no_run` of the texts."""
    return render_text(PAGE + code, params)


def page_texts() -> dict[str, str]:
    """The page's labels and sentences with their placeholders, by code."""
    return {code.removeprefix(PAGE): say for code, say in templates().items() if code.startswith(PAGE)}


def run_title(recipe: Recipe | None, run_id: str) -> str:
    """A run's title in lists: its name, or its model and method."""
    if recipe is None:
        return run_id
    return recipe.name or f"{model_name(recipe.model)} · {method_label(recipe)}"


def model_name(model: str) -> str:
    return "SmolLM2 135M" if model == STARTER else Path(model).name


def method_label(recipe: Recipe) -> str:
    return " → ".join(STAGE_LABELS[stage] for stage in recipe.method.stages)


def setting_label(key: str) -> str:
    """`dpo.batch_size` → DPO batch size, `lora.rank` → LoRA rank."""
    return field_label(Recipe, key.split(".")) or key


def join_names(names: Sequence[str]) -> str:
    """base, SFT and DPO."""
    return page_text("common.names", names=", ".join(names[:-1]), last=names[-1]) if len(names) > 1 else "".join(names)
