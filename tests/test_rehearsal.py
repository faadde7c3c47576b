"""Unsloth's CUDA code on the processor, driven by our worker; see tests/support/rehearsal.py. One process for each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.paths import REHEARSAL
from trainer_core.runs.event_log import Tail
from trainer_core.runs.events import StageResumed, TrainStep
from trainer_core.system import project

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (REHEARSAL / "triton").is_dir(),
        reason="no Triton in .venv/rehearsal; `python launch.py test` fetches it on Linux",
    ),
]
SECONDS = 1500
"""Ten times what it takes on idle processors."""


def rehearse(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    hidden = {"UNSLOTH_FORCE_CPU", "CUDA_VISIBLE_DEVICES"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    return subprocess.run(
        [sys.executable, "-P", "-m", "tests.support.rehearsal", str(folder), *arguments],
        cwd=project.PROJECT,
        env=environment | {"PYTHONPATH": str(project.PROJECT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What held, by name."""
    lines = [line.partition(" ") for line in done.stdout.splitlines() if line.startswith(("ok ", "WRONG "))]
    return {what.strip().partition(":  ")[0]: word for word, _, what in lines}


def check(done: subprocess.CompletedProcess[str], least: int) -> None:
    """Everything held, and so many things were looked at."""
    found = results(done)
    wrong = [what for what, word in found.items() if word == "WRONG"]
    assert not wrong and done.returncode == 0 and len(found) >= least, (wrong, done.stdout[-3000:], done.stderr[-3000:])


def test_sft_and_dpo_with_samples_and_evaluations(tmp_path: Path) -> None:
    check(rehearse(tmp_path), least=20)


@pytest.mark.long
def test_a_method_without_a_reference_starts_with_its_predicted_loss(tmp_path: Path) -> None:
    check(rehearse(tmp_path, "--method", "orpo"), least=10)


@pytest.mark.long
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"])
def test_each_family(tmp_path: Path, family: str) -> None:
    check(rehearse(tmp_path, "--family", family), least=20)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp16", "nf4"])
def test_each_precision(tmp_path: Path, precision: str) -> None:
    check(rehearse(tmp_path, "--precision", precision), least=20)


@pytest.mark.long
def test_packed_rows(tmp_path: Path) -> None:
    check(rehearse(tmp_path, "--method", "sft", "--packing"), least=11)


@pytest.mark.long
@pytest.mark.parametrize("at", ["sft.1", "dpo.1"])
def test_a_killed_run_resumes(tmp_path: Path, at: str) -> None:
    assert rehearse(tmp_path, "--kill", at).returncode == -signal.SIGKILL
    check(rehearse(tmp_path), least=12)
    (folder,) = (tmp_path / "workspace" / "runs").iterdir()
    events = list(Tail(folder / "events.jsonl"))
    assert [event.stage for event in events if isinstance(event, StageResumed)] == [at.partition(".")[0]]
    assert [(event.stage, event.step) for event in events if isinstance(event, TrainStep)][-1] == ("dpo", 2)
