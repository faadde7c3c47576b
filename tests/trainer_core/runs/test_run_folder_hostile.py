"""Hostile inputs through the parts that meet them: each is refused, replaced or shown as what it is; nothing stops the app."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support import hostile_cases

SECONDS = 60


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Whoever waits for ever, as for the other end of a pipe, is waked by a signal."""

    def late(*_: object) -> NoReturn:
        raise TimeoutError(f"does not end within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again and again: somebody may catch the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(os.name != "posix", reason="pipes, forks and signals")
@pytest.mark.parametrize("name", hostile_cases.CASES)
def test_it_holds(name: str, tmp_path: Path) -> None:
    with within(SECONDS):
        assert hostile_cases.CASES[name](tmp_path) == ""
