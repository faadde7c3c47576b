"""Rows of a recipe per stage, counted once for the same files and settings."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from trainer_core import data
from trainer_core.config.recipe import METHODS, Data, MethodChain, Recipe
from trainer_core.methods.base import ROW_NOUNS
from ui.format import page_text


def count_data_rows(recipe: Recipe, tokenizer: Path | None = None) -> data.RowCounts:
    """Count the rows; cached while files and settings are the same.

    Raises:
        DataError: a file is unusable.
    """
    found = count_sources(recipe.data, recipe.method, tokenizer, tuple(map(modified_time, data_sources(recipe))))
    return found.after_truncation({stage: recipe.stage_settings(stage).max_length for stage in recipe.method.stages})


def data_sources(recipe: Recipe) -> list[str]:
    return [source for source in (recipe.data.chat, recipe.data.pairs, recipe.data.held_out) if source]


@lru_cache(maxsize=16)
def count_sources(
    sources: Data, method: MethodChain, tokenizer: Path | None, stamps: tuple[float, ...]
) -> data.RowCounts:
    return data.count_rows(sources, method, tokenizer)


def modified_time(source: str) -> float:
    """Modification time of a file; 0 if it is missing, an error that reading it reports."""
    path = os.path.expanduser(source)
    return os.path.getmtime(path) if os.path.exists(path) else 0.0  # False for a name that is too long


def describe_data(found: data.RowCounts) -> list[str]:
    """The contents of the data, as short lines."""
    lines = [
        page_text("run_facts.rows", rows=count, noun=ROW_NOUNS[METHODS[stage].rows], stage=METHODS[stage].title)
        for stage, count in found.rows.items()
        if count
    ]
    return [*lines, *([page_text("run_facts.held_out", pairs=found.held_out)] if found.held_out else [])]
