"""What Start offers and says before a run: models, goals, reasons, steps and times."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

from tests.support.serve import machine
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import METHOD_CHAINS, METHODS, STAGE_SETTINGS, STARTER, Lora, MethodChain, Recipe
from trainer_core.data import RowCounts
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.steps import count_steps
from trainer_core.planning import forecast_text, run_time
from trainer_core.planning.forecast import dependent_reason, make_forecast
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs import run_folder
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Phase, RunEnded, Stage, TrainStep
from trainer_core.runs.workspace import Workspace
from trainer_core.system.format import GIB, format_gb, format_rate
from trainer_core.system.hardware import Cpu, Machine
from trainer_core.texts import Text
from ui.components.html_start import render_data_facts, render_memory
from ui.payloads import memory_fit
from ui.payloads.model_choices import GOALS, ModelChoices, free_gib
from ui.payloads.row_counts import count_data_rows
from ui.payloads.run_settings import past_runs
from ui.tabs.start_actions import UsedData, plan_lines, preview_settings, restore_recipe

NOBODY = ModelChoices(lambda: None)
CARD = ModelChoices(lambda: 21.0)


def test_without_a_card_there_is_the_starter_model() -> None:
    assert [name for _, name in NOBODY.models] == [STARTER]


def test_a_card_that_comes_back_is_offered_its_models() -> None:
    seen: list[float | None] = [None, 21.0]
    offers = ModelChoices(lambda: seen[0])
    without = [name for _, name in offers.models]
    assert offers.explain(starter_recipe())[0].startswith("No graphics card")
    del seen[0]
    assert without == [STARTER] and [name for _, name in offers.models] == [name for _, name in CARD.models]
    assert offers.explain(starter_recipe())[0] == "Settings made for SmolLM2 135M."


def test_with_a_card_its_models_are_offered_by_title() -> None:
    (_, first), (title, second), *_ = CARD.models
    assert (first, second) == (STARTER, CARD.preset_choice.preset.model)
    assert title == "Qwen3 14B, 4-bit"


def test_every_model_says_whether_it_fits_and_the_best_come_first(supervisor: Supervisor) -> None:
    labels, names = zip(*CARD.model_labels(supervisor), strict=True)
    assert labels[:2] == ("Starter · SmolLM2 135M (included) · ✓ fits", "Qwen3 14B, 4-bit · ✓ fits · recommended")
    assert names[-1] == "unsloth/Qwen3-32B-bnb-4bit" and names[-2] == "unsloth/Llama-3.3-70B-Instruct-bnb-4bit"
    fitting = ["will not fit" not in label for label in labels]
    assert fitting == sorted(fitting, reverse=True) and len(names) >= 15
    shapes = [CARD.catalogue.find_architecture(name) for name, fits in zip(names, fitting, strict=True) if fits]
    sizes = [shape.parameter_count for shape in shapes[2:] if shape]
    assert sizes == sorted(sizes, reverse=True)


def test_what_the_preset_has_itself_is_no_edit(supervisor: Supervisor) -> None:
    preset = CARD.recipe_for(STARTER, "quick")
    wanted = memory_fit.move_slider(preset, "lora.rank", 256)
    told = memory_fit.build_forecast(supervisor, CARD.catalogue, wanted, count_data_rows(wanted))
    assert not isinstance(told, str) and "dpo.batch_size" in [one.key for one in told.costly_changes]
    assert [one.key for one in memory_fit.mark_user_edits(told, preset).costly_changes] == ["lora.rank"]


def test_a_slider_keeps_the_effective_batch_and_nothing_else_moves() -> None:
    before = CARD.recipe_for(CARD.preset_choice.preset.model, "quick")
    after = memory_fit.move_slider(before, "sft.batch_size", 2)
    assert (after.sft.batch_size, after.sft.accumulation) == (2, before.sft.effective_batch // 2)
    assert memory_fit.move_slider(after, "sft.batch_size", before.sft.batch_size) == before
    assert memory_fit.move_slider(before, "lora.rank", 128).lora.alpha == before.lora.alpha
    with pytest.raises(ValueError, match="no slider"):
        memory_fit.move_slider(before, "data.pairs", 1)


def test_the_first_click_is_the_demo() -> None:
    assert NOBODY.recipe_for(STARTER, "quick") == starter_recipe() == CARD.recipe_for(STARTER, "quick")


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("model", [STARTER, "somebody/a-model"])
def test_a_goal_is_known_by_its_length(model: str, goal: str) -> None:
    recipe = CARD.recipe_for(model, goal)
    assert recipe.model == model and CARD.matching_goal(recipe) == goal
    assert CARD.with_goal_length(CARD.recipe_for(model, "thorough"), goal) == recipe, (
        "no goal leaves anything of another"
    )


def test_a_goal_keeps_what_was_set_by_hand() -> None:
    mine = CARD.recipe_for(STARTER, "quick").model_copy(update={"lora": Lora(rank=3), "name": "mine"})
    longer = CARD.with_goal_length(mine, "thorough")
    assert (longer.lora.rank, longer.name, longer.sft.epochs) == (3, "mine", 3.0)
    assert CARD.explain(longer)[0] == "Some settings differ from the model's preset."


def test_a_length_of_ones_own_is_no_goal() -> None:
    recipe = CARD.recipe_for(STARTER, "quick")
    odd = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"max_steps": 7})})
    assert CARD.matching_goal(odd) is None and CARD.explain(odd)[1] == "Custom length: you set epochs or steps."


def test_another_model_brings_its_settings() -> None:
    small = CARD.recipe_for(STARTER, "quick")
    large = CARD.with_model_settings(small.model_copy(update={"model": "somebody/a-model"}), "quick")
    assert large.sft.learning_rate == CARD.preset_choice.preset.sft.learning_rate != small.sft.learning_rate
    assert CARD.explain(large)[0] == str(CARD.preset_choice.reason)


@pytest.mark.parametrize("kept", [{}, {"rank": 3}, {"lora": {"rank": "many"}}])
def test_choices_that_cannot_be_used_are_forgotten(kept: dict) -> None:
    assert restore_recipe(kept) is None


def test_choices_are_recalled() -> None:
    recipe = starter_recipe()
    assert restore_recipe(recipe.model_dump(mode="json")) == recipe


def test_the_plan_says_steps_and_rates() -> None:
    found = RowCounts({"sft": 352, "dpo": 352}, 50, ())
    lines = plan_lines(starter_recipe(), found, {"sft": "≈ 1 min 00 s", "dpo": ""})
    takes = [(line.stage, line.takes) for line in lines]
    assert takes == [("Load", ""), ("SFT", "≈ 1 min 00 s"), ("DPO", ""), ("Compare", "")]
    assert (
        lines[1].what == f"{starter_recipe().sft.max_steps} steps of 4 examples, rate\u00a00.001, warm-up 3 of 24 steps"
    )
    assert (
        lines[2].what
        == f"{starter_recipe().dpo.max_steps} steps of 4 pairs, rate\u00a02e-4, warm-up 1 of 10 steps, β\u00a00.1"
    )
    only = plan_lines(starter_recipe().model_copy(update={"method": MethodChain("sft")}), found, {"sft": ""})
    assert [line.stage for line in only] == ["Load", "SFT", "Compare"]
    assert only[2].what == "base and SFT answer side by side"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    opened = Supervisor(Workspace(tmp_path), (sys.executable, "-c", ""), read_machine=lambda: machine(24))
    yield opened
    opened.close()


def test_the_bar_and_the_command_lines_table_are_one_plan(supervisor: Supervisor) -> None:
    wanted = CARD.recipe_for("unsloth/Qwen3-8B-bnb-4bit", "balanced")
    found, shape = count_data_rows(wanted), CARD.catalogue.find_architecture(wanted.model)
    told = memory_fit.build_forecast(supervisor, CARD.catalogue, wanted, found)
    assert shape
    again = make_forecast(wanted, shape, memory_fit.target_machine(supervisor), found)
    assert told == replace(again, disk_free=told.disk_free)  # other programs write meanwhile
    drawn, table = (
        render_memory(told, memory_fit.slider_values(wanted), ("", "")),
        "\n".join(forecast_text.forecast_lines(told)),
    )
    assert told.verdict.sentence in table and told.verdict.sentence.partition(": ")[2] in drawn
    largest = sorted(told.peak.parts, key=lambda part: -part.upper)[:4]
    assert all(
        one.name in drawn and f"{one.upper / GIB:.2f}" in table and format_gb(one.upper) in drawn for one in largest
    )
    assert all(one.sentence in table and escape(one.sentence) in drawn for one in told.values)


def test_free_memory_counts_without_the_reserve(supervisor: Supervisor) -> None:
    free = free_gib(supervisor)
    assert free is not None and 21.0 < free < 21.9


def ran(supervisor: Supervisor, recipe: Recipe, seconds: list[float]) -> None:
    run_dir = run_folder.create_run(
        supervisor.workspace.runs, TrainJob(recipe=recipe), "", **supervisor.spawner.run_file_facts((), recipe.model)
    )
    log = EventLog(run_dir / "events.jsonl")
    for at, took in enumerate(seconds, 1):
        log(TrainStep("sft", at, len(seconds), 1.0, 1e-4, 1.0, took, 900.0, 0.0))
    log(RunEnded(Phase.DONE))
    supervisor.registry.refresh()


FOUND = RowCounts({"sft": 352, "dpo": 352}, 50, (), {"sft": ((0.5, 60), (1.0, 100)), "dpo": ((0.5, 80), (1.0, 120))})


def told(supervisor: Supervisor, recipe: Recipe) -> tuple[dict[Stage, float], str]:
    """The seconds of the stages, and the sentence on the whole."""
    place = memory_fit.target_machine(supervisor)
    known = run_time.estimate_speeds(
        past_runs(supervisor.registry),
        recipe,
        CARD.catalogue.find_architecture(recipe.model),
        place,
        supervisor.device.machine.cpu.cores,
    )
    seconds = run_time.stage_seconds(known, recipe, FOUND)
    return seconds, run_time.describe_run_time(run_time.run_seconds(supervisor.workspace, recipe, seconds), known)


def test_time_is_told_by_the_last_run_like_it(supervisor: Supervisor) -> None:
    recipe = starter_recipe().model_copy(update={"method": MethodChain("sft")})
    ran(supervisor, recipe, [60.0, 2.0, 3.0, 2.0])
    seconds, said = told(supervisor, recipe)
    assert seconds == {"sft": 48.0}, "the median of all but the first step, 24 times"
    assert said == "≈ 2 min in all, as fast as your last run."


def test_other_rows_take_as_long_as_the_last_runs_tokens_say(supervisor: Supervisor) -> None:
    recipe = starter_recipe().model_copy(update={"method": MethodChain("sft")})
    ran(supervisor, recipe, [60.0, 2.0, 3.0, 2.0])
    other = recipe.model_copy(update={"sft": recipe.sft.model_copy(update={"max_length": 90})})
    seconds, _ = told(supervisor, other)
    assert seconds["sft"] == pytest.approx(24 * 4 * (0.5 * 60 + 0.5 * 90) / 900)


def test_before_the_first_run_time_is_estimated(tmp_path: Path) -> None:
    """The starter on one core of the kind that was measured; the card of `machine` by its data sheet."""
    recipe = starter_recipe()
    core = Machine(Cpu("EPYC", 1, 32 * GIB, 20 * GIB, bfloat16=True), problem="")
    opened = Supervisor(Workspace(tmp_path), (sys.executable, "-c", ""), read_machine=lambda: core)
    seconds, said = told(opened, recipe)
    opened.close()
    assert seconds["sft"] == pytest.approx(24 * 4 * 80 / 110, rel=0.05), "110 tokens a second on a core"
    assert seconds["dpo"] == pytest.approx(10 * 4 * 200 / 110 * 8 / 6, rel=0.05), "both answers, and the reference"
    assert said == "≈ 4 min in all, estimated.", "with unpacking the model, which is not there yet"


def test_a_model_of_unknown_size_has_no_time(supervisor: Supervisor) -> None:
    assert told(supervisor, CARD.recipe_for("somebody/a-model", "quick")) == ({}, "")


def used(**more: object) -> UsedData:
    return UsedData.model_validate({"source": "/data/x.jsonl", "kind": "pairs", "columns": {}, "steps": (), **more})


def test_used_data_brings_its_columns_steps_and_length() -> None:
    recipe = used(columns={"prompt": "q"}, steps=("mask",), length=512, template="alpaca").apply_to(starter_recipe())
    assert (recipe.data.pairs, recipe.data.columns.prompt, recipe.data.steps) == ("/data/x.jsonl", "q", ("mask",))
    assert recipe.method == MethodChain("sft+dpo") and recipe.sft.max_length == recipe.dpo.max_length == 512
    assert recipe.data.template == "alpaca"
    assert recipe.data.pair_rows is None, "nothing of the data before stays"
    assert used().apply_to(starter_recipe()).sft == starter_recipe().sft


def test_used_conversations_mean_sft_alone() -> None:
    assert used(kind="chat").apply_to(starter_recipe()).method == MethodChain("sft")
    sample = used(kind="chat", source="sample chats").apply_to(starter_recipe()).data
    assert (sample.pairs, sample.chat) == (None, "sample")


def test_the_data_tab_hears_what_start_has_chosen() -> None:
    told = json.loads(preview_settings(used(columns={"prompt": "q"}, steps=("mask",)).apply_to(starter_recipe())))
    assert (told["source"], told["columns"], told["steps"]) == ("/data/x.jsonl", {"prompt": "q"}, ["mask"])
    assert told["lengths"] == {"pairs": starter_recipe().dpo.max_length, "chat": starter_recipe().sft.max_length}


def test_the_data_tab_checks_against_the_held_out_file_of_the_recipe() -> None:
    recipe = used(held_out="/data/apart.jsonl").apply_to(starter_recipe())
    assert recipe.data.held_out == json.loads(preview_settings(recipe))["held_out"] == "/data/apart.jsonl"
    assert used().apply_to(recipe).data.held_out is None, "other data has another, or none"


@pytest.mark.parametrize("method", METHOD_CHAINS)
@pytest.mark.parametrize("rows", [1, 8, 24, 80, 150, 352, 5000])
def test_a_quick_look_is_never_the_longest(rows: int, method: MethodChain) -> None:
    here = dict.fromkeys(METHODS, rows)
    wanted = CARD.recipe_for(STARTER, "balanced").model_copy(update={"method": method})
    steps = [
        sum(
            count_steps(rows, CARD.with_goal_length(wanted, goal, here).stage_settings(stage))
            for stage in method.stages
        )
        for goal in GOALS
    ]
    assert steps[0] <= steps[1] <= steps[2]
    quick = CARD.with_goal_length(wanted, "quick", here)
    assert (
        CARD.matching_goal(quick, here) == "quick"
        and CARD.matching_goal(CARD.with_goal_length(wanted, "balanced", here), here) == "balanced"
    )
    assert CARD.matching_goal(CARD.recipe_for(STARTER, "quick"), here) == "quick", "as one click on a fresh page has it"


def test_a_quick_look_at_few_rows_sees_each_once() -> None:
    quick = CARD.with_goal_length(CARD.recipe_for(STARTER, "quick"), "quick", {"sft": 8, "dpo": 8})
    assert (quick.sft.max_steps, quick.dpo.max_steps) == (2, 2), "two steps of four rows"
    assert CARD.with_goal_length(quick, "quick", {"sft": 352, "dpo": 352}) == CARD.recipe_for(STARTER, "quick"), (
        "the sample's stays"
    )


def test_reasons_are_made_from_the_values_that_stand_there(supervisor: Supervisor) -> None:
    recipe = CARD.recipe_for(STARTER, "quick")
    sft = recipe.sft.model_copy(update={"batch_size": 4, "accumulation": 1})
    lora = recipe.lora.model_copy(update={"rank": 16, "alpha": 32})
    wanted = recipe.model_copy(update={"sft": sft, "lora": lora})
    told = memory_fit.build_forecast(supervisor, CARD.catalogue, wanted, count_data_rows(wanted))
    assert not isinstance(told, str)
    why = {one.key: one.why for one in told.values if not one.chosen}
    assert why["sft.accumulation"] == "4 × 1 = 4 for each step"
    assert dependent_reason(wanted, "sft.accumulation") == "4 × 1 = 4 for each step"
    assert dependent_reason(Recipe(), "dpo.accumulation").endswith("= 16 for each step, the size LoRA learns well with")
    assert (
        dependent_reason(wanted, "lora.alpha") == "alpha 32: the update is scaled by 2"
        and dependent_reason(wanted, "lora.rank") == ""
    )


def test_the_help_of_dpos_rate_names_the_rates_that_are_proposed() -> None:
    field, rates = STAGE_SETTINGS["dpo"].model_fields["learning_rate"], METHODS["dpo"].rates
    named = re.findall(r"\d+(?:\.\d+)?e-\d+", field.description or "")
    assert named == [format_rate(rate) for rate in (field.default, rates.usual / 10, rates.small_base)]


NOTES = (
    (Text("selection.held_out", rows=4, total=40, what=Text("selection.pairs")), "told"),
    (Text("selection.none_held_out", total=4, what=Text("selection.pairs")), "warn"),
    (Text("selection.same_prompt", rows=1, total=40, what=Text("selection.pairs")), "warn"),
)


def test_that_rows_are_held_out_is_no_warning() -> None:
    page = render_data_facts(["40 pairs"], [note for note, _ in NOTES])
    assert re.findall(r'<li class="(\w+)">', page) == ["ok", *(tone for _, tone in NOTES)]


def test_a_method_that_is_not_trained_changes_no_goal() -> None:
    """As in recipes of before it was there, which have its defaults."""
    quick = CARD.with_goal_length(CARD.recipe_for(STARTER, "quick"), "quick", dict.fromkeys(METHODS, 352))
    idle = next(stage for stage in METHODS if stage not in quick.method.stages)
    other = quick.model_copy(update={idle: STAGE_SETTINGS[idle](max_steps=3, batch_size=7)})
    assert CARD.matching_goal(other) == "quick" and CARD.explain(other) == CARD.explain(quick)
