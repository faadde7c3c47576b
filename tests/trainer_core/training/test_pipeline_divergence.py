"""A stage whose numbers are none any more: no checkpoint and no adapter holds them, and what is said about it is true."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.training_runs import STEPS, recipe, start, view_of, write_inputs
from trainer_core.config.jobs import TrainJob
from trainer_core.runs import checkpoints, run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Case:
    """DPO makes ten steps and is saved at 2, 4, 6, 8 and 10. What goes wrong, and what is left."""

    fault: str
    phase: Phase
    newest: int
    words: str


CASES = {
    "at a save point": Case("nan8", Phase.FAILED, 6, "at step 10, for the third step in a row, the loss is nan"),
    "the last two steps": Case("nan9", Phase.FAILED, 8, "at step 10, the last one, the loss is nan"),
    "the last step": Case("nan10", Phase.FAILED, 8, "at step 10, the last one, the loss is nan"),
    "from step 2": Case("nan2", Phase.FAILED, 0, "there is no checkpoint from before that"),
    "stopped": Case("nan5,stop@dpo.5", Phase.STOPPED, 4, "the adapter is from step 4"),
    "stopped before a checkpoint": Case("nan2,stop@dpo.2", Phase.FAILED, 0, "there is no checkpoint from before that"),
    "sound": Case("weighed", Phase.DONE, 10, ""),
    "paused": Case("nan5,pause@dpo.5", Phase.PAUSED, 4, ""),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wrong")
    write_inputs(folder)
    unchecked = {**STEPS, "learning_rate": 1e-3, "epochs": 2, "evaluations": 0}  # a new best would be saved at any step
    asked = recipe(folder, method="dpo", dpo=unchecked)
    made = {name: run_folder.create_run(folder / "runs", TrainJob(recipe=asked), "t") for name in CASES}
    start(folder, *(f"{case.fault}:{made[name]}" for name, case in CASES.items()))
    return made


@pytest.mark.parametrize("name", CASES)
def test_no_checkpoint_and_no_adapter_holds_numbers_that_are_none(folders: dict[str, Path], name: str) -> None:
    case, folder = CASES[name], folders[name]
    view = view_of(folder)
    assert view.phase is case.phase, view.error
    assert case.words in " ".join(map(str, (view.error, *view.notes)))
    assert [checkpoints.verify(one).step for one in checkpoints.list_checkpoints(folder, "dpo")][:1] == [
        case.newest
    ] * (case.newest > 0)
    for file in folder.rglob("adapter_model.safetensors"):
        assert all(torch.isfinite(weight).all() for weight in load_file(file).values()), file
    assert ("dpo" in view.adapters) == (case.phase in (Phase.DONE, Phase.STOPPED)) == (folder / "adapter-dpo").exists()


def test_the_room_asked_for_is_what_the_checkpoint_takes(folders: dict[str, Path]) -> None:
    asked, took = json.loads((folders["sound"] / "weighed").read_text())
    assert all(0.7 * size < need <= size for need, size in zip(asked, took, strict=True)), (asked, took)


def test_what_is_kept_from_run_to_run_is_the_owners_alone(folders: dict[str, Path]) -> None:
    workspace = Workspace.for_run(folders["paused"]).root
    assert {(workspace / name).stat().st_mode & 0o777 for name in ("tokens", "reference")} == {0o700}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.phase is Phase.FAILED])
def test_the_checkpoint_that_is_named_is_there_and_a_slower_rate_is_offered(
    folders: dict[str, Path], name: str
) -> None:
    case, view = CASES[name], view_of(folders[name])
    named = Text("diverged.checkpoint", step=case.newest) if case.newest else Text("diverged.no_checkpoint")
    assert view.error.params["kept"] == named and not view.traceback
    assert view.offers and view.offers[0].changes == {"dpo.learning_rate": 5e-5}
