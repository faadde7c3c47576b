"""Changes to a recipe come from run folders too: what does not fit is refused with its key."""

from typing import Any

import pytest

from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Recipe
from trainer_core.errors import ConfigError


def test_changes_replace_values_by_dotted_key() -> None:
    changed = with_changes(Recipe(), {"dpo.beta": 0.3, "dpo.max_steps": "12", "name": "other"})
    assert (changed.dpo.beta, changed.dpo.max_steps, changed.name) == (0.3, 12, "other")
    assert changed.sft == Recipe().sft


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"dpo.beta": "hot"}, ("dpo.beta",)),
        ({"dpo.beta": float("nan")}, ("dpo.beta",)),
        ({"dpo": []}, ("dpo",)),
        ({"tempo": 1}, ("tempo",)),
        ({"tempo.beta": 1}, ()),
        ({"name.beta": 1}, ()),
        ({"data.columns.prompt.x": 1}, ()),
    ],
)
def test_a_change_that_does_not_fit_is_refused(changes: dict[str, Any], keys: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        with_changes(Recipe(), changes)
    assert refused.value.keys == keys
    assert keys or refused.value.text.code == "recipe.no_such_setting"
