"""Hostile inputs through the parts that meet them: each is refused, replaced or shown as what it is; nothing stops the app."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import hostile_cases

SECONDS = 60


@pytest.mark.skipif(os.name != "posix", reason="pipes, forks and signals")
@pytest.mark.parametrize("name", hostile_cases.CASES)
def test_it_holds(name: str, tmp_path: Path) -> None:
    with hostile_cases.time_limit(SECONDS):
        assert hostile_cases.CASES[name](tmp_path) == ""
