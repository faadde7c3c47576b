"""Peak memory and memory limit of this process: by torch's count on a card, otherwise resident memory."""

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

SAMPLE_SECONDS = 0.002
PROC_SELF = Path("/proc/self")


class PeakBytes:
    """Peak bytes during a block."""

    bytes = 0


class MemoryMeter(Protocol):
    def current_bytes(self) -> int:
        """Bytes in use."""
        ...

    def limit_bytes(self) -> int:
        """Limit of the process, in bytes."""
        ...

    def track_peak(self) -> AbstractContextManager[PeakBytes]: ...


class RssMeter:
    """The processor: resident memory. Linux counts its peak; elsewhere a thread samples every 2 ms."""

    def __init__(self) -> None:
        self.process = psutil.Process()

    def current_bytes(self) -> int:
        return int(self.process.memory_info().rss)

    def limit_bytes(self) -> int:
        """Free memory, capped by the process's address-space limit."""
        free = hardware.read_cpu().free_bytes
        if sys.platform == "linux":
            limit, _ = self.process.rlimit(psutil.RLIMIT_AS)
            free = free if limit < 0 else min(free, limit - self.process.memory_info().vms)
        return self.current_bytes() + free

    @contextmanager
    def track_peak(self) -> Iterator[PeakBytes]:
        peak, ended = PeakBytes(), threading.Event()
        malloc.release_free_memory()
        peak.bytes = self.current_bytes()
        counted = reset_peak()

        def sample() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                peak.bytes = max(peak.bytes, self.current_bytes())

        thread = threading.Thread(target=sample, daemon=True)
        if not counted:
            thread.start()
        try:
            yield peak
        finally:
            ended.set()
            if not counted:
                thread.join()
            peak.bytes = max(peak.bytes, self.current_bytes(), kernel_peak_bytes() if counted else 0)


def reset_peak() -> bool:
    """Reset the kernel's peak counter for this process. False: not supported, or not permitted."""
    try:
        (PROC_SELF / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def kernel_peak_bytes() -> int:
    """The kernel's count (VmHWM), in bytes."""
    lines = (PROC_SELF / "status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


class CudaMeter:
    """A card: bytes reserved by torch's allocator, fragments included, without the CUDA context."""

    def current_bytes(self) -> int:
        return torch.cuda.memory_allocated()

    def limit_bytes(self) -> int:
        free, total = torch.cuda.mem_get_info()
        share = int(total * torch.cuda.get_per_process_memory_fraction())
        return min(share, free + torch.cuda.memory_reserved())

    @contextmanager
    def track_peak(self) -> Iterator[PeakBytes]:
        peak = PeakBytes()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            yield peak
        finally:
            torch.cuda.synchronize()
            peak.bytes = torch.cuda.max_memory_reserved()


def build_memory_meter() -> RssMeter | CudaMeter:
    return CudaMeter() if torch.cuda.is_available() else RssMeter()
