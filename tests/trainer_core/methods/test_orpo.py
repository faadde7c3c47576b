"""ORPO for real: alone and after SFT, its predicted first loss, killed and resumed, planned, diagnosed and compared."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.training_runs import STEPS, recipe, run, start, view_of, write_inputs
from trainer_core.config.jobs import TrainJob
from trainer_core.diagnosis.doctor import diagnose
from trainer_core.diagnosis.html_report import render_charts
from trainer_core.jobs.lane_choices import lanes_by_name
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.base import PairLogprobs
from trainer_core.methods.orpo import Orpo, first_loss
from trainer_core.planning.memory_model import build_setup, estimate_memory
from trainer_core.planning.presets import load_catalogue
from trainer_core.runs import run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace

pytestmark = pytest.mark.real
ORPO = {**STEPS, "learning_rate": 1e-3, "epochs": 2}


def test_the_first_loss_is_the_papers() -> None:
    """Against torch, from the paper's own words: odds = p / (1 - p) of the mean token, and the loss of all of the tokens."""
    pairs = [PairLogprobs(-6.0, 4, -9.0, 3, -30.0, 12), PairLogprobs(-1.0, 2, -0.5, 5, -20.0, 8)]
    chosen, rejected = torch.tensor([-6 / 4, -1 / 2]).exp(), torch.tensor([-9 / 3, -0.5 / 5]).exp()
    odds = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    expected = 50 / 20 - 0.25 * torch.nn.functional.logsigmoid(odds.log()).mean()
    assert first_loss(Orpo(beta=0.25), pairs) == pytest.approx(float(expected), rel=1e-6)


def test_a_certain_answer_has_a_loss() -> None:
    assert math.isfinite(first_loss(Orpo(), [PairLogprobs(0.0, 1, -0.5, 2, -20.0, 8)]))


def test_rows_keep_their_order() -> None:
    """Its loss is a mean over the tokens of a micro-batch, so it matters who shares one."""
    assert not Orpo.method.sorts_rows(Orpo())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("orpo")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def views(folder: Path) -> dict[str, RunState]:
    short = {**ORPO, "max_steps": 2}
    cases = {
        "alone": ("", recipe(folder, method="orpo", orpo=ORPO)),
        "after SFT": ("", recipe(folder, method="sft+orpo", orpo=ORPO)),
        "other weights": ("weights", recipe(folder, method="orpo", orpo=short)),
    }
    made = dict(zip(cases, run(folder, *cases.values()), strict=True))
    killed = run_folder.create_run(folder / "runs", TrainJob(recipe=cases["after SFT"][1]), "killed")
    start(folder, f"kill@orpo.5:{killed}")
    start(folder, f"kill@orpo.5:{killed}")
    return made | {"killed": view_of(killed)}


@pytest.mark.parametrize("name", ["alone", "after SFT"])
def test_it_trains_from_the_loss_that_was_predicted(views: dict[str, RunState], name: str) -> None:
    view = views[name]
    assert view.phase is Phase.DONE, view.error
    assert view.proof and view.proof.stage == "orpo" and view.proof.holds and view.proof.margin is None
    assert view.proof.expected_loss is not None and abs(view.proof.loss - view.proof.expected_loss) < 1e-3
    points = [point for point in view.points if point.stage == "orpo"]
    assert points[-1].loss < points[0].loss and len(points) == points[0].total
    assert set(points[-1].metrics) == {"margin", "accuracy", "chosen", "rejected", "odds"}
    assert all(-20 < point.metrics["chosen"] < 0 for point in points), "nats per token"
    assert any(weight.any() for key, weight in adapter(view).items() if "lora_B" in key)
    assert {"margin", "accuracy"} <= set(view.evaluated[-1].metrics)


def test_it_does_not_start_with_another_loss(views: dict[str, RunState]) -> None:
    view = views["other weights"]
    assert view.phase is Phase.FAILED and view.proof and not view.proof.holds and not view.points


def test_killed_it_ends_on_the_same_bits(views: dict[str, RunState]) -> None:
    assert views["killed"].phase is Phase.DONE, views["killed"].error
    assert [point.loss for point in views["killed"].points] == [point.loss for point in views["after SFT"].points]
    one, other = adapter(views["killed"]), adapter(views["after SFT"])
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_it_is_drawn_diagnosed_and_a_lane(views: dict[str, RunState], folder: Path) -> None:
    view = views["after SFT"]
    drawn = render_charts(view)
    assert all(f"{title}: " in drawn for title in ("SFT loss", "ORPO loss", "Log odds", "ORPO accuracy"))
    assert [one.key for one in diagnose(view, recipe(folder, method="sft+orpo", orpo=ORPO))] == []
    boss = Supervisor(Workspace(folder), ())
    assert {"Base", "SFT", "ORPO"} <= set(lanes_by_name(boss.registry, Path(view.id).name))
    boss.close()


def test_the_logits_it_keeps_are_planned() -> None:
    shape = next(known.architecture for known in load_catalogue().models if known.title == "SmolLM2 135M")
    settings = {"batch_size": 4, "max_length": 1024}
    one = recipe(Path(), method="sft+orpo", orpo=settings, dpo=settings)
    orpo, dpo = (
        estimate_memory(build_setup(one.model_copy(update={"method": chain}), chain[4:], shape, "fp32", "cpu"))
        for chain in (one.method, type(one.method)("sft+dpo"))
    )
    assert orpo.upper - dpo.upper > 4 * 4 * 1024 * shape.vocabulary, "more than 4 bytes for each of them"


def adapter(view: RunState) -> dict[str, torch.Tensor]:
    found = load_file(Path(view.id) / view.adapters["orpo"] / "adapter_model.safetensors")
    assert all(math.isfinite(float(weight.sum())) for weight in found.values())
    return found
