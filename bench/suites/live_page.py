"""The open page: what goes over the wire each second, what the browser's main thread does with 10,000 points drawn, and how soon
a thousand runs are there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import fixtures
from bench.harness.result import BenchRow, Device, Target, row_against_target
from bench.harness.served_app import ServedApp
from tests.support.app_process import launch_chromium
from trainer_core.runs.workspace import Workspace
from trainer_core.system import project

QUESTION = "What do open pages with 10,000 points cost per second, and how soon are their curves and 1,000 runs drawn?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[BenchRow, ...] = ()
SETTLE_SECONDS = 4.0
CLICK = """() => new Promise(done => {
  const began = performance.now(), drawn = () => document.querySelector("#runs tbody tr")
    ? requestAnimationFrame(() => setTimeout(() => done(performance.now() - began))) : requestAnimationFrame(drawn);
  [...document.querySelectorAll("#tabs button[role=tab]")].find(tab => tab.textContent.trim() === "Runs").click();
  drawn();
})"""
"""Opens Runs, and says after how many milliseconds its rows were painted."""

FOLD = "([id, open]) => { document.getElementById(id).open = open; }"
HIDE = """hidden => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
"""A browser without a window hides no tab, so the page is told that it did."""
WIRE = Target("ours", "≤", 0.5)


@dataclass(frozen=True)
class PageCost:
    """All per second: KB to the app and from it, milliseconds of the main thread, percent of a core of the app."""

    asked: float
    told: float
    thread: float
    server: float


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    points, seconds = (200, 3.0) if tiny else (10_000, 10.0)
    workspace = Workspace(place / "app")
    run_dir = fixtures.make_run(workspace, "long", points)
    with ServedApp(workspace.root) as app, open_browser_page(app) as (page, wire):
        page.wait_for_function("window.tunebench?.getPart('buttons')", timeout=60_000)
        page.get_by_role("tab", name="Train").click()
        quiet = measure_page_cost(app, page, wire, seconds)
        times = [time_reload(page, points) for _ in range(1 if tiny else 5)]
        with grow_run(run_dir, points):
            said = [
                *cost_rows("a step a second", measure_page_cost(app, page, wire, seconds)),
                *view_rows(app, page, wire, seconds),
            ]
            said += four_tab_rows(app, page, wire, seconds)
    runs_drawn = run_list_row(Workspace(place / "many"), 20 if tiny else 1000, 1 if tiny else 3)
    return [*cost_rows("a finished run", quiet), *said, reload_row(times), runs_drawn]


def view_rows(app: ServedApp, page: Any, wire: list[tuple[int, int]], seconds: float) -> list[BenchRow]:
    """The same page with one of its folds open, and where nobody looks at it."""
    said = []
    for fold, when in (("detail-charts", "rate, norm and speed shown"), ("hardware-charts", "the machine shown")):
        page.evaluate(FOLD, [fold, True])
        said += cost_rows(when, measure_page_cost(app, page, wire, seconds))
        page.evaluate(FOLD, [fold, False])
    page.evaluate(HIDE, True)
    said += cost_rows("behind another tab", measure_page_cost(app, page, wire, seconds))
    page.evaluate(HIDE, False)
    return said


def four_tab_rows(app: ServedApp, page: Any, wire: list[tuple[int, int]], seconds: float) -> list[BenchRow]:
    """Four pages at once: what each takes, and what all of them take of the app."""
    more = [page.context.new_page() for _ in range(3)]
    for one in more:
        one.goto(app.address)
        one.wait_for_function("window.tunebench?.getPart('buttons')", timeout=60_000)
        one.get_by_role("tab", name="Train", exact=True).click()
        count_traffic(one, wire)
    found = measure_page_cost(app, page, wire, seconds)
    for one in more:
        one.close()
    each, note = (found.asked + found.told) / 4, "All four show the same run, with a step a second."
    return [
        BenchRow("app", "Four pages open: over the wire, each", "KB/s", each, target=WIRE, n=1, note=note),
        BenchRow("app", "Four pages open: the app, of one core", "%", found.server, n=1),
    ]


