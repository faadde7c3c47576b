"""How fast is a file checked, and does a large one stay out of memory?"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil

from bench.result import Device, Row, Sample, figure
from trainer_core.data import Checkup, Reader, Report
from trainer_core.data.source import Progress, Request

QUESTION = "How fast is JSONL checked with every finding, and how much memory does 1 GB of it take?"
DEVICES = ("cpu",)
WORDS = ["river", "tide", "because", "stone", "moon", "harbour"] + [f"word{n}" for n in range(3000)]
KINDS = {"short pairs (1.2 KB a row)": 90, "long pairs (5 KB a row)": 400}
"""Words in each answer."""


def run(device: Device, tiny: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        for kind, words in KINDS.items():
            path = written(folder / "rows.jsonl", words, (1 if tiny else 60) << 20)
            speeds = [speed(path) for _ in range(1 if tiny else 5)]
            yield figure(f"Check of {kind}", "≥ 50 MB/s", "MB per CPU second", speeds, lambda value: value >= 50)
        yield from large(written(folder / "large.jsonl", 90, (2 if tiny else 1024) << 20))


def written(path: Path, words: int, size: int) -> Path:
    """A file of pairs of about that size, each row another."""
    random, number = Random(1), 0
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            for _ in range(500):
                number += 1
                row = {"prompt": f"Question {number}: {' '.join(random.choices(WORDS, k=20))}?"}
                row |= {side: " ".join(random.choices(WORDS, k=words)) for side in ("chosen", "rejected")}
                file.write(json.dumps(row) + "\n")
    return path


def speed(path: Path) -> float:
    """Megabytes per second of the child's processor time."""
    with Reader() as reader:
        list(reader.ask(Request(path, checkup=Checkup())))
        times = psutil.Process(reader.process.pid).cpu_times()
    return path.stat().st_size / 1e6 / (times.user + times.system)


def large(path: Path) -> Iterator[Row]:
    app, told, report = psutil.Process(), 0, None
    before = here = app.memory_info().rss
    with Reader() as reader:
        child = psutil.Process(reader.process.pid)
        peak = child.memory_info().rss
        for news in reader.ask(Request(path, checkup=Checkup())):
            peak, here = max(peak, child.memory_info().rss), max(here, app.memory_info().rss)
            told += isinstance(news, Progress)
            report = news if isinstance(news, Report) else report
    assert report is not None and report.rows == report.usable
    size = f"{path.stat().st_size / 2**30:.2f} GiB, {report.rows:,} rows, {told} times told how far"
    yield memory("Memory of the child that checks it", "< 1,500 MB", peak, 1500, size)
    yield memory("Growth of the app meanwhile", "< 50 MB", here - before, 50, size)
    os.unlink(path)


def memory(what: str, goal: str, bytes_: int, most: int, note: str) -> Row:
    value = bytes_ / 2**20
    return Row(what, goal, "MB", Sample.of([value]), value=value, met=value < most, note=note)
