"""The actions of Start, without a page: the recipe that each leaves, and which elements it touches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from tests.support.serve import machine
from trainer_core.config.recipe import Recipe
from trainer_core.errors import ConfigError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs.workspace import Workspace
from ui.tabs.start_actions import PREVIEW, UNCHANGED, StartActions, StartView


@pytest.fixture
def actions(tmp_path: Path) -> Iterator[StartActions]:
    supervisor = Supervisor(Workspace(tmp_path), (sys.executable, "-c", ""), read_machine=lambda: machine(24))
    yield StartActions(supervisor)
    supervisor.close()


def event(**values: object) -> gr.EventData:
    return gr.EventData(None, values)


def touched(view: StartView) -> set[str]:
    return {name for name, value in view._asdict().items() if value is not UNCHANGED}


def test_a_preview_leaves_the_form_alone(actions: StartActions) -> None:
    view = actions.preview(starter_recipe())
    assert touched(view) == set(PREVIEW)
    assert Recipe.model_validate(view.stored) == starter_recipe() and view.goal["value"] == "quick"


def test_a_suggestion_can_be_undone(actions: StartActions) -> None:
    wanted = actions.offers.recipe_for("unsloth/Qwen3-32B-bnb-4bit", "quick")
    suggested = actions.suggest(event(model=starter_recipe().model), wanted)
    assert touched(suggested) == {"recipe", *PREVIEW, "origin", "undo", "before"}
    assert suggested.recipe.model == starter_recipe().model and suggested.undo["visible"]
    undone = actions.undo(suggested.before, suggested.stored)
    assert undone.recipe == wanted and not undone.undo["visible"]


def test_an_app_that_was_started_anew_has_nothing_to_undo(actions: StartActions) -> None:
    stored = starter_recipe().model_copy(update={"name": "mine"}).model_dump(mode="json")
    assert actions.undo(None, stored).recipe.name == "mine"
    assert actions.restore({}).recipe == actions.first


def test_a_slider_moves_its_setting(actions: StartActions) -> None:
    moved = actions.move_slider(event(key="lora.rank", value=64), starter_recipe())
    assert moved.recipe.lora.rank == 64 and touched(moved) == {"recipe", *PREVIEW}


def test_a_model_that_cannot_be_marks_its_input(actions: StartActions) -> None:
    with pytest.raises(ConfigError) as caught:
        actions.preview(starter_recipe().model_copy(update={"model": "no/such/model/name"}))
    assert caught.value.keys == ("model",)
