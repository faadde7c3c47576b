"""How things are measured: processor time of this process and its children, peak memory of a child, turns taken in pairs."""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import psutil

MB = 1_000_000
SAMPLE_SECONDS = 0.05


def processor_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in spent)


def process_seconds(process: psutil.Process) -> float:
    """User and system time of another process."""
    times = process.cpu_times()
    return times.user + times.system


def measure_seconds(work: Callable[[], object], clock: Callable[[], float] = processor_seconds) -> float:
    """What the work takes, by that clock, in seconds."""
    began = clock()
    work()
    return clock() - began


def fixed_work() -> float:
    """Processor milliseconds of a piece of work that is always the same, median of seven: how fast this machine is just now."""
    sample = {"rows": [{"step": at, "word": str(at)} for at in range(200)]}

    def once() -> None:
        for _ in range(300):
            json.loads(json.dumps(sample))

    return 1000 * median(measure_seconds(once) for _ in range(7))


def measure_in_turns(
    work: Mapping[str, Callable[[], float]], repetitions: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Each figure `repetitions` times in turns, so that a change of the machine meets all alike; the first rounds are dropped."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(warm_up + repetitions):
        for name, measure in work.items():
            figure = measure()
            if turn >= warm_up:
                found[name].append(figure)
    return found


def wait_until(true: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: it is not, in time.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.01)


@dataclass
class ChildMemoryPeak:
    """The largest memory that children of this process held together, and how much this process grew, in MB."""

    children: float = 0.0
    before: float = field(default_factory=lambda: resident_mb(os.getpid()))
    growth: float = 0.0

    def update(self) -> None:
        me = psutil.Process()
        self.children = max(self.children, sum(resident_mb(child.pid) for child in me.children(recursive=True)))
        self.growth = max(self.growth, resident_mb(me.pid) - self.before)


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB; 0 if it is gone."""
    try:
        return psutil.Process(pid).memory_info().rss / MB
    except psutil.NoSuchProcess:
        return 0.0


@contextmanager
def watch_memory() -> Iterator[ChildMemoryPeak]:
    """Sample memory from a thread while the block runs."""
    peak, ended = ChildMemoryPeak(), threading.Event()

    def run() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            peak.update()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
