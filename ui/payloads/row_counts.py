"""How many rows a recipe has for each stage, counted once for the same files and settings."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from trainer_core import data
from trainer_core.config.recipe import METHODS, Data, MethodChain, Recipe
from trainer_core.methods.base import ROW_NOUNS


def count_data_rows(recipe: Recipe, tokenizer: Path | None = None) -> data.RowCounts:
    """Read the data, or remember what was read from the same files.

    Raises:
        DataError: a file cannot be used.
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
    """When a file last changed; 0 where there is none, which reading it will say."""
    path = os.path.expanduser(source)
    return os.path.getmtime(path) if os.path.exists(path) else 0.0  # False for too long a name


def describe_data(found: data.RowCounts) -> list[str]:
    """What is in the data, as short lines."""
    named = [
        (count, f"{ROW_NOUNS[METHODS[stage].rows]} for {METHODS[stage].title}") for stage, count in found.rows.items()
    ]
    return [f"{count:,} {words}" for count, words in (*named, (found.held_out, "pairs held out")) if count]
