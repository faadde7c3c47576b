"""Secrets: what counts as one, and that none of a run's words holds one, even when its worker prints all it knows."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from trainer_core import redact, report, runs
from trainer_core.config import Recipe
from trainer_core.events import Phase
from trainer_core.supervisor import Supervisor, wait_for

CANARY = "hf_canary0123456789abcdef"


def test_what_counts_as_a_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_kept-by-login\n")
    environ = {
        "HF_TOKEN": CANARY,
        "OPENAI_API_KEY": "sk-canary-canary",
        "MY_PASSWORD": "correct horse",
        "TOKENIZERS_PARALLELISM": "false",
        "HOME": "/home/somebody",
        "HF_HOME": str(tmp_path),
    }
    assert redact.secrets(environ) == {CANARY, "sk-canary-canary", "correct horse", "hf_kept-by-login"}


def test_no_secret_gets_into_a_runs_folder_or_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    supervisor = Supervisor(
        runs.Workspace(tmp_path), command=(sys.executable, "-m", "tests.fake_worker", "100"), device="cpu"
    )
    run_id = supervisor.start(Recipe(name="leaks"))
    arguments = [" ".join(one.cmdline()) for one in psutil.Process().children()]

    def over() -> bool:
        supervisor.look()
        return not supervisor.run(run_id).phase.active

    assert wait_for(over, 60)
    report.save(supervisor.run_dir(run_id))
    view = supervisor.run(run_id)
    assert view.phase is Phase.FAILED and f"401 for the token {redact.STRUCK}" in view.error
    log = (supervisor.run_dir(run_id) / "worker.log").read_text()
    assert f"'HF_TOKEN': '{redact.STRUCK}'" in log  # it did print it
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert holding == [] and CANARY not in " ".join(arguments) and CANARY not in repr(view)
