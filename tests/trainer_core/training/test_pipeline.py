"""Real training of a tiny random model: SFT, DPO on top of it, the proof at step 0, and what must stop a run."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from safetensors import safe_open

from tests.support.training_runs import CANARY, STEPS, recipe, run, view_of, write_inputs
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.diagnosis import html_report
from trainer_core.methods.dpo import LossType
from trainer_core.methods.steps import count_steps
from trainer_core.runs import run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState
from trainer_core.system import project
from trainer_core.texts import Text, parse_text

pytestmark = pytest.mark.real
LOSSES = [loss for loss in get_args(LossType)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    write_inputs(folder)
    return folder


def strict_inputs(folder: Path) -> dict[str, Any]:
    """A model whose template takes no system prompt, as Gemma's, and pairs that have one."""
    shutil.copytree(folder / "model", folder / "strict")
    template = folder / "strict/chat_template.jinja"
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    template.write_text(refuse + template.read_text(encoding="utf-8"), encoding="utf-8")
    pairs = folder / "pairs-with-system.jsonl"
    rows = [json.loads(line) | {"system": "Be brief."} for line in (folder / "pairs.jsonl").read_text().splitlines()]
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {"model": str(folder / "strict"), "data": {"pairs": str(pairs)}}


@pytest.fixture(scope="module")
def views(folder: Path) -> dict[str, RunState]:
    one_step = {**STEPS, "max_steps": 1}
    dpo_only = {"method": "dpo", "dpo": one_step}
    cases: dict[str, tuple[str, Recipe]] = {
        "plain": ("", recipe(folder)),
        "again": ("", recipe(folder)),
        "nf4": ("", recipe(folder, precision="nf4")),
        "dpo only": ("", recipe(folder, method="dpo")),
        "sft only": ("", recipe(folder, method="sft")),
        "corrupt": ("corrupt", recipe(folder)),
        "unfrozen": ("unfrozen", recipe(folder)),
        "drift": ("drift", recipe(folder)),
        "refused roles": ("", recipe(folder, **strict_inputs(folder))),
        "missing data": ("", recipe(folder, data={"pairs": str(folder / "nowhere.jsonl")})),
    }
    for loss in LOSSES:
        smoothing = 0.1 if loss == "exo_pair" else 0.0
        dpo = {**one_step, "losses": [loss], "beta": 0.25, "label_smoothing": smoothing}
        cases[loss] = ("", recipe(folder, **{**dpo_only, "dpo": dpo}))
    return dict(zip(cases, run(folder, *cases.values()), strict=True))


@pytest.mark.parametrize("name", ["plain", "nf4"])
def test_sft_then_dpo_ends_in_two_adapters(views: dict[str, RunState], name: str) -> None:
    view = views[name]
    assert view.phase is Phase.DONE, view.error
    assert set(view.adapters) == {"sft", "dpo"}
    for adapter in view.adapters.values():
        with safe_open(Path(view.id) / adapter / "adapter_model.safetensors", "pt") as weights:
            names = list(weights.keys())
            assert len(names) == 2 * 7 * 2 and not [n for n in names if "ref" in n.split(".")]
            assert any(weights.get_tensor(n).any() for n in names if "lora_B" in n)
        assert not (Path(view.id) / adapter / "ref").exists()


def test_sft_learns_and_dpo_widens_the_margin(views: dict[str, RunState]) -> None:
    sft = [point for point in views["plain"].points if point.stage == "sft"]
    dpo = [point for point in views["plain"].points if point.stage == "dpo"]
    assert sft[-1].loss < sft[0].loss - 0.1
    assert dpo[-1].metrics["margin"] > 0.001 and dpo[-1].loss < math.log(2)
    assert all(math.isfinite(point.grad_norm) and point.tokens_per_second > 0 for point in sft + dpo)


def test_the_planned_steps_are_the_real_ones(views: dict[str, RunState]) -> None:
    view = views["plain"]
    for stage, rows in (("sft", view.prepared.chats), ("dpo", view.prepared.pairs)):
        real = [point for point in view.points if point.stage == stage]
        assert (
            len(real) == real[0].total == view.planned[stage] == count_steps(rows, recipe(Path()).stage_settings(stage))
        )


