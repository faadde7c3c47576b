"""The recipe a run actually used."""

from __future__ import annotations

from collections.abc import Sequence

from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Recipe
from trainer_core.runs.events import SettingChanged


def effective_recipe(recipe: Recipe, changes: Sequence[SettingChanged]) -> Recipe:
    """The recipe with the changes that earlier workers of this run made."""
    for change in changes:
        part, _, key = change.what.partition(".")
        if part in recipe.method.stages and key in ("batch_size", "accumulation", "max_steps"):
            recipe = with_changes(recipe, {change.what: int(change.used)})
        elif part == "memory":
            recipe = with_changes(recipe, {change.what: change.used})
    return recipe
