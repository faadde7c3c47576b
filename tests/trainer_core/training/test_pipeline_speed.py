"""Faster, and the same: losses with sorted rows and with the reference's numbers kept equal those without; to 1e-6 in 32 bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.training_runs import recipe, start, view_of
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.runs import run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState

pytestmark = pytest.mark.real
OFF = {"sort_rows": "off", "keep_reference": "off"}
STEPS = {"batch_size": 2, "accumulation": 4, "max_length": 128}
TWICE = {**STEPS, "learning_rate": 1e-3, "epochs": 2}


def write_mixed(folder: Path) -> Path:
    """27 pairs from a few words to a hundred, so that the last batch is not full."""
    rows = [
        {
            "prompt": f"Question {n}?",
            "chosen": f"It is {n}. " * (1 + n * 7 % 11),
            "rejected": "Many. " * (1 + n * 5 % 13),
        }
        for n in range(27)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@dataclass(frozen=True)
class Case:
    """A recipe, what happens to it, and the workspace it runs in."""

    workspace: str
    recipe: Recipe
    faults: tuple[str, ...] = ("",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speed")
    tiny.model(folder / "model")
    write_mixed(folder)
    return folder


@pytest.fixture(scope="module")
def views(folder: Path) -> dict[str, RunState]:
    def made(**changes) -> Recipe:
        return recipe(folder, **{"sft": {**TWICE, "learning_rate": 1e-2}, "dpo": TWICE, "sample_tokens": 0} | changes)

    cases = {
        "off": Case("off", made(memory=OFF)),
        "sorted": Case("sorted", made(memory={**OFF, "sort_rows": "auto"})),
        "kept": Case("kept", made(memory={**OFF, "keep_reference": "auto"})),
        "both": Case("both", made()),
        "both again": Case("both", made()),
        "another beta": Case("both", made(dpo={**TWICE, "beta": 0.3})),
        "killed": Case("killed", made(), ("kill@dpo.2", "kill@dpo.6", "")),
        "means": Case("means", made(method="dpo", dpo={**TWICE, "losses": ["sigmoid", "sft"]}, memory={"keep_reference": "off"})),
        "means off": Case("means", made(method="dpo", dpo={**TWICE, "losses": ["sigmoid", "sft"]}, memory=OFF)),
    }  # fmt: skip
    made_runs = {name: run_folder.create_run(folder / case.workspace / "runs", TrainJob(recipe=case.recipe), "t")
                 for name, case in cases.items()}  # fmt: skip
    start(folder, *[f"{fault}:{made_runs[name]}" for name, case in cases.items() for fault in case.faults])
    return {name: view_of(run_dir) for name, run_dir in made_runs.items()}


def losses(view: RunState) -> list[float]:
    assert view.phase is Phase.DONE, view.error
    return [point.loss for point in view.points]


@pytest.mark.parametrize("name", ["sorted", "kept", "both", "both again"])
def test_losses_with_it_on_equal_those_with_it_off(views: dict[str, RunState], name: str) -> None:
    assert losses(views[name]) == pytest.approx(losses(views["off"]), abs=1e-6)
    assert views[name].proof and views[name].proof.holds
    margins = [
        [point.metrics["margin"] for point in views[one].points if point.stage == "dpo"] for one in (name, "off")
    ]
    assert margins[0] == pytest.approx(
        margins[1], rel=0, abs=3e-6
    )  # 0.1 × sums of hundreds of nats, whose last bit is 3e-5


def test_a_second_run_is_the_same_to_the_last_bit(views: dict[str, RunState]) -> None:
    assert losses(views["both again"]) == losses(views["both"])


def test_rows_are_made_tokens_of_once(folder: Path, views: dict[str, RunState]) -> None:
    """Three whole runs of the workspace, one of them with another beta, share a file for each stage."""
    assert views["both again"].phase is views["another beta"].phase is Phase.DONE
    assert len(list((folder / "both" / "tokens").iterdir())) == 2


def test_a_killed_run_goes_on_to_the_same_bits(views: dict[str, RunState]) -> None:
    assert losses(views["killed"]) == losses(views["both"])


def test_a_loss_that_averages_over_a_batch_keeps_its_batches(views: dict[str, RunState]) -> None:
    assert losses(views["means"]) == losses(views["means off"])


def test_the_same_start_is_one_file_whatever_beta(folder: Path, views: dict[str, RunState]) -> None:
    (file,) = (folder / "both" / "reference").glob("*.json")
    assert len(json.loads(file.read_text())) == views["both"].prepared.pairs
    assert losses(views["another beta"])[-1] != losses(views["both"])[-1]
    assert not (folder / "off" / "reference").exists()


def test_sorting_really_happens(views: dict[str, RunState]) -> None:
    """Other batches add up in another order, which the last bits show."""
    assert losses(views["sorted"]) != losses(views["off"])
