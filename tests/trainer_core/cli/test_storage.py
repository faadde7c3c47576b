"""`storage` in the terminal: the list, freeing one, moving and moving back."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from trainer_core.cli import commands


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    export = tmp_path / "workspace" / "exports" / "mine"
    export.mkdir(parents=True)
    (export / "model.gguf").write_bytes(b"x" * 1_500_000)
    return tmp_path / "workspace"


def run(workspace: Path, *words: str) -> int:
    return commands.main(["--workspace", str(workspace), "storage", *words])


def test_the_list_names_a_key_that_frees(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace) == 0
    assert "    1.5 MB  exports:mine" in capsys.readouterr().out.splitlines()
    assert run(workspace, "--free", "exports:mine") == 0 and "1.5 MB" in capsys.readouterr().out
    assert not (workspace / "exports" / "mine").exists()
    assert run(workspace, "--free", "exports:mine") == 1


def test_there_and_back(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(workspace, "--move", "exports", "--to", str(tmp_path / "drive")) == 0
    assert (tmp_path / "drive" / "exports" / "mine").is_dir() and (workspace / "exports").is_symlink()
    assert run(workspace) == 0 and str(tmp_path / "drive") in capsys.readouterr().out
    assert run(workspace, "--move", "exports", "--to", "back") == 0
    assert (workspace / "exports" / "mine").is_dir() and not (workspace / "exports").is_symlink()


def test_without_a_place_or_to_one_that_cannot_be_nothing_moves(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(workspace, "--move", "exports") == 1
    assert run(workspace, "--move", "exports", "--to", str(workspace / "inside")) == 1
    assert "Traceback" not in capsys.readouterr().err and not (workspace / "exports").is_symlink()
