"""Secrets: what counts as one, and that none of a run's words holds one, even when its worker prints all it knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest

from tests.support.scripted import scripted_app
from tests.support.serve import machine
from trainer_core.config.recipe import Recipe
from trainer_core.diagnosis import html_report
from trainer_core.jobs.run_watcher import RunWatcher
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.runs.events import Phase
from trainer_core.runs.workspace import Workspace
from trainer_core.system import redact
from trainer_core.system.hardware import Machine
from ui.payloads.run import button_state
from ui.server.live_updates import PartMaker

CANARY = "hf_canary0123456789abcdef"
QUOTED = 'a "canary\\of a key <& é canary-and-its-end'
"""What JSON, Python and HTML each write in another way."""


def test_what_counts_as_a_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_kept-by-login\n")
    environ = {
        "HF_TOKEN": CANARY,
        "OPENAI_API_KEY": "sk-canary-canary",
        "MY_PASSWORD": "correct horse",
        "JUDGE_KEY": "judge-canary",
        "X_KEY": "some-canary",
        "KEYBOARD_LAYOUT": "programmer-dvorak",
        "TOKENIZERS_PARALLELISM": "false",
        "HOME": "/home/somebody",
        "HF_HOME": str(tmp_path),
    }
    assert redact.find_secrets(environ) == {
        CANARY, "sk-canary-canary", "judge-canary", "some-canary", "correct horse", "hf_kept-by-login",
    }  # fmt: skip


def test_a_user_without_a_home_has_secrets_all_the_same() -> None:
    assert redact.find_secrets({"HF_TOKEN": CANARY, "HF_HOME": "~nobody-of-that-name/hub"}) == {CANARY}


@pytest.mark.parametrize(("name", "end"), [("leaks", Phase.FAILED), ("sound", Phase.DONE)])
def test_no_secret_gets_into_a_runs_folder_or_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, end: Phase
) -> None:
    """A whole run with the hub's token and two judges' keys in the environment; one prints all of it and fails with it."""
    canaries = {"HF_TOKEN": CANARY, "OPENAI_API_KEY": "sk-canary-9876543210", "TUNEBENCH_JUDGE_KEY": QUOTED}
    for variable, canary in canaries.items():
        monkeypatch.setenv(variable, canary)
    supervisor = scripted_app(tmp_path, 100)
    run_id = supervisor.control.start(Recipe(name=name))
    arguments = set[str]()

    def over() -> bool:
        supervisor.registry.refresh()
        for one in psutil.process_iter(["cmdline"]):
            arguments.add(" ".join(one.info["cmdline"] or []))
        return not supervisor.registry.run_state(run_id).phase.is_active

    assert wait_for(over, 60)
    html_report.save_report(supervisor.registry.run_dir(run_id))
    view = supervisor.registry.run_state(run_id)
    assert view.phase is end
    if name == "leaks":
        assert f"401 for the token {redact.SECRET_PLACEHOLDER}" in str(view.error)
        log = (supervisor.registry.run_dir(run_id) / "worker.log").read_text()
        assert all(f"'{variable}': '{redact.SECRET_PLACEHOLDER}'" in log for variable in canaries)  # it did print them
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".html" for path in files) and any(run_id in one for one in arguments)
    for canary in (*canaries.values(), "canary\\\\of a key", "canary-and-its-end"):
        assert [path for path in files if canary.encode() in path.read_bytes()] == []
        assert not any(canary in one for one in arguments) and canary not in repr(view)


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The Hub's token in this process, whose secrets are read once."""
    monkeypatch.setenv("HF_TOKEN", CANARY)
    redact.secrets_pattern.cache_clear()
    yield CANARY
    redact.secrets_pattern.cache_clear()


def test_no_secret_of_an_error_reaches_the_page(tmp_path: Path, token: str) -> None:
    """Neither of one while the machine is read, nor of a run that cannot be read, nor of a part of the page."""
    readings = iter([machine(24)])

    def read_machine() -> Machine:
        if reading := next(readings, None):
            return reading
        raise RuntimeError(f"401 for the token {token}")

    class BadWatcher(RunWatcher):
        def refresh(self) -> None:
            raise RuntimeError(f"500 for the token {token}")

    boss = Supervisor(Workspace(tmp_path), read_machine=read_machine, session=nullcontext).watch()
    try:
        assert wait_for(lambda: bool(boss.registry.last_error), 30)
    finally:
        boss.close()
    shown = [button_state(boss)["error"]]
    boss.registry.add_run("bad", BadWatcher(tmp_path / "runs" / "bad"))
    boss.registry.refresh()
    shown.append(boss.registry.last_error)
    make_part = PartMaker()
    make_part(BadWatcher(tmp_path).refresh)
    shown.append(make_part.error)
    for status, error in zip((401, 500, 500), shown, strict=True):
        assert f"{status} for the token {redact.SECRET_PLACEHOLDER}" in error and CANARY not in error
