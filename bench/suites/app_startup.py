"""The app with nobody training: how soon it is there, what it takes, and how it bears a thousand runs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench.harness import fixtures
from bench.harness.measure import interleaved, resident, timed
from bench.harness.result import Device, Row, Target, one_sided
from bench.harness.served_app import Served, served
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace
from ui.payloads import run_list
from ui.server import live_updates

QUESTION = "How soon is the page there, what does the app take when idle, and how long do 1,000 runs take?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[Row, ...] = ()
SETTLE_SECONDS = 3.0


def run(device: Device, tiny: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        return [*started(place, tiny), *many(Workspace(place / "many"), 20 if tiny else 1000)]


def started(place: Path, tiny: bool) -> list[Row]:
    """Starts (the first one warms the disk's cache), then one app left alone."""
    ready, idle, memory = list[float](), 0.0, 0.0
    for turn in range(1 if tiny else 4):
        with served(place / f"app-{turn}") as app:
            ready.append(app.ready_seconds)
            if turn == (0 if tiny else 3):
                idle, memory = left_alone(app, 2.0 if tiny else 20.0)
    warm = ready[1:] or ready
    return [
        one_sided("app", "Command to page ready, warm", "s", warm, target=Target("ours", "≤", 5)),
        Row("app", "Idle, of one core", "%", 100 * idle, target=Target("ours", "≤", 1), n=1),
        Row("app", "Resident memory when idle", "MB", memory, target=Target("ours", "≤", 400), n=1),
    ]


def left_alone(app: Served, seconds: float) -> tuple[float, float]:
    """The share of a core and the MB that it takes with no page open."""
    time.sleep(SETTLE_SECONDS)
    before, began = app.processor_seconds, time.monotonic()
    time.sleep(seconds)
    return (app.processor_seconds - before) / (time.monotonic() - began), resident(app.process.pid)


def many(workspace: Workspace, count: int) -> list[Row]:
    """Runs of 40 steps: reading them all at the start, listing them for a page, and a round of the supervisor."""
    fixtures.copies(fixtures.run(workspace, "first", 40), count - 1)
    kept: list[Supervisor] = []

    def opening() -> float:
        return timed(lambda: kept.append(Supervisor(workspace, device="cpu")))

    def listing() -> float:
        rows = run_list.Rows(kept[-1])
        return timed(lambda: live_updates.news(kept[-1], live_updates.Cursor(tab="runs"), rows))

    found = interleaved({"open": opening, "list": listing, "look": lambda: timed(kept[-1].look)}, 3)
    return [
        one_sided("app", f"{count:,} runs read at the start", "CPU-s", found["open"]),
        one_sided("app", f"{count:,} runs listed", "CPU-s", found["list"], target=Target("ours", "≤", 0.5)),
        one_sided("app", f"A round of the supervisor over {count:,} runs", "CPU-s", found["look"]),
    ]
