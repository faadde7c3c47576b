"""A recipe with some settings replaced."""

from __future__ import annotations

from typing import Any

from trainer_core.config.recipe import Recipe


def with_changes(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with some values replaced, by dotted key, validated as a whole.

    Raises:
        pydantic.ValidationError: the values contradict each other.
    """
    values = recipe.model_dump(mode="json")
    for dotted, value in changes.items():
        *parents, key = dotted.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place[key] = value
    return Recipe.model_validate(values)
