"""Checking data: how fast, and how little memory a large file takes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench.harness import fixtures
from bench.harness.measure import memory_watched, processor_seconds, timed
from bench.harness.result import Device, Row, Target, one_sided
from trainer_core import data

QUESTION = "How fast is a JSONL file checked, and does 1 GB of it fit into bounded memory?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[Row, ...] = ()
SIZES = (1200, 5000)
"""Bytes a row: a short pair, and one with long answers."""


def run(device: Device, tiny: bool) -> list[Row]:
    megabytes = 1 if tiny else 64
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "pairs.jsonl"
        return [*(speed(file, megabytes, size) for size in SIZES), *large(file, 4 if tiny else 1000)]


def speed(file: Path, megabytes: int, row_bytes: int) -> Row:
    """Processor time of the child that reads and of this process, its start included."""
    size = fixtures.pairs(file, megabytes * 1_000_000 // row_bytes, row_bytes)
    data.check(file)
    speeds = [size / timed(lambda: data.check(file)) for _ in range(3)]
    what = f"JSONL check, rows of {row_bytes / 1000:g} KB"
    return one_sided("data", what, "MB per CPU-second", speeds, target=Target("ours", "≥", 50))


def large(file: Path, megabytes: int) -> list[Row]:
    """One large file, once: what its child holds at most, and what the app's own process grows by."""
    size = fixtures.pairs(file, megabytes * 1_000_000 // SIZES[0], SIZES[0])
    began, wall = processor_seconds(), time.monotonic()
    with memory_watched() as peak:
        report = data.check(file)
    spent, waited = processor_seconds() - began, time.monotonic() - wall
    note = f"{report.rows:,} rows, {spent:.0f} CPU-seconds, {waited:.0f} s on the clock"
    name = f"{size:,.0f} MB of JSONL"
    return [
        Row(
            "data",
            f"{name}: memory of the child",
            "MB",
            peak.children,
            target=Target("ours", "≤", 1500),
            n=1,
            note=note,
        ),
        Row("data", f"{name}: growth of the app", "MB", peak.growth, target=Target("ours", "≤", 50), n=1),
    ]
