"""The recipe a run actually used."""

from __future__ import annotations

from collections.abc import Sequence

from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Recipe
from trainer_core.runs.events import SettingChanged, Stage


def effective_recipe(recipe: Recipe, changes: Sequence[SettingChanged]) -> Recipe:
    """The recipe with the changes that earlier workers of this run made.

    Raises:
        ConfigError: a change in the run folder is invalid.
    """
    for change in changes:
        part, _, key = change.what.partition(".")
        is_length = part in recipe.method.stages and key in ("batch_size", "accumulation", "max_steps")
        if is_length or part == "memory":
            recipe = with_changes(recipe, {change.what: change.used})  # a text with digits is a number there
    return recipe


def extended_steps(recipe: Recipe, changes: Sequence[SettingChanged], stage: Stage) -> int:
    """The steps that a stage was extended to; 0 if it was not. recipe: the effective one."""
    extended = any(change.what == f"{stage}.max_steps" for change in changes)
    return recipe.stage_settings(stage).max_steps or 0 if extended else 0
