"""The app with nobody training: how soon it is there, what it takes, and how it bears a thousand runs."""

from __future__ import annotations

import time
from pathlib import Path

from bench.harness import fixtures
from bench.harness.measure import measure_in_turns, measure_seconds, resident_mb
from bench.harness.result import BenchRow, Device, Target, row_against_target
from bench.harness.served_app import ServedApp
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace
from ui.payloads import run_list
from ui.server import live_updates

QUESTION = "How soon is the page there, what does the app take when idle, and how long do 1,000 runs take?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[BenchRow, ...] = ()
SETTLE_SECONDS = 3.0


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    return [*measure_startup(place, tiny), *measure_many_runs(Workspace(place / "many"), 20 if tiny else 1000)]


def measure_startup(place: Path, tiny: bool) -> list[BenchRow]:
    """Starts (the first one warms the disk's cache), then one app left alone."""
    ready, idle, memory = list[float](), 0.0, 0.0
    for turn in range(1 if tiny else 4):
        with ServedApp(place / f"app-{turn}") as app:
            ready.append(app.ready_seconds)
            if turn == (0 if tiny else 3):
                idle, memory = measure_idle(app, 2.0 if tiny else 20.0)
    warm = ready[1:] or ready
    return [
        row_against_target("app", "Command to page ready, warm", "s", warm, target=Target("ours", "≤", 5)),
        BenchRow("app", "Idle, of one core", "%", 100 * idle, target=Target("ours", "≤", 1), n=1),
        BenchRow("app", "Resident memory when idle", "MB", memory, target=Target("ours", "≤", 400), n=1),
    ]


def measure_idle(app: ServedApp, seconds: float) -> tuple[float, float]:
    """The share of a core and the MB that it takes with no page open."""
    time.sleep(SETTLE_SECONDS)
    before, began = app.processor_seconds, time.monotonic()
    time.sleep(seconds)
    return (app.processor_seconds - before) / (time.monotonic() - began), resident_mb(app.process.pid)


def measure_many_runs(workspace: Workspace, count: int) -> list[BenchRow]:
    """Runs of 40 steps: reading them all at the start, listing them for a page, and a round of the supervisor."""
    fixtures.copy_run(fixtures.make_run(workspace, "first", 40), count - 1)
    kept: list[Supervisor] = []

    def opening() -> float:
        return measure_seconds(lambda: kept.append(Supervisor(workspace, device="cpu")))

    def listing() -> float:
        rows = run_list.RunRows(kept[-1].registry)
        return measure_seconds(lambda: live_updates.page_update(kept[-1], live_updates.Cursor(tab="runs"), rows))

    found = measure_in_turns(
        {"open": opening, "list": listing, "look": lambda: measure_seconds(kept[-1].registry.refresh)}, 3
    )
    return [
        row_against_target("app", f"{count:,} runs read at the start", "CPU-s", found["open"]),
        row_against_target("app", f"{count:,} runs listed", "CPU-s", found["list"], target=Target("ours", "≤", 0.5)),
        row_against_target("app", f"A round of the supervisor over {count:,} runs", "CPU-s", found["look"]),
    ]
