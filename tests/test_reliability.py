"""The proofs of `reliability/` with few trials: the script works, its claims hold and its controls fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reliability.experiments import gpu_resume, power_cut
from reliability.experiments.divergence import recordings
from reliability.harness.claim import Figure, Proof, TrialCount, render_reliability_page
from reliability.harness.disk_record import Append, record_work
from trainer_core.system.project import PROJECT

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    "name",
    [
        "alarms",
        "disks",
        "power",
        "saves",
        "starts",
        "states",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("apps", "doors", "exports", "kills", "paths", "zoo")),
    ],
)
def test_a_proof_holds_with_few_trials(name: str) -> None:
    command = [sys.executable, "-m", "reliability", name, "--quick"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "UNSLOTH_FORCE_CPU": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_without_a_card_its_row_says_not_measured() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "reliability", "card", "--quick"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "card: not measured" in done.stdout, done.stderr[-2000:]
    told = render_reliability_page({"card": gpu_resume.QUESTION})
    assert "*not measured*" in told and "same, and the losses" in told


@pytest.mark.long
def test_what_is_measured_on_a_card_is_exact_on_the_processor(tmp_path: Path) -> None:
    found = gpu_resume.resume_figure(tmp_path, 1, "cpu")
    assert found.holds and found.ours.worst == "(at most 0.0e+00 nats)"


def test_what_a_proof_says() -> None:
    assert TrialCount(300, 0).upper_bound == pytest.approx(0.00994, abs=1e-4)  # about 3 / n
    assert TrialCount(10, 10).upper_bound == 1.0
    assert Proof("x", TrialCount(5, 0), "c", TrialCount(10, 2)).holds
    assert not Proof("x", TrialCount(5, 0), "c", TrialCount(10, 1)).holds, "a control that hardly fails proves nothing"
    assert not Proof("x", TrialCount(5, 1), "c", TrialCount(10, 9)).holds
    assert not Proof("x", TrialCount(0, 0), "c", TrialCount(10, 9)).holds
    assert not Proof("x", TrialCount(5, 0), "c", TrialCount(0, 0)).holds, "a control that did not run proves nothing"


def test_what_has_no_control_is_called_a_figure() -> None:
    assert Figure("x", TrialCount(1, 0)).holds and not Figure("x", TrialCount(1, 1)).holds
    with pytest.raises(TypeError):
        Proof("x", TrialCount(5, 0), "see above")  # type: ignore[call-arg]


def test_what_torch_and_safetensors_write_without_python_is_recorded(tmp_path: Path) -> None:
    def work() -> Iterator[str]:
        power_cut.fill_folder(tmp_path, 4)
        yield "filled"

    written = dict[int, bytes]()
    record = record_work(tmp_path, work())
    for operation in record.operations:
        if isinstance(operation, Append):
            written[operation.file] = written.get(operation.file, b"") + operation.data
    on_disk = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(written.values()) == sorted(on_disk) and len(on_disk) == len(power_cut.FILES)


def test_enough_real_runs_are_recorded() -> None:
    found = list(recordings())
    assert len(found) >= 30 and len({one.name for one in found}) == len(found)
    assert not [one.name for one in found if one.wrong or not one.stages]
