"""Tokens kept from run to run: the same rows again, none of a damaged file, another file for whatever changes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training_runs import environment
from tests.support.warm import errors, run_module

pytestmark = pytest.mark.real


def test_kept_rows(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    run_module(environment(), "tests.support.token_cache_case", tmp_path, log=log)
    assert log.read_text().count("holds") == 4, errors(log).read_text()[-2000:]