def test_the_first_dpo_event_is_the_proof(views: dict[str, RunState]) -> None:
    lines = [json.loads(line) for line in (Path(views["plain"].id) / "events.jsonl").read_text().splitlines()]
    about = ("PhaseChanged", "RowLengths", "MemoryProbed")  # loading, and what was measured of rows and memory
    first = next(line for line in lines if line.get("stage") == "dpo" and line["kind"] not in about)
    assert first["kind"] == "ReferenceCheck" and first["holds"]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) and first["margin"] == pytest.approx(0, abs=1e-6)
    assert parse_text(first["reference"]) == Text("reference.copy", policy=Text("policy.adapter", stage="SFT"))


@pytest.mark.parametrize("name", ["plain", "nf4", "dpo only"])
def test_before_the_first_step_policy_and_reference_are_equal(views: dict[str, RunState], name: str) -> None:
    """In 32 bit and on a quantised base, whose adapter TRL would cast to 16 bit and the reference not."""
    proof = views[name].proof
    assert proof and proof.margin == 0.0 and proof.tolerance == 1e-5 and abs(proof.loss - math.log(2)) < 1e-6
    with safe_open(Path(views[name].id) / "adapter-dpo/adapter_model.safetensors", "pt") as weights:
        assert {str(weights.get_tensor(key).dtype) for key in list(weights.keys())} == {"torch.float32"}


def test_without_sft_the_reference_is_the_base(views: dict[str, RunState]) -> None:
    proof = views["dpo only"].proof
    assert proof and proof.holds and proof.reference.code == "reference.base"
    assert set(views["dpo only"].adapters) == {"dpo"}
    assert views["sft only"].proof is None and set(views["sft only"].adapters) == {"sft"}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("corrupt", "reference.differs"),
        ("unfrozen", "reference.not_frozen"),
        ("drift", "reference.first_step_differs"),
    ],
)
def test_a_wrong_reference_stops_the_run(views: dict[str, RunState], fault: str, code: str) -> None:
    view = views[fault]
    assert view.phase is Phase.FAILED and view.error.code == code and not view.traceback
    assert set(view.adapters) == {"sft"}, "what was learned before is kept"
    assert not [point for point in view.points if point.stage == "dpo" and point.step > 1]
    assert (view.proof is not None and not view.proof.holds) == (fault == "drift")


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_starts_at_its_own_value(views: dict[str, RunState], loss: str) -> None:
    proof = views[loss].proof
    assert proof and proof.holds, views[loss].error
    if loss == "sft":
        assert proof.expected_loss is None
    else:
        assert proof.loss == pytest.approx(proof.expected_loss, abs=1e-4)


def test_the_same_seed_gives_the_same_losses(views: dict[str, RunState]) -> None:
    one, other = views["plain"].points, views["again"].points
    assert one and [(point.loss, point.metrics) for point in one] == [(point.loss, point.metrics) for point in other]


def test_missing_data_is_the_runs_last_word(views: dict[str, RunState]) -> None:
    view = views["missing data"]
    assert view.phase is Phase.FAILED and "nowhere.jsonl" in str(view.error) and not view.traceback


def test_roles_that_the_template_refuses_end_a_run_before_its_model_is_loaded(views: dict[str, RunState]) -> None:
    view = views["refused roles"]
    assert view.phase is Phase.FAILED and view.error.code == "tokens.refused_but_for_step"
    assert view.error.params["step"] == "no_system" and "System role not supported" in view.error.params["refusal"]
    lines = (Path(view.id) / "events.jsonl").read_text(encoding="utf-8")
    assert "loading.data" in lines and "loading.base" not in lines


@pytest.mark.gpu
def test_sft_then_dpo_on_cuda(folder: Path) -> None:
    """The real Unsloth path: NF4, fused kernels, 8-bit optimiser. In a process that may see the card."""
    pytest.skip("no CUDA device") if not has_cuda() else None
    run_dir = run_folder.create_run(folder / "runs", TrainJob(recipe=recipe(folder, precision="nf4")), "cuda")
    subprocess.run([sys.executable, "-m", "tests.support.engine_case", str(run_dir)], cwd=project.PROJECT, timeout=900)
    view = view_of(run_dir)
    assert view.phase is Phase.DONE, view.error
    assert view.proof and view.proof.holds and set(view.adapters) == {"sft", "dpo"}


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def test_no_secret_is_in_what_real_runs_write(views: dict[str, RunState], folder: Path) -> None:
    """Run folders with their adapters, events and reports, and all that the libraries printed."""
    for run_dir in (folder / "runs").iterdir():
        html_report.save_report(run_dir)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {".html", ".jsonl", ".safetensors", ".txt"} <= {path.suffix for path in files}
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
