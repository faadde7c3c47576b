"""Every file under presets/, and the choice among them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.readings import card, replay
from trainer_core.config.recipe import METHODS, STARTER, MethodChain, Recipe
from trainer_core.errors import ConfigError
from trainer_core.methods.base import DatasetStats, LengthQuantiles
from trainer_core.planning.fitting import MemoryBudget, fit_settings
from trainer_core.planning.memory_model import Device, StageSetup, estimate_memory, fit_verdict, resolve_base_format
from trainer_core.planning.presets import (
    PRESETS_DIR,
    Preset,
    PresetChoice,
    choose_preset,
    load_catalogue,
    load_goals,
    load_presets,
)
from trainer_core.system.format import GIB
from trainer_core.system.hardware import Machine, detect_machine
from trainer_core.texts import Text

PRESETS, GOALS, CATALOGUE = load_presets(), load_goals(), load_catalogue()
CARDS = ("6gb", "8gb", "12gb", "16gb", "24gb", "32gb", "48gb", "80gb")


def test_no_file_is_left_out() -> None:
    found = {path.relative_to(PRESETS_DIR).as_posix() for path in PRESETS_DIR.rglob("*.toml")}
    read = {f"{name}.toml" for name in PRESETS} | {f"goals/{name}.toml" for name in GOALS}
    assert found == read | {"models/catalogue.toml", "speed/devices.toml"}
    assert list(PRESETS) == ["cpu", *CARDS]
    assert set(GOALS) == {"quick", "balanced", "thorough"}


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_card_runs_its_preset_safely(name: str, stage: str) -> None:
    preset = PRESETS[name]
    shape = CATALOGUE.find_architecture(preset.model)
    assert shape is not None
    base, _ = resolve_base_format(preset.precision, "cuda", quantised=shape.quantised)
    planned = estimate_memory(StageSetup(shape, preset.lora, getattr(preset, stage), base, reference=stage == "dpo"))
    assert fit_verdict(planned, round(preset.min_free_gib * GIB)).level == "fits"
    assert getattr(preset, stage).effective_batch == 16
    assert shape.context >= getattr(preset, stage).max_length


@pytest.mark.parametrize("name", CARDS)
def test_a_card_of_that_size_gets_its_preset(name: str) -> None:
    """Beside a desktop that holds 0.4 GB, more on larger cards."""
    size = int(name.removesuffix("gb"))
    machine = detect_machine(replay(card(size, size - max(0.4, 0.02 * size))), environ={})
    assert picked(machine) == PRESETS[name]


def picked(machine: Machine, own_pids: tuple[int, ...] = ()) -> Preset:
    """The preset for what is free on the machine's best card."""
    room = MemoryBudget.for_machine(machine, own_pids)
    return choose_preset(PRESETS, room.free / GIB if room.device == "cuda" else None).preset


@pytest.mark.parametrize("name", CARDS)
def test_recommended_models_fit_with_settings_of_their_own(name: str) -> None:
    some = LengthQuantiles.from_counts([*range(50, 1000, 10)])
    for model in PRESETS[name].also:
        shape = CATALOGUE.find_architecture(model)
        assert shape is not None, f"{model} is not in the catalogue"
        room = MemoryBudget("cuda", round(PRESETS[name].min_free_gib * GIB))
        plan = fit_settings(room, shape, MethodChain("sft+dpo"), DatasetStats(400, 400, some, some))
        assert plan.stages["dpo"].max_length >= 960  # no row is cut for want of memory


def test_the_processor_preset_fits_a_small_machine() -> None:
    preset = PRESETS["cpu"]
    shape = CATALOGUE.find_architecture(preset.model)
    assert preset.model == STARTER
    assert shape is not None
    device: Device = "cpu"
    for training in (preset.sft, preset.dpo):
        for base in ("fp32", "bf16"):
            assert (
                estimate_memory(StageSetup(shape, preset.lora, training, base, device, reference=True)).upper < 7 * GIB
            )


def test_every_model_of_the_catalogue_has_a_shape_by_both_names() -> None:
    for known in CATALOGUE.models:
        assert CATALOGUE.find_architecture(known.whole) == known.architecture
        assert known.architecture.known
        if known.packed:
            assert CATALOGUE.find_architecture(known.packed) == replace(known.architecture, quantised=True)
    assert CATALOGUE.find_architecture("someone/else") is None


