"""The plan of a recipe: the same answer for page and command line, honest about hand-set values, quick enough for a slider."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.readings import card, replay
from trainer_core import data
from trainer_core.cli.commands import main
from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import METHOD_CHAINS, Lora, MethodChain, Precision, Recipe
from trainer_core.data import RowCounts
from trainer_core.methods.base import LengthQuantiles
from trainer_core.methods.sft import Sft
from trainer_core.models.resolve import find_tokenizer
from trainer_core.planning import measurements, presets
from trainer_core.planning.fitting import MemoryBudget
from trainer_core.planning.forecast import Forecast, TargetMachine, make_forecast
from trainer_core.planning.forecast_text import forecast_as_json, forecast_lines
from trainer_core.planning.memory_model import Measurement, MemoryPart, build_setup
from trainer_core.planning.presets import architecture_for_model
from trainer_core.runs.workspace import Workspace
from trainer_core.system.format import GIB
from trainer_core.system.hardware import detect_machine

FOUND = RowCounts(
    {"sft": 400, "dpo": 400},
    20,
    (),
    {stage: LengthQuantiles.from_counts(range(20, 420)).points for stage in ("sft", "dpo")},
    True,
)
MODEL = "unsloth/Qwen3-8B-bnb-4bit"
CATALOGUE = presets.load_catalogue()
RECIPE = presets.load_presets()["12gb"].as_recipe().model_copy(update={"model": MODEL})


def planned(recipe: Recipe, gib: float = 12, free: float | None = None) -> Forecast:
    machine = detect_machine(replay(card(gib, free or gib)), environ={})
    shape = CATALOGUE.find_architecture(recipe.model)
    assert shape
    return make_forecast(recipe, shape, TargetMachine.current_machine(machine, disk_free=50 * GIB), FOUND)


def test_every_setting_has_its_value_and_a_reason() -> None:
    plan = planned(RECIPE)
    told = {one.key: one for one in plan.values}
    for part in ("lora", "sft", "dpo", "memory"):
        assert {f"{part}.{name}" for name in type(getattr(RECIPE, part)).model_fields} <= set(told)
    assert all(one.why for one in plan.values)
    assert told["lora.rank"].why == "rank 16: 400 pairs are few; more would memorise"


def test_a_hand_set_value_stays_and_its_cost_is_told() -> None:
    mine = with_changes(RECIPE, {"lora.rank": 128, "dpo.batch_size": 1})
    plan = planned(mine, 16)
    rank = next(one for one in plan.values if one.key == "lora.rank")
    assert (rank.value, rank.chosen) == ("128", "16")
    shape = CATALOGUE.find_architecture(MODEL)
    assert shape
    assert rank.sentence.startswith("128 instead of 16: ") and " GB more. rank 16:" in rank.sentence
    assert rank in plan.costly_changes and plan.costly_changes[0].costs == max(one.costs for one in plan.costly_changes)
    fewer = next(one for one in plan.values if one.key == "dpo.batch_size")
    assert fewer.costs < 0
    assert plan.stages == planned(mine, 16).stages and mine.lora.rank == 128


def test_the_cost_is_the_difference_between_the_two_plans() -> None:
    plan, without = (
        planned(with_changes(RECIPE, {"lora.rank": 64}), 12),
        planned(with_changes(RECIPE, {"lora.rank": 16}), 12),
    )
    rank = next(one for one in plan.values if one.key == "lora.rank")

    def middle(one: Forecast) -> int:
        return (
            max(
                sum(part.lower + part.upper for part in stage.parts if part.name != "Kept layers")
                for stage in one.stages.values()
            )
            // 2
        )

    assert rank.costs == pytest.approx(middle(plan) - middle(without), rel=0.15)


def test_the_suggestion_keeps_what_the_chooser_does_not_decide() -> None:
    mine = with_changes(RECIPE, {"sft.evaluations": 3, "dpo.max_length": 8192, "name": "mine"})
    plan = planned(mine)
    assert plan.suggested
    assert (plan.suggested.sft.evaluations, plan.suggested.name, plan.suggested.model) == (3, "mine", MODEL)
    assert plan.suggested.dpo.max_length == 448
    assert not [one for one in planned(plan.suggested).values if one.chosen]


@settings(max_examples=60, deadline=None)
@given(
    gib=st.sampled_from([6, 8, 12, 16, 24, 48, 80]),
    model=st.sampled_from([name for known in CATALOGUE.models for name in (known.whole, known.packed) if name]),
    method=st.sampled_from(METHOD_CHAINS),
    precision=st.sampled_from(["auto", "nf4", "bf16"]),
    lora=st.sampled_from([Lora(), Lora(dora=True), Lora(rank=256, alpha=256, targets="attention")]),
    packing=st.booleans(),
)
def test_what_is_suggested_fits_and_has_nothing_left_to_suggest(
    gib: int, model: str, method: MethodChain, precision: Precision, lora: Lora, packing: bool
) -> None:
    asked = Recipe(model=model, method=method, precision=precision, lora=lora, sft=Sft(packing=packing))
    suggested = planned(asked, gib).suggested
    if suggested:
        again = planned(suggested, gib)
        assert again.verdict.level == "fits", again.verdict.sentence
        assert again.suggested == suggested


def test_a_16_bit_base_that_is_chosen_is_suggested() -> None:
    mine = Recipe(model="unsloth/Meta-Llama-3.1-8B-Instruct")
    precision = next(one for one in planned(mine, 80).values if one.key == "precision")
    assert (precision.value, precision.chosen) == ("auto", "bf16")
    assert (
        precision.sentence.startswith("auto instead of bf16: ")
        and " GB less. 16-bit base: it fits" in precision.sentence
    )
    small = planned(mine, 12)
    assert small.suggested and small.suggested.precision == "auto"
    assert next(one for one in small.values if one.key == "precision").why.startswith("4-bit base: ")


def test_a_format_that_does_not_fit_the_processor_is_not_suggested() -> None:
    shape = CATALOGUE.find_architecture("unsloth/Qwen3-1.7B")
    assert shape
    place = TargetMachine(MemoryBudget("cpu", round(6.5 * GIB)), "a processor", host_free=60 * GIB, disk_free=60 * GIB)
    told = make_forecast(Recipe(model="unsloth/Qwen3-1.7B"), shape, place, FOUND)
    assert told.verdict.level == "too big" and told.suggested
    assert told.suggested.precision in ("bf16", "nf4")
    assert make_forecast(told.suggested, shape, place, FOUND).verdict.level == "fits"


def test_what_was_measured_here_is_in_the_plan_and_in_what_is_suggested() -> None:
    """Also with the token table in main memory: its bytes are not among those that were measured."""
    shape = CATALOGUE.find_architecture(MODEL)
    assert shape
    place = TargetMachine(MemoryBudget("cuda", 11 * GIB), "a card", host_free=60 * GIB, disk_free=60 * GIB, id="GPU-1")
    setups = {stage: build_setup(RECIPE, stage, shape, "nf4", "cuda") for stage in RECIPE.method.stages}
    known = {
        measurements.measurement_key("GPU-1", one): Measurement(per_token=900_000, rest=0.5 * GIB)
        for one in setups.values()
    }
    told = make_forecast(RECIPE, shape, place, FOUND, known)
    assert all(any("measured" in part.name for part in one.parts) for one in told.stages.values())
    assert any(note.startswith("SFT and DPO: memory was measured") for note in told.notes)
    assert told.suggested
    again = make_forecast(told.suggested, shape, place, FOUND, known)
    assert again.verdict.level == "fits" and again.suggested == told.suggested


def test_what_cannot_fit_says_so_and_still_shows_its_parts() -> None:
    plan = planned(RECIPE, 24, free=0.3)
    assert plan.verdict.level == "too big" and plan.suggested is None
    assert plan.too_big.startswith("This model needs up to") and plan.peak.parts
    assert plan.holders == "0.3 of 24.0 GB free. 0.7 GB stay in reserve."


def test_too_little_disk_or_main_memory_is_said() -> None:
    shape = CATALOGUE.find_architecture(MODEL)
    assert shape
    enough = TargetMachine(MemoryBudget("cuda", 22 * GIB), "a card", host_free=60 * GIB, disk_free=8 * GIB)
    short = replace(enough, host_free=2 * GIB, disk_free=GIB // 4)
    told = [make_forecast(RECIPE, shape, place, FOUND) for place in (enough, short)]
    assert not [note for note in told[0].notes if note.startswith("Too little")]
    assert [note.partition(":")[0] for note in told[1].notes] == ["Too little main memory", "Too little disk"]
    assert told[0].disk[-1] == MemoryPart("Merged model, if exported", 0, 2 * shape.parameter_count)


def test_kept_layers_never_make_a_plan_too_big() -> None:
    plan = planned(RECIPE, 24)
    assert any(part.name == "Kept layers" for part in plan.peak.parts)
    assert plan.verdict.level == "fits" and plan.peak.upper <= plan.free
    off = planned(with_changes(RECIPE, {"memory.skip_layers": "off"}), 24)
    assert not any(part.name == "Kept layers" for part in off.peak.parts) and off.verdict == plan.verdict


def test_embedding_in_main_memory_moves_its_bytes() -> None:
    plain = with_changes(RECIPE, {"memory.skip_layers": "off"})
    there, here = (planned(with_changes(plain, {"memory.offload_embedding": one})) for one in ("on", "off"))
    assert here.peak.middle > there.peak.middle
    assert any(part.name == "Offloaded embedding" for part in there.peak.host)


def test_the_command_line_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.toml"
    file.write_text(f'model = "{MODEL}"\n[lora]\nrank = 64\n')
    command = ["--workspace", str(tmp_path / "w"), "plan", str(file), "--vram", "24"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["plan"]
    assert told["level"] == "fits" and told["verdict"] in text
    shape = CATALOGUE.find_architecture(MODEL)
    assert shape
    place = TargetMachine.empty_card(24, detect_machine(replay("none"), environ={}))
    recipe = Recipe(model=MODEL).model_copy(update={"lora": Recipe().lora.model_copy(update={"rank": 64})})
    again = forecast_as_json(make_forecast(recipe, shape, place, data.count_rows(recipe.data, recipe.method)))
    assert told["memory"] == again["memory"] and told["values"] == again["values"]
    for part in told["memory"]["dpo"]:
        assert f"{part['name']:<28}{part['lower'] / GIB:>9.2f}{part['upper'] / GIB:>9.2f}" in text
    assert "lora.rank = 64: 64 instead of 16:" in text
    needs = [[part for part in parts if part["name"] != "Kept layers"] for parts in told["memory"].values()]
    sums = [[sum(part[end] for part in parts) for end in ("lower", "upper")] for parts in needs]
    for lower, upper in sums:
        assert f"{'Sum':<28}{lower / GIB:>9.2f}{upper / GIB:>9.2f}" in text
    assert f"about {sum(max(sums, key=lambda one: one[1])) / 2 / GIB:.1f} GB of" in told["verdict"]
    assert "Kept layers save time where memory is left" in text


@pytest.mark.parametrize("size", ["nan", "inf", "-inf", "0", "-5", "1e9"])
def test_a_card_of_no_size_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str) -> None:
    file = tmp_path / "r.toml"
    file.write_text(f'model = "{MODEL}"\n')
    assert main(["--workspace", str(tmp_path / "w"), "plan", str(file), f"--vram={size}"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(
        "--vram is the card's memory in GB, 1 to 1,024, such as 24; you gave "
    )


def test_a_model_of_unknown_size_is_said_to_be_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.toml"
    file.write_text('model = "nobody/knows-this"\n')
    assert main(["--workspace", str(tmp_path / "w"), "plan", str(file)]) == 0
    assert "the memory it needs is unknown" in capsys.readouterr().out


def test_a_folder_is_known_by_its_config(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4, "vocab_size": 320}))
    workspace = Workspace(tmp_path / "w")
    shape = architecture_for_model(str(tmp_path), workspace, CATALOGUE)
    assert shape and shape.layers == 3
    assert find_tokenizer(str(tmp_path), workspace) is None
    assert architecture_for_model("nobody/knows-this", workspace, CATALOGUE) is None


@pytest.mark.real
def test_a_tokenizer_measures_rows_and_letters_guess_more(tmp_path: Path) -> None:
    from tests.support import tiny

    tiny.tokenizer().save_pretrained(tmp_path)
    recipe = presets.starter_recipe()
    guessed = data.count_rows(recipe.data, recipe.method)
    exact = data.count_rows(recipe.data, recipe.method, tmp_path / "tokenizer.json")
    assert (guessed.measured, exact.measured) == (False, True)
    assert guessed.lengths.keys() == exact.lengths.keys() == {"sft", "dpo"}
    assert exact.lengths["sft"] != guessed.lengths["sft"]
    assert LengthQuantiles(exact.lengths["dpo"]).longest > LengthQuantiles(exact.lengths["sft"]).length_covering(0.5)


def test_lines_name_the_holders() -> None:
    text = "\n".join(forecast_lines(planned(RECIPE, 24, free=22)))
    assert text.startswith("On RTX 4090: 21.2 GB to plan with. 22.0 of 24.0 GB free.")
