"""Checking data: how fast, and how little memory a large file takes."""

from __future__ import annotations

import time
from pathlib import Path

from bench.harness import fixtures
from bench.harness.measure import measure_seconds, processor_seconds, watch_memory
from bench.harness.result import BenchRow, Device, Target, row_against_target
from trainer_core import data

QUESTION = "How fast is a JSONL file checked, and does 1 GB of it fit into bounded memory?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[BenchRow, ...] = ()
SIZES = (1200, 5000)
"""Bytes a row: a short pair, and one with long answers."""


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    megabytes = 1 if tiny else 64
    file = place / "pairs.jsonl"
    return [*(check_speed_row(file, megabytes, size) for size in SIZES), *large_file_rows(file, 4 if tiny else 1000)]


def check_speed_row(file: Path, megabytes: int, row_bytes: int) -> BenchRow:
    """Processor time of the child that reads and of this process, its start included."""
    size = fixtures.write_pair_file(file, megabytes * 1_000_000 // row_bytes, row_bytes)
    data.check_dataset(file)
    speeds = [size / measure_seconds(lambda: data.check_dataset(file)) for _ in range(3)]
    what = f"JSONL check, rows of {row_bytes / 1000:g} KB"
    return row_against_target("data", what, "MB per CPU-second", speeds, target=Target("ours", "≥", 50))


def large_file_rows(file: Path, megabytes: int) -> list[BenchRow]:
    """One large file, once: what its child holds at most, and what the app's own process grows by."""
    size = fixtures.write_pair_file(file, megabytes * 1_000_000 // SIZES[0], SIZES[0])
    began, wall = processor_seconds(), time.monotonic()
    with watch_memory() as peak:
        report = data.check_dataset(file)
    spent, waited = processor_seconds() - began, time.monotonic() - wall
    note = f"{report.rows:,} rows, {spent:.0f} CPU-seconds, {waited:.0f} s on the clock"
    name = f"{size:,.0f} MB of JSONL"
    return [
        BenchRow(
            "data",
            f"{name}: memory of the child",
            "MB",
            peak.children,
            target=Target("ours", "≤", 1500),
            n=1,
            note=note,
        ),
        BenchRow("data", f"{name}: growth of the app", "MB", peak.growth, target=Target("ours", "≤", 50), n=1),
    ]
