"""The open page: what goes over the wire each second, and what the browser's main thread does, with 10,000 points drawn."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import make
from bench.result import Device, Row, Target
from bench.served import Served, served
from trainer_core import runs
from trainer_core.events import EventLog, Phase, Status

QUESTION = "What does an open page cost per second, over the wire and in the browser, with 10,000 points on its charts?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[Row, ...] = ()
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
FLAGS = ["--no-sandbox", "--disable-gpu"]
SETTLE_SECONDS = 4.0

Cost = tuple[float, float, float]
"""KB over the wire, milliseconds of the main thread and percent of a core of the app, all per second."""


def run(device: Device, tiny: bool) -> list[Row]:
    points, seconds = (200, 3.0) if tiny else (10_000, 20.0)
    with tempfile.TemporaryDirectory() as scratch:
        workspace = runs.Workspace(Path(scratch) / "app")
        run_dir = make.run(workspace, "long", points)
        with served(workspace.root) as app, opened(app) as (page, wire):
            page.wait_for_function("window.tunebench?.is('gates')", timeout=60_000)
            page.get_by_role("tab", name="Train").click()
            quiet = cost(app, page, wire, seconds)
            busy = growing(run_dir, lambda: cost(app, page, wire, seconds), points)
    return rows("a finished run", quiet) + rows("a step a second", busy)


def rows(when: str, cost: Cost) -> list[Row]:
    wire, thread, server = cost
    note = "Bodies of requests and answers; headers not counted."
    return [
        Row("app", f"Page open, {when}: over the wire", "KB/s", wire, target=Target("ours", "≤", 0.5), n=1, note=note),
        Row("app", f"Page open, {when}: main thread", "ms/s", thread, target=Target("ours", "≤", 150), n=1),
        Row("app", f"Page open, {when}: the app, of one core", "%", server, n=1),
    ]


def growing(run_dir: Path, measure: Callable[[], Cost], points: int) -> Cost:
    """What it costs while the run makes a step each second: it is given back its life, and this process is its worker."""
    ended = threading.Event()

    def work() -> None:
        emit, at = EventLog(run_dir / "events.jsonl"), points
        emit(Status(Phase.DPO, ""))
        while not ended.wait(1.0):
            at += 1
            emit(make.step("dpo", at, 2 * points))

    thread = threading.Thread(target=work, daemon=True)
    with runs.beating(run_dir):
        thread.start()
        try:
            return measure()
        finally:
            ended.set()
            thread.join()


@contextmanager
def opened(app: Served) -> Iterator[tuple[Any, list[int]]]:
    """The page in Chromium, and a list that grows by the bytes of every request and answer."""
    from playwright.sync_api import Response, sync_playwright

    path = os.environ.get("TUNEBENCH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        wire: list[int] = []

        def count(response: Response) -> None:
            sizes = response.request.sizes()
            wire.append(sizes["requestBodySize"] + sizes["responseBodySize"])

        page.goto(app.link)
        page.on("requestfinished", lambda request: count(found) if (found := request.response()) else None)
        yield page, wire
        browser.close()


def cost(app: Served, page: Any, wire: list[int], seconds: float) -> Cost:
    """Measured over so many seconds, after the page has settled."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.wait_for_timeout(1000 * SETTLE_SECONDS)
    wire.clear()
    before, spent, began = tasks(session), app.processor_seconds, time.monotonic()
    page.wait_for_timeout(1000 * seconds)
    waited = time.monotonic() - began
    thread = 1000 * (tasks(session) - before) / waited
    return sum(wire) / 1000 / waited, thread, 100 * (app.processor_seconds - spent) / waited


def tasks(session: Any) -> float:
    """Seconds that the page's main thread has worked so far, by the browser's own count."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))
