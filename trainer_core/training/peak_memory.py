"""How much memory this process takes at its peak, and how much it may take: by torch's count on a card, else resident memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import psutil
import torch

from trainer_core.system import hardware, malloc

LOOK_SECONDS = 0.002
SELF = Path("/proc/self")


class Peak:
    """The most bytes that were held while a block ran."""

    bytes = 0


class Gauge(Protocol):
    def now(self) -> int:
        """Bytes held."""
        ...

    def most(self) -> int:
        """Bytes that the process may hold, all in all."""
        ...

    def watching(self) -> AbstractContextManager[Peak]: ...


class Resident:
    """The processor: resident memory. Linux counts its peak; elsewhere a thread looks every 2 ms."""

    def __init__(self) -> None:
        self.process = psutil.Process()

    def now(self) -> int:
        return int(self.process.memory_info().rss)

    def most(self) -> int:
        """What is free, within a limit that was set on the process's address space."""
        free = hardware.read_cpu().free_bytes
        if sys.platform == "linux":
            limit, _ = self.process.rlimit(psutil.RLIMIT_AS)
            free = free if limit < 0 else min(free, limit - self.process.memory_info().vms)
        return self.now() + free

    @contextmanager
    def watching(self) -> Iterator[Peak]:
        peak, ended = Peak(), threading.Event()
        malloc.trim()
        peak.bytes = self.now()
        counted = forget_peak()

        def look() -> None:
            while not ended.wait(LOOK_SECONDS):
                peak.bytes = max(peak.bytes, self.now())

        thread = threading.Thread(target=look, daemon=True)
        if not counted:
            thread.start()
        try:
            yield peak
        finally:
            ended.set()
            if not counted:
                thread.join()
            peak.bytes = max(peak.bytes, self.now(), counted_peak() if counted else 0)


def forget_peak() -> bool:
    """Have the kernel count this process's peak from now on. False: it cannot, or not for this user."""
    try:
        (SELF / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def counted_peak() -> int:
    """The kernel's count (VmHWM), in bytes."""
    lines = (SELF / "status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


class Reserved:
    """A card: what torch's allocator has reserved, fragments included. The CUDA context is not in it."""

    def now(self) -> int:
        return torch.cuda.memory_allocated()

    def most(self) -> int:
        free, total = torch.cuda.mem_get_info()
        share = int(total * torch.cuda.get_per_process_memory_fraction())
        return min(share, free + torch.cuda.memory_reserved())

    @contextmanager
    def watching(self) -> Iterator[Peak]:
        peak = Peak()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            yield peak
        finally:
            torch.cuda.synchronize()
            peak.bytes = torch.cuda.max_memory_reserved()


def gauge() -> Resident | Reserved:
    return Reserved() if torch.cuda.is_available() else Resident()
