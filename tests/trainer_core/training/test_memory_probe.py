"""Memory measured before the first step: it leaves no trace, it is remembered, it steps down in time, and it costs little."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support import tiny
from tests.support.training_runs import recipe, start, write_data
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Lora, MemoryOptions, Recipe
from trainer_core.methods.dpo import Dpo
from trainer_core.methods.sft import Sft
from trainer_core.models.architecture import parse_architecture
from trainer_core.planning import measurements
from trainer_core.planning.memory_model import Measurement, StageSetup, build_setup, estimate_memory, static_parts
from trainer_core.planning.presets import load_catalogue
from trainer_core.runs import run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system.format import GIB
from trainer_core.system.hardware import cpu_name

pytestmark = pytest.mark.real

CAP = 260


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run without and with a probe, one by the rule, and one under a limit that its first batch does not keep."""
    folder = tmp_path_factory.mktemp("probe")
    tiny.model(folder / "model")
    tiny.model(folder / "wide", hidden_size=256, intermediate_size=2048)
    write_data(folder)
    row = {"prompt": "Say it.", "chosen": "a long answer " * 60, "rejected": "no"}
    (folder / "long.jsonl").write_text("\n".join(json.dumps(row | {"prompt": f"Say it {n} times."}) for n in range(40)))
    few = {"batch_size": 2, "accumulation": 2, "max_length": 128, "max_steps": 3}
    usual = {"sft": few | {"learning_rate": 1e-2}, "dpo": few | {"learning_rate": 1e-3}, "sample_tokens": 0}
    large = {"batch_size": 8, "accumulation": 1, "max_length": 500, "max_steps": 2}
    recipes = {
        probe: recipe(folder, **usual, lora={"rank": 4, "alpha": 4, "dropout": 0.1}, memory={"probe": probe})
        for probe in ("off", "on", "auto")
    }
    data = {"pairs": str(folder / "long.jsonl")}
    recipes["capped"] = recipe(
        folder, method="sft", sft=large, model=str(folder / "wide"), data=data, sample_tokens=0, memory={"probe": "on"}
    )
    made = {name: run_folder.create_run(folder / "runs", TrainJob(recipe=one), "t") for name, one in recipes.items()}
    start(folder, *(f"cap{CAP}@sft.start:{place}" if name == "capped" else str(place) for name, place in made.items()))
    return made


@pytest.fixture(scope="module")
def views(folders: dict[str, Path]) -> dict[str, RunState]:
    return {name: read_run_state(folder) for name, folder in folders.items()}


def test_a_probe_leaves_no_trace(folders: dict[str, Path], views: dict[str, RunState]) -> None:
    """With dropout, so that every random number counts."""
    assert views["on"].phase is Phase.DONE, views["on"].error
    numbers = [
        [(p.stage, p.step, p.loss, p.grad_norm, p.metrics) for p in views[name].points] for name in ("off", "on")
    ]
    assert numbers[0] == numbers[1] and len(numbers[0]) == 6
    for stage in ("sft", "dpo"):
        file = f"adapter-{stage}/adapter_model.safetensors"
        one, other = (load_file(folders[name] / file) for name in ("off", "on"))
        assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def test_what_was_measured_is_said(views: dict[str, RunState]) -> None:
    assert not views["off"].probed and set(views["on"].probed) == {"sft", "dpo"}
    for stage, found in views["on"].probed.items():
        longest = views["on"].row_lengths[stage].longest
        assert found.tokens == longest * 2 * (2 if stage == "dpo" else 1)
        assert 0 < found.half <= found.peak < found.most and not found.cut and found.seconds < 20


def test_a_short_run_on_the_processor_is_not_measured_and_says_so(views: dict[str, RunState]) -> None:
    assert not views["auto"].probed
    assert any("the limit on the processor is 2%" in str(note) for note in views["auto"].notes)


