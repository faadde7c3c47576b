"""What the app does to a run whose log lacks something."""

import pytest

from trainer_core.config.recipe import Recipe
from trainer_core.errors import ConfigError
from trainer_core.jobs.run_control import extension_events
from trainer_core.runs.run_state import RunState


def test_a_run_without_its_number_of_rows_cannot_be_extended() -> None:
    with pytest.raises(ConfigError) as refused:
        extension_events(RunState("a-run"), Recipe(), "dpo", 1.0)
    assert refused.value.text.code == "run_control.no_rows"
