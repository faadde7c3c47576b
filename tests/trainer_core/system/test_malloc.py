"""Freed memory goes back to the system, in a process whose holes no single object fits."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from trainer_core.system import malloc, project

HOLES = """
import psutil
from trainer_core.system import malloc
rss = psutil.Process().memory_info
kept = [bytes(1000) for _ in range(200_000)]
kept = kept[::100]
before = rss().rss
malloc.release_free_memory()
print(before - rss().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps what is freed")
def test_holes_are_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLES], cwd=project.PROJECT, capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) > 100_000_000


def test_cycles_are_looked_for_again_whatever_happens() -> None:
    with pytest.raises(ValueError, match="on the way"), malloc.pause_gc():
        assert not gc.isenabled()
        raise ValueError("on the way")
    assert gc.isenabled()
