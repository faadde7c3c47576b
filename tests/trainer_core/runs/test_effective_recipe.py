"""The recipe that a run used: its own with the changes in its log, which may come from anyone."""

import pytest

from trainer_core.config.recipe import Recipe
from trainer_core.errors import ConfigError
from trainer_core.runs.effective_recipe import effective_recipe, extended_steps
from trainer_core.runs.events import SettingChanged
from trainer_core.texts import verbatim


def setting_change(what: str, used: str) -> SettingChanged:
    return SettingChanged(what, "", used, verbatim("a reason"))


def test_the_changes_of_earlier_workers_hold() -> None:
    changes = [
        setting_change("dpo.batch_size", "2"),
        setting_change("memory.skip_layers", "off"),
        setting_change("precision", "bf16"),
    ]
    assert effective_recipe(Recipe(), changes).dpo.batch_size == 2
    assert effective_recipe(Recipe(), changes).memory.skip_layers == "off"


@pytest.mark.parametrize("used", ["", "text", "\ufffd", "0", "9" * 5000, "2.5"])
@pytest.mark.parametrize("what", ["dpo.batch_size", "dpo.max_steps", "memory.skip_layers"])
def test_a_change_that_is_no_value_is_refused_with_its_key(what: str, used: str) -> None:
    with pytest.raises(ConfigError) as refused:
        effective_recipe(Recipe(), [setting_change(what, used)])
    assert refused.value.keys == (what,)


def test_a_stage_has_only_the_steps_that_it_was_extended_to() -> None:
    changes = [setting_change("dpo.max_steps", "30"), setting_change("dpo.max_steps", "45")]
    recipe = effective_recipe(Recipe.model_validate({"sft": {"max_steps": 7}}), changes)
    assert extended_steps(recipe, changes, "dpo") == 45
    assert extended_steps(recipe, changes, "sft") == 0
