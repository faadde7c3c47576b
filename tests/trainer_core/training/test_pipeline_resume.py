"""Going on: after a kill, a pause and an out-of-memory real training ends with the same losses and weights as undisturbed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.support import tiny
from tests.support.engine_case import WORDINGS
from tests.support.training_runs import STEPS, recipe, start, write_inputs
from trainer_core.config.jobs import TrainJob
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.models.architecture import parse_architecture
from trainer_core.planning.memory_model import build_setup, checkpoint_counts, disk_parts
from trainer_core.runs import checkpoints, run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.runs.workspace import Workspace

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Case:
    """What happens to a run, how often its worker is started until it is at its end, and whether only `--long` tries it."""

    fault: str
    starts: int = 2
    long: bool = False


CASES = {
    "undisturbed": Case("", 1),
    "killed in SFT": Case("kill@sft.5"),
    "killed in DPO": Case("kill@dpo.7"),
    "killed between": Case("kill@sft.saved"),
    "paused in SFT": Case("pause@sft.3", long=True),
    "paused in DPO": Case("pause@dpo.3"),
    "stopped in DPO": Case("stop@dpo.3"),
    "damaged between": Case("damage@dpo.3"),
} | {f"out of memory: {name}": Case(f"{name}@{where}", 1, long=where.endswith(("1", "saved"))) for name, where in zip(
    WORDINGS, ("sft.1", "dpo.1", "dpo.6", "sft.7", "dpo.saved", "sft.saved"), strict=True
)}  # fmt: skip


def params(*beginnings: str) -> list[Any]:
    """The cases whose name begins so, for `parametrize`."""
    names = [name for name in CASES if name.startswith(beginnings)]
    return [pytest.param(name, marks=pytest.mark.long if CASES[name].long else ()) for name in names]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Path]:
    """Every case gone through, one worker after the other."""
    cases = {name: case for name, case in CASES.items() if request.config.getoption("--long") or not case.long}
    folder = tmp_path_factory.mktemp("resume")
    write_inputs(folder)
    asked = recipe(folder)
    made = {name: run_folder.create_run(folder / "runs", TrainJob(recipe=asked), "t") for name in cases}
    arguments = [f"{case.fault}:{made[name]}" for name, case in cases.items() for _ in range(case.starts)]
    start(folder, *arguments)
    return made


@pytest.fixture(scope="module")
def views(folders: dict[str, Path]) -> dict[str, RunState]:
    return {name: read_run_state(folder) for name, folder in folders.items()}


def losses(view: RunState) -> list[tuple[str, int, float]]:
    return [(point.stage, point.step, point.loss) for point in view.points]


@pytest.mark.parametrize("name", params("killed", "paused", "stopped", "damaged"))
def test_it_goes_on_to_the_same_end_to_the_last_bit(
    folders: dict[str, Path], views: dict[str, RunState], name: str
) -> None:
    assert views[name].phase is Phase.DONE, views[name].error
    assert losses(views[name]) == losses(views["undisturbed"])
    for stage in ("sft", "dpo"):
        file = f"adapter-{stage}/adapter_model.safetensors"
        one, other = load_file(folders[name] / file), load_file(folders["undisturbed"] / file)
        assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


ACCUMULATIONS = (4, 1)
"""Beside the 2 of all other cases; 1 with `--long`. Packing is not among them: Unsloth leaves it off on the processor."""


@pytest.fixture(scope="module")
def accumulated(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[tuple[int, str], Path]:
    """Runs of other accumulations: undisturbed, and killed in each stage."""
    folder = tmp_path_factory.mktemp("accumulated")
    write_inputs(folder)
    made, arguments = dict[tuple[int, str], Path](), list[str]()
    for accumulation in ACCUMULATIONS if request.config.getoption("--long") else ACCUMULATIONS[:1]:
        steps = {**STEPS, "accumulation": accumulation, "epochs": 2}
        rates = {"sft": {**steps, "learning_rate": 1e-2}, "dpo": {**steps, "learning_rate": 1e-3}}
        for fault, starts in (("", 1), ("kill@sft.3", 2), ("kill@dpo.3", 2)):
            run_dir = run_folder.create_run(folder / "runs", TrainJob(recipe=recipe(folder, **rates)), "t")
            made[accumulation, fault] = run_dir
            arguments += [f"{fault}:{run_dir}"] * starts
    start(folder, *arguments)
    return made


@pytest.mark.parametrize("accumulation", [ACCUMULATIONS[0], pytest.param(ACCUMULATIONS[1], marks=pytest.mark.long)])
@pytest.mark.parametrize("fault", ["kill@sft.3", "kill@dpo.3"])
def test_it_goes_on_to_the_last_bit_with_any_accumulation(
    accumulated: dict[tuple[int, str], Path], accumulation: int, fault: str
) -> None:
    folder, whole = accumulated[accumulation, fault], accumulated[accumulation, ""]
    text = (folder / "events.jsonl").read_text()
    assert text.count('"kind": "StageResumed"') + text.count('"kind":"StageResumed"') >= 1, "it was not killed at all"
    assert read_run_state(folder).phase is Phase.DONE and losses(read_run_state(folder)) == losses(
        read_run_state(whole)
    )
    for stage in ("sft", "dpo"):
        file = f"adapter-{stage}/adapter_model.safetensors"
        one, other = load_file(folder / file), load_file(whole / file)
        assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


@pytest.mark.parametrize("name", params("out"))
def test_out_of_memory_goes_on_by_itself_with_half_the_batch(views: dict[str, RunState], name: str) -> None:
    view = views[name]
    assert view.phase is Phase.DONE, view.error
    assert len(view.out_of_memory) == 1
    stage = view.out_of_memory[0].stage
    used = {change.what: (change.asked, change.used) for change in view.changes}
    assert used[f"{stage}.batch_size"] == ("2", "1") and used[f"{stage}.accumulation"] == ("2", "4")
    for one, other in zip(losses(view), losses(views["undisturbed"]), strict=True):
        assert one[:2] == other[:2] and one[2] == pytest.approx(other[2], abs=1e-6)


def test_an_adapter_that_is_made_again_is_said(views: dict[str, RunState]) -> None:
    said = [str(note) for view in views.values() for note in view.notes if "makes its adapter again" in str(note)]
    words = "SFT: adapter-sft/adapter_model.safetensors has changed since it was written. The stage makes its adapter again."
    assert said == [words] and words in map(str, views["damaged between"].notes)


def test_checkpoints_hold_the_policy_alone(folders: dict[str, Path]) -> None:
    shelf = checkpoints.list_checkpoints(folders["undisturbed"], "dpo")
    steps = [int(folder.name[-6:]) for folder in shelf]
    checks = read_run_state(folders["undisturbed"]).evaluated
    bests = accumulate(((one.loss, one.step) for one in checks if one.stage == "dpo"), min)
    before_last = [9] if (9 in {step for _, step in bests}) else []  # kept because it is among the two newest
    assert steps == [10, *before_last, 8, 6, 4, 2]
    for folder in shelf:
        assert checkpoints.verify(folder).step == int(folder.name[-6:])
        assert not (folder / "ref").exists()
        assert not [key for key in load_file(folder / "adapter_model.safetensors") if ".ref." in key]


def test_a_finished_stage_is_not_made_again(folders: dict[str, Path], views: dict[str, RunState]) -> None:
    text = (folders["killed in DPO"] / "events.jsonl").read_text()
    assert text.count('"AdapterSaved", "stage": "sft"') == 1


@pytest.fixture(scope="module")
def swapped_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunState]:
    """Short runs that are killed in DPO and resumed with other weights in one of its two adapters."""
    folder = tmp_path_factory.mktemp("exchanged")
    write_inputs(folder)
    few = {stage: {**STEPS, "learning_rate": 1e-3, "max_steps": steps} for stage, steps in (("sft", 2), ("dpo", 4))}
    made = {
        name: run_folder.create_run(folder / "runs", TrainJob(recipe=recipe(folder, **few)), "t")
        for name in ("default", "ref")
    }
    start(folder, *(f"other-{name},kill@dpo.3:{run_dir}" for name, run_dir in made.items() for _ in range(2)))
    return {name: read_run_state(run_dir) for name, run_dir in made.items()}


@pytest.mark.parametrize("adapter", ["default", "ref"])
def test_a_run_does_not_go_on_with_weights_that_were_not_saved(swapped_runs: dict[str, RunState], adapter: str) -> None:
    view, folder = swapped_runs[adapter], {"default": "dpo-000002", "ref": "adapter-sft"}[adapter]
    assert view.phase is Phase.FAILED and [point.step for point in view.points if point.stage == "dpo"] == [1, 2]
    assert view.error.code == "checkpoint.weights_differ" and "lora_B" in str(view.error.params["weight"])
    assert (view.error.params["adapter"], view.error.params["folder"]) == (adapter, folder)


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunState, Path, RunState]:
    """A run of one pass of DPO made longer by another, and a run of two passes from the start."""
    folder = tmp_path_factory.mktemp("longer")
    write_inputs(folder)

    def made(passes: int) -> Path:
        dpo = {**STEPS, "learning_rate": 1e-3, "epochs": passes, "scheduler": "constant", "warmup": 0}
        run_dir = run_folder.create_run(folder / "runs", TrainJob(recipe=recipe(folder, dpo=dpo)), "t")
        start(folder, str(run_dir))
        return run_dir

    one, whole = made(1), made(2)
    supervisor = Supervisor(Workspace(folder), command=("true",), device="cpu")  # `start` does what it would start
    supervisor.control.use_checkpoint(one.name, "sft", 4)
    supervisor.control.extend(one.name)
    assert wait_for(
        lambda: supervisor.registry.refresh() or not supervisor.registry.run_state(one.name).phase.is_active, 20
    )
    start(folder, str(one))
    supervisor.registry.refresh()
    supervisor.close()
    return one, supervisor.registry.run_state(one.name), whole, supervisor.registry.run_state(whole.name)


def test_a_finished_run_made_longer_is_the_longer_run(longer: tuple[Path, RunState, Path, RunState]) -> None:
    folder, view, other_folder, other = longer
    assert view.phase is Phase.DONE, view.error
    assert losses(view) == losses(other) and view.steps_done("dpo") == 10
    assert view.adapters == other.adapters and (folder / "adapter-dpo-000005").is_dir()
    one, two = (load_file(place / "adapter-dpo/adapter_model.safetensors") for place in (folder, other_folder))
    assert all(one[key].equal(two[key]) for key in one)
    before = load_file(folder / "adapter-dpo-000005/adapter_model.safetensors")
    assert not all(one[key].equal(before[key]) for key in one)
    assert ("dpo.max_steps", "5", "10") in [(change.what, change.asked, change.used) for change in view.changes]


def test_an_earlier_step_of_sft_gives_way_to_the_one_that_dpo_began_from_and_that_is_said(
    longer: tuple[Path, RunState, Path, RunState],
) -> None:
    folder, view, other_folder, _ = longer
    one, two = (load_file(place / "adapter-sft/adapter_model.safetensors") for place in (folder, other_folder))
    assert all(one[key].equal(two[key]) for key in one)
    said = "SFT: the adapter is from step 10, where the stage ended. It replaces the one from step 4, which you can keep again"
    assert [note for note in view.notes if str(note).startswith(said)]
    checkpoints.use_step(folder, "sft", 4)
    assert checkpoints.adapter_step(folder, "sft") == 4


@pytest.fixture(scope="module")
def capped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first batch is too large for the memory that the system gives it: 8 rows of 500 tokens, 2,048 wide."""
    folder = tmp_path_factory.mktemp("capped")
    tiny.model(folder / "model", hidden_size=256, intermediate_size=2048)
    row = {"prompt": "Say it.", "chosen": "a long answer " * 60, "rejected": "no"}
    rows = [row | {"prompt": f"Say it {n} times."} for n in range(40)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sft = {"batch_size": 8, "accumulation": 1, "max_length": 500, "max_steps": 2}
    run_dir = run_folder.create_run(folder / "runs", TrainJob(recipe=recipe(folder, method="sft", sft=sft)), "t")
    start(folder, f"cap{CAP}@sft.start:{run_dir}")
    return run_dir


CAP = 260


@pytest.mark.long
def test_a_real_shortage_of_memory_is_recovered_from(capped: Path) -> None:
    view = read_run_state(capped)
    assert view.phase is Phase.DONE, view.error
    assert 1 <= len(view.out_of_memory) <= 3
    used = {change.what: change.used for change in view.changes}
    assert int(used["sft.batch_size"]) * int(used["sft.accumulation"]) == 8
    assert [point.step for point in view.points] == [1, 2]


def test_the_plan_counts_every_checkpoint_that_a_run_keeps(longer: tuple[Path, RunState, Path, RunState]) -> None:
    _, _, run_dir, view = longer
    job = run_folder.train_job_of(run_folder.read_run(run_dir))
    assert job
    asked = job.recipe
    shape = parse_architecture(json.loads((Path(asked.model) / "config.json").read_text()))
    for stage, steps in view.planned.items():
        least, most = checkpoint_counts(steps)
        assert least <= len(checkpoints.list_checkpoints(run_dir, stage)) < most
    setups = {stage: build_setup(asked, stage, shape, "fp32", "cpu") for stage in asked.method.stages}
    part = next(one for one in disk_parts(setups, view.planned) if one.name == "Checkpoints")
    assert part.lower <= checkpoints.total_file_size(run_dir / checkpoints.CHECKPOINTS_FOLDER) <= part.upper
