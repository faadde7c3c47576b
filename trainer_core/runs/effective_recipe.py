"""The recipe of a run with the settings that were changed while it ran."""

from __future__ import annotations

from collections.abc import Sequence

from trainer_core.config.changes import changed
from trainer_core.config.recipe import Recipe
from trainer_core.runs.events import Changed


def in_force(recipe: Recipe, changes: Sequence[Changed]) -> Recipe:
    """The recipe with what earlier workers of this run had to change in it."""
    for change in changes:
        part, _, key = change.what.partition(".")
        if part in recipe.method.stages and key in ("batch_size", "accumulation", "max_steps"):
            recipe = changed(recipe, {change.what: int(change.used)})
        elif part == "memory":
            recipe = changed(recipe, {change.what: change.used})
    return recipe