def test_what_was_measured_makes_the_next_plan_narrow(folders: dict[str, Path]) -> None:
    known = measurements.load_measurements(Workspace.for_run(folders["on"]))
    folder = folders["on"].parent.parent / "model"
    setup = StageSetup(
        parse_architecture(json.loads((folder / "config.json").read_text())),
        Lora(rank=4, alpha=4, dropout=0.1),
        Sft(max_length=128),
        "fp32",
        "cpu",
    )
    found = known[measurements.measurement_key(cpu_name(), setup)]
    assert found.per_token >= 0 and found.rest > 0
    planned, guessed = estimate_memory(setup, measurement=found), estimate_memory(setup)
    assert planned.upper - planned.lower < guessed.upper - guessed.lower


def test_too_little_memory_is_met_before_the_first_step(views: dict[str, RunState]) -> None:
    view = views["capped"]
    assert view.phase is Phase.DONE, view.error
    assert 1 <= len(view.out_of_memory) <= 3
    assert [point.step for point in view.points] == [1, 2]
    assert view.probed["sft"].peak <= view.probed["sft"].most


def test_a_measurement_takes_the_place_of_the_guess_and_follows_rank_and_tokens() -> None:
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3}
    shape = parse_architecture(config | {"num_attention_heads": 4, "vocab_size": 320})
    found = Measurement(per_token=1000.0, rest=5e8)
    small = StageSetup(shape, Lora(rank=4), Sft(batch_size=1, max_length=1000), "fp32", "cpu")
    planned = estimate_memory(small, measurement=found)
    exact = sum(static_parts(small).values())
    assert planned.upper == pytest.approx(exact + 1.05 * (1e6 + 5e8), rel=1e-6)
    assert planned.lower == pytest.approx(exact + 0.97 * (1e6 + 5e8), rel=1e-6)


def test_a_token_table_in_main_memory_is_not_taken_from_what_was_measured() -> None:
    shape = load_catalogue().find_architecture("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit")
    assert shape
    away, here = (
        build_setup(Recipe(memory=MemoryOptions(offload_embedding=one)), "sft", shape, "nf4", "cuda")
        for one in ("on", "auto")
    )
    points = [measurements.ProbePoint(tokens, (5 + tokens // 2048) * GIB) for tokens in (0, 2048, 4096)]
    found = measurements.fit_measurement(points, 0, away)
    context = sum(part.upper for part in estimate_memory(away, measurement=found).parts if part.name == "CUDA context")
    assert estimate_memory(away, measurement=found).upper - context >= 7 * GIB
    table = shape.vocabulary * shape.hidden * 2
    assert estimate_memory(here, measurement=found).upper - estimate_memory(away, measurement=found).upper == table


def test_a_measurement_holds_for_its_kernels_and_where_its_checkpoints_lay() -> None:
    shape = load_catalogue().find_architecture("unsloth/Qwen3-4B-bnb-4bit")
    assert shape
    asked = [Recipe(), Recipe(lora=Lora(dora=True)), Recipe(lora=Lora(dropout=0.1))]
    asked.append(Recipe(sft=Sft(max_length=256), dpo=Dpo(max_length=256)))
    keys = [measurements.measurement_key("GPU-1", build_setup(one, "sft", shape, "nf4", "cuda")) for one in asked]
    assert len(set(keys)) == 3 and keys[1] == keys[2]
    other = Recipe(sft=Sft(max_length=256))  # loaded for the pairs' 1,024 tokens
    assert measurements.measurement_key("GPU-1", build_setup(other, "sft", shape, "nf4", "cuda")) == keys[0]


def test_measurements_are_kept_by_key(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert measurements.load_measurements(workspace) == {}
    for name, slope in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        measurements.save_measurement(workspace, name, Measurement(per_token=slope, rest=0))
    assert {name: one.per_token for name, one in measurements.load_measurements(workspace).items()} == {
        "a": 3.0,
        "b": 2.0,
    }
    (tmp_path / "measured.json").write_text("{damaged")
    assert measurements.load_measurements(workspace) == {}
