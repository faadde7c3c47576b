"""Tokens kept from run to run: the same rows again, none of a damaged file, another file for whatever changes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_engine import environment
from trainer_core import runs

pytestmark = pytest.mark.real


def test_kept_rows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.kept_rows_case", tmp_path]
    done = subprocess.run(
        command, cwd=runs.PROJECT, env=os.environ | environment(), capture_output=True, text=True, timeout=120
    )
    assert done.stdout.count("holds") == 4, done.stdout[-500:] + done.stderr[-2000:]
