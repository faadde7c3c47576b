"""What does the app cost while nothing is trained, and how soon is it there?"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench import parts
from bench.result import Device, Row, Sample, figure
from trainer_core import runs
from trainer_core.config import Recipe, TrainJob
from trainer_core.events import Checkpointed, Ended, EventLog, Phase, Plan, Prepared, Saved, Step
from trainer_core.runs import PROJECT
from trainer_core.supervisor import Supervisor

QUESTION = "From the command to a page that answers, its idle cost, and a workspace with a thousand runs."
DEVICES = ("cpu",)
STEPS = 60


def run(device: Device, tiny: bool) -> Iterator[Row]:
    with parts.workspace() as workspace:
        opened = [opening(workspace, idle=0) for _ in range(1 if tiny else 5)]
        yield figure("Command → page ready", "≤ 5 s", "s", [one[0] for one in opened], lambda value: value <= 5)
        _, share, size = opening(workspace, idle=3 if tiny else 30)
        yield figure("Idle, nobody looking", "≤ 1 % of a core", "%", [100 * share], lambda value: value <= 1)
        yield figure("Memory of the app (RSS)", "≤ 400 MB", "MB", [size / 2**20], lambda value: value <= 400)
    with parts.workspace() as workspace:
        count = many(workspace, 20 if tiny else 1000)
        yield from listed(workspace, count)


def opening(workspace: runs.Workspace, idle: float) -> tuple[float, float, int]:
    """Seconds until the page answers, the share of a core while idle, and bytes in memory then."""
    command = [sys.executable, str(PROJECT / "app.py"), "--no-browser", "--workspace", str(workspace.root)]
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout
        next(line for line in app.stdout if line.startswith("READY "))
        ready = time.perf_counter() - began
        process = psutil.Process(app.pid)
        if idle:
            time.sleep(3)
        before, start = process.cpu_times(), time.perf_counter()
        time.sleep(idle)
        after = process.cpu_times()
        used = after.user + after.system - before.user - before.system
        size = process.memory_info().rss
        app.terminate()
    return ready, used / (time.perf_counter() - start), size


def many(workspace: runs.Workspace, count: int) -> int:
    """So many finished runs of SFT and DPO, each with its events and adapter folders."""
    first = runs.create(workspace.runs, TrainJob(recipe=Recipe()), "bench")
    emit = EventLog(first / "events.jsonl")
    emit(Prepared(352, 352, 16, "0" * 64))
    emit(Plan({"sft": STEPS // 2, "dpo": STEPS // 2}))
    for stage in ("sft", "dpo"):
        for step in range(1, STEPS // 2 + 1):
            emit(Step(stage, step, STEPS // 2, 1 / step, 1e-4, 1.0, 0.5, 900.0, 1.0))  # type: ignore[arg-type]
        emit(Checkpointed(stage, STEPS // 2, f"checkpoints/{stage}-000030", 5_000_000, 0.1))  # type: ignore[arg-type]
        emit(Saved(stage, f"adapter-{stage}", 5_000_000, STEPS // 2))  # type: ignore[arg-type]
        (first / f"adapter-{stage}").mkdir()
    emit(Ended(Phase.DONE))
    for number in range(1, count):
        copied(first, number)
    return count


def copied(first: Path, number: int) -> None:
    stem = first.name.rpartition("-")[0]
    shutil.copytree(first, first.with_name(f"{stem}-{number:04x}"), dirs_exist_ok=True)


def listed(workspace: runs.Workspace, count: int) -> Iterator[Row]:
    from ui.history import Rows

    began = time.perf_counter()
    supervisor = Supervisor(workspace, device="cpu")
    found = time.perf_counter() - began
    rows, seconds = Rows(supervisor), []
    for _ in range(2):
        began = time.perf_counter()
        shown = rows()
        seconds.append(time.perf_counter() - began)
    assert len(shown) == len(supervisor.views) == count
    began = time.perf_counter()
    supervisor.look()
    look = time.perf_counter() - began
    yield figure(f"{count:,} runs read from disk", "", "s", [found])
    yield figure(f"{count:,} runs listed, first time", "< 500 ms", "ms", [1000 * seconds[0]], lambda value: value < 500)
    yield figure(f"{count:,} runs listed again", "< 500 ms", "ms", [1000 * seconds[1]], lambda value: value < 500)
    yield Row("A look at all of them, once a second", "", "ms", Sample.of([1000 * look]), value=1000 * look)
