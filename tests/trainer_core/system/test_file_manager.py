"""A folder is shown by the system's file manager; where there is none, its path is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer_core.errors import UserError
from trainer_core.jobs.supervisor import wait_for
from trainer_core.system.file_manager import open_folder


def test_the_program_gets_the_folder(tmp_path: Path) -> None:
    program, folder = tmp_path / "manager", tmp_path / "a folder; with $words"
    folder.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s" "$1" > "{tmp_path}/shown"\n')
    program.chmod(0o755)
    open_folder(folder, str(program))
    shown = tmp_path / "shown"
    assert wait_for(lambda: shown.exists() and shown.read_text() == str(folder), 10)


def test_without_a_program_the_path_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        open_folder(tmp_path, "no-such-manager")
