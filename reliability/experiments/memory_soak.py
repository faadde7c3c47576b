"""Half an hour of use: a run that speaks five times a second, three tabs, a reload a minute. Does the app grow?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from playwright.sync_api import BrowserContext, Page, sync_playwright

from bench.harness import fixtures
from reliability.harness.claim import Figure, TrialCount
from tests.support.app_process import App, launch_chromium
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.runs import run_folder
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import DataPrepared, Notice, Phase, PhaseChanged, StepsPlanned
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import verbatim

QUESTION = (
    "A run with five steps a second, three tabs in a real Chromium, one reloaded each minute, for 30 minutes: does the app's "
    "memory grow by less than 2 % after minute 5, and do its threads and open files stay as many? A figure has no control."
)
MINUTES, WARM = 30.0, 5.0
PER_SECOND = 5
TABS = 3
GROWTH = 0.02


@dataclass(frozen=True)
class ProcessSample:
    """What the app's process takes at a moment: seconds since the start, bytes, and how many threads and files."""

    at: float
    bytes: int
    threads: int
    files: int


def run(folder: Path, quick: bool) -> Iterator[Figure]:
    minutes, warm = (0.4, 0.2) if quick else (MINUTES, WARM)
    looks = list(soak_app(folder / "workspace", minutes * 60, 6.0 if quick else 60.0))
    later = [look for look in looks if look.at >= warm * 60]
    first, last = mean_sample(later[: max(1, len(later) // 10)]), mean_sample(later[-max(1, len(later) // 10) :])
    grown = last.bytes / first.bytes - 1
    text = f"{first.bytes / 2**20:.0f} MB, {grown:+.1%} in {(last.at - first.at) / 60:.1f} min"
    yield Figure("Memory grows by less than 2 %", TrialCount(1, int(grown > (1 if quick else GROWTH)), text))
    spread = f"{first.threads} threads, {first.files} files; then {last.threads} and {last.files}"
    more = last.threads > first.threads + TABS or last.files > first.files + 2 * TABS
    yield Figure("Threads and open files stay as many", TrialCount(1, int(more), spread))


def mean_sample(looks: list[ProcessSample]) -> ProcessSample:
    count = len(looks)
    sums = (sum(getattr(look, name) for look in looks) for name in ("bytes", "threads", "files"))
    return ProcessSample(looks[-1].at, *(round(one / count) for one in sums))


def soak_app(workspace: Path, seconds: float, reload_seconds: float) -> Iterator[ProcessSample]:
    """The app's process, looked at five times a second while it is used."""
    run_dir = run_folder.create_run(Workspace(workspace).runs, TrainJob(recipe=Recipe(name="soak")), "soak")
    with App(workspace, "5") as app, sync_playwright() as playwright, idle_worker(run_dir.name):
        browser = launch_chromium(playwright)
        tabs = open_tabs(browser.new_context(), app)
        yield from sample_tabs(run_dir, tabs, app.process.pid, seconds, reload_seconds)
        browser.close()


@contextmanager
def idle_worker(run_id: str) -> Iterator[None]:
    """A process that stands for the run's worker, so that the app takes the run for one at work."""
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()", "tests.support.fake_worker", run_id]
    with subprocess.Popen(waits, stdin=subprocess.PIPE):
        yield


def open_tabs(context: BrowserContext, app: App) -> list[Page]:
    tabs = [context.new_page() for _ in range(TABS)]
    for at, tab in enumerate(tabs):
        tab.goto(app.root if at else app.address)
        tab.wait_for_selector("#go")
    return tabs


def sample_tabs(
    run_dir: Path, tabs: list[Page], pid: int, seconds: float, reload_seconds: float
) -> Iterator[ProcessSample]:
    """Speaks as a worker does, reloads a tab now and then, and looks at the process."""
    emit, process, began = EventLog(run_dir / "events.jsonl"), psutil.Process(pid), time.monotonic()
    total, reloads = int(seconds * PER_SECOND) + 1, 0
    for event in (
        DataPrepared(300, 300, 10, "0" * 64, ()),
        StepsPlanned({"sft": total}),
        PhaseChanged(Phase.TRAINING, stage="sft"),
    ):
        emit(event)
    for at in range(1, total):
        emit(fixtures.make_step("sft", at, total))
        if at % (60 * PER_SECOND) == 0:
            emit(Notice(verbatim(f"minute {at // 60 // PER_SECOND}")))
        if (now := time.monotonic() - began) > (reloads + 1) * reload_seconds:
            tabs[reloads % TABS].reload()
            reloads += 1
        yield ProcessSample(now, process.memory_info().rss, process.num_threads(), count_open_files(process))
        tabs[0].wait_for_timeout(max(0.0, 1000 * (at / PER_SECOND - (time.monotonic() - began))))


def count_open_files(process: psutil.Process) -> int:
    """Open files and sockets."""
    if sys.platform == "win32":
        return process.num_handles()
    return process.num_fds()