def run_list_row(workspace: Workspace, count: int, turns: int) -> BenchRow:
    """From the click on Runs until rows are on the screen, each time in a page that has not shown them."""
    fixtures.copy_run(fixtures.make_run(workspace, "first", 40), count - 1)
    times = []
    with ServedApp(workspace.root) as app, open_browser_page(app) as (page, _):
        for _ in range(turns):
            page.reload()
            page.wait_for_function("window.tunebench?.getPart('buttons')", timeout=60_000)
            page.get_by_role("tab", name="Train", exact=True).click()  # which a reload opens again
            page.wait_for_timeout(1000 * SETTLE_SECONDS)
            times.append(page.evaluate(CLICK) / 1000)
            page.get_by_role("tab", name="Train", exact=True).click()
            page.wait_for_timeout(1500)  # the page remembers it
    return row_against_target(
        "app", f"{count:,} runs: click to rows drawn", "s", times, target=Target("ours", "≤", 0.5)
    )


def time_reload(page: Any, points: int) -> tuple[float, float]:
    """Seconds from a reload until the same tab is back with its curves drawn, and until the page's own script runs."""
    began = time.monotonic()
    page.reload(wait_until="commit")
    page.wait_for_function("window.tunebench?.points !== undefined", polling=10)
    script = time.monotonic() - began
    tab = "document.querySelector('#tabs button[aria-selected=true]')?.textContent.trim()"
    back = f"n => tunebench.points >= n && {tab} === 'Train' && document.querySelector('#charts path.soft')"
    page.wait_for_function(back, arg=points, polling=10)
    return time.monotonic() - began, script


def reload_row(times: list[tuple[float, float]]) -> BenchRow:
    whole, script = zip(*times, strict=True)
    note = f"{median(script):.2f} s of it until the first line of the page's script runs."
    return row_against_target(
        "app", "Page restored after a reload", "s", whole, target=Target("ours", "≤", 1), note=note
    )


def cost_rows(when: str, cost: PageCost) -> list[BenchRow]:
    note = f"Bodies alone, without headers: {cost.asked:.2f} KB/s of questions, {cost.told:.2f} KB/s of answers."
    return [
        BenchRow(
            "app", f"Page open, {when}: over the wire", "KB/s", cost.asked + cost.told, target=WIRE, n=1, note=note
        ),
        BenchRow("app", f"Page open, {when}: main thread", "ms/s", cost.thread, target=Target("ours", "≤", 100), n=1),
        BenchRow("app", f"Page open, {when}: the app, of one core", "%", cost.server, n=1),
    ]


@contextmanager
def grow_run(run_dir: Path, points: int) -> Iterator[None]:
    """The run goes on with a step each second."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "bench.harness.fake_run", run_dir, str(points)], cwd=project.PROJECT
    )
    try:
        yield
    finally:
        worker.terminate()
        worker.wait()


@contextmanager
def open_browser_page(app: ServedApp) -> Iterator[tuple[Any, list[tuple[int, int]]]]:
    """The page in Chromium, and a list that grows by the bytes of every request and answer."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        page = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
        wire: list[tuple[int, int]] = []
        page.goto(app.address)
        count_traffic(page, wire)
        yield page, wire
        browser.close()


def count_traffic(page: Any, wire: list[tuple[int, int]]) -> None:
    def count(request: Any) -> None:
        if request.response():
            sizes = request.sizes()
            wire.append((sizes["requestBodySize"], sizes["responseBodySize"]))

    page.on("requestfinished", count)


def measure_page_cost(app: ServedApp, page: Any, wire: list[tuple[int, int]], seconds: float) -> PageCost:
    """Measured over so many seconds, after the page has settled."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.wait_for_timeout(1000 * SETTLE_SECONDS)
    wire.clear()
    before, spent, began = main_thread_seconds(session), app.processor_seconds, time.monotonic()
    page.wait_for_timeout(1000 * seconds)
    waited = time.monotonic() - began
    thread = 1000 * (main_thread_seconds(session) - before) / waited
    asked, told = (sum(side) / 1000 / waited for side in zip(*wire or [(0, 0)], strict=True))
    return PageCost(asked, told, thread, 100 * (app.processor_seconds - spent) / waited)


def main_thread_seconds(session: Any) -> float:
    """Seconds that the page's main thread has worked so far, by the browser's own count."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))
