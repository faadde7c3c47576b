"""A recipe with some settings replaced."""

from __future__ import annotations

from typing import Any

from trainer_core.config.recipe import Recipe
from trainer_core.errors import ConfigError
from trainer_core.schema import parse_values


def with_changes(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with some values replaced, by dotted key, validated as a whole.

    Raises:
        ConfigError: a setting does not exist, or a value is invalid. The changes of a run folder may be anything.
    """
    values = recipe.model_dump(mode="json")
    for dotted, value in changes.items():
        *parents, key = dotted.split(".")
        place: Any = values
        for parent in parents:
            place = place.get(parent)
            if not isinstance(place, dict):
                raise ConfigError("recipe.no_such_setting", key=dotted[:80])
        place[key] = value
    return parse_values(Recipe, values, "")
