"""Returns freed memory to the system (malloc_trim) and pauses the garbage collector during bulk loading.

A run's metrics are rebuilt every second, in several threads and each time a little larger, so the freed gaps fit nothing later:
an app that watched a run of 9,000 steps for half an hour grew by 40 %, with none of it in use.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

TRIM_SECONDS = 30.0
MMAP_THRESHOLD_BYTES, MAX_ARENAS = 16 * 1024, 1
"""Blocks of at least this many bytes get their own pages, which return to the system when freed; all threads share one heap."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
"""Parameters of mallopt(3)."""
KEPT_BYTES, USUAL_TRIM_BYTES, USUAL_MMAPS = (1 << 31) - 1, 128 << 10, 65_536
"""Free memory that `reuse_large_blocks` keeps, and glibc's defaults."""


def configure_malloc() -> None:
    """Prevent gaps from large blocks. Call before other threads start; no effect without glibc."""
    if set_option := glibc_function("mallopt"):
        set_option(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        set_option(M_ARENA_MAX, MAX_ARENAS)


def release_free_memory() -> None:
    """Return whole free pages to the system."""
    if give_back := glibc_function("malloc_trim"):
        give_back(0)


@contextmanager
def reuse_large_blocks() -> Iterator[None]:
    """Take large blocks from memory that was just freed. Each would get new pages, which the system has to clear: a merge of 3 GB
    took 26 processor seconds, and takes 10."""
    set_option = glibc_function("mallopt")
    if set_option is None:
        yield
        return
    set_option(M_MMAP_MAX, 0)
    set_option(M_TRIM_THRESHOLD, KEPT_BYTES)
    try:
        yield
    finally:
        set_option(M_MMAP_MAX, USUAL_MMAPS)
        set_option(M_TRIM_THRESHOLD, USUAL_TRIM_BYTES)
        release_free_memory()


@contextmanager
def pause_gc() -> Iterator[None]:
    """Load long-lived objects without garbage collection, now or later: 10,000 runs open in 2.2 s, not 3.1."""
    looks = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if looks:
            gc.enable()


@cache
def glibc_function(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    library = ctypes.util.find_library("c")
    return getattr(ctypes.CDLL(library), name, None) if library else None