CHOICES = [
    (None, "cpu", Text("presets.no_card")),
    (0.0, "cpu", Text("presets.too_little", free=0.0, preset="6 GB card", needed=4.7)),
    (4.0, "cpu", Text("presets.too_little", free=4.0, preset="6 GB card", needed=4.7)),
    (4.7, "6gb", Text("presets.fits", free=4.7, preset="6 GB card", needed=4.7)),
    (7.2, "8gb", Text("presets.fits", free=7.2, preset="8 GB card", needed=6.2)),
    (11.2, "12gb", Text("presets.fits", free=11.2, preset="12 GB card", needed=10.2)),
    (22.3, "24gb", Text("presets.fits", free=22.3, preset="24 GB card", needed=19.5)),
    (500.0, "80gb", Text("presets.fits", free=500.0, preset="80 GB card", needed=64.0)),
]


@pytest.mark.parametrize(("free", "name", "reason"), CHOICES)
def test_choose(free: float | None, name: str, reason: Text) -> None:
    assert choose_preset(PRESETS, free) == PresetChoice(PRESETS[name], reason)
    assert choose_preset(reversed(PRESETS.values()), free).preset == PRESETS[name]


def test_the_choice_follows_free_memory_and_counts_our_own_worker_as_free() -> None:
    full = detect_machine(replay("300mb_free"), environ={})
    assert picked(full) == PRESETS["cpu"]
    assert picked(full, own_pids=[991]) == PRESETS["24gb"]
    assert picked(detect_machine(replay("none"), environ={})) == PRESETS["cpu"]


def test_goals_change_the_length_of_a_run_and_nothing_else() -> None:
    recipe = PRESETS["8gb"].as_recipe()
    recipe = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"max_steps": 7, "epochs": 2.0})})
    quick, balanced, thorough = (GOALS[name].apply_goal(recipe) for name in ("quick", "balanced", "thorough"))
    assert (quick.sft.max_steps, quick.dpo.max_steps) == (GOALS["quick"].sft.max_steps, GOALS["quick"].dpo.max_steps)
    assert quick.sft.max_steps and quick.dpo.max_steps and quick.sft.epochs == 2.0
    assert (balanced.sft.max_steps, balanced.sft.epochs, balanced.dpo.epochs) == (None, 2.0, 1.0)
    assert (thorough.sft.max_steps, thorough.sft.epochs) == (None, GOALS["thorough"].sft.epochs)
    assert thorough.dpo.epochs == GOALS["thorough"].dpo.epochs != recipe.dpo.epochs
    for changed in (quick, balanced, thorough):
        same = changed.model_copy(update={stage: recipe.stage_settings(stage) for stage in METHODS})
        assert same == recipe
        assert changed.sft.batch_size == recipe.sft.batch_size


def test_a_preset_is_a_recipe() -> None:
    recipe = PRESETS["12gb"].as_recipe()
    assert isinstance(recipe, Recipe)
    assert (recipe.model, recipe.lora.rank, recipe.dpo.beta) == ("unsloth/Qwen3-8B-bnb-4bit", 16, 0.1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "x"\nmodel = "m"\n', "x.toml: min_free_gib: Field required"),
        ('name = "x"\nmin_free_gib = 1\nmodel = "m"\n[sft]\nlerning_rate = 1e-4', "x.toml: sft.lerning_rate"),
        (
            'name = "x"\nmin_free_gib = -1\nmodel = "m"',
            "x.toml: min_free_gib: must be at least 0, you gave -1.",
        ),
        ("name = ", "x.toml: not valid TOML"),
    ],
)
def test_a_wrong_preset_names_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        load_presets(tmp_path)


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_presets(tmp_path)
    assert error.value.text == Text("presets.none", folder=tmp_path)


def test_a_floor_is_met_at_the_floor() -> None:
    low, high = (Preset(name=name, min_free_gib=floor, model="m") for name, floor in (("low", 1.0), ("high", 8.0)))
    assert [choose_preset([low, high], free).preset.name for free in (7.99, 8.0)] == ["low", "high"]
