"""The app killed in the midst of a run, and a worker that is halted: the run goes on, and the page says how it is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.support.scripted import find_workers, scripted_app, wait_for_run
from trainer_core.config.recipe import Recipe
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.runs import heartbeat
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace

QUESTION = (
    "The app killed (SIGKILL) at points all over a run and started again: does the worker go on, is it the only one, and is the "
    "run shown at work at the app's first look, within 3 processor seconds? A worker halted (SIGSTOP): is it shown as stalled "
    "at the first look after 15 s without a heartbeat, and does it go on afterwards?"
)
STEPS = 44
"""Of the scripted worker, in SFT and DPO."""
SPEED = 40
ATTACHED_SECONDS = 3.0
"""Processor seconds of the new app until it shows the run."""
SILENT_SECONDS = 15.0
"""Age of the heartbeat at which a worker must be shown as stalled."""
WAIT_SECONDS = 600.0
"""For what must happen at last, on however busy a machine."""
HALT_SECONDS = 60.0
HALTED = 10
"""Workers halted at the same time, each with an app and a workspace of its own."""
Attach = Callable[[Supervisor, str], None]


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    points = 4 if quick else 50
    ours = [kill_app(folder / f"{at}", STEPS * (at + 0.5) / points, refresh_app) for at in range(points)]
    few = 2 if quick else 10
    control = [kill_app(folder / f"c{at}", STEPS * (at + 0.5) / few, start_run_again) for at in range(few)]
    yield Proof(
        f"A killed app leaves its run alone and finds it within {ATTACHED_SECONDS:.0f} processor seconds",
        count_trials(ours),
        "an app that starts its run anew",
        TrialCount(few, sum(map(bool, control))),
    )
    seconds, count = (16.0, 2) if quick else (HALT_SECONDS, HALTED)
    with ThreadPoolExecutor(count) as pool:
        halts = list(pool.map(lambda at: halt_worker(folder / f"h{at}", seconds), range(count)))
    yield Proof(
        f"A halted worker is shown as stalled after {SILENT_SECONDS:.0f} s without a heartbeat, and goes on",
        count_trials([ours for ours, _ in halts]),
        "the same workers judged by whether their process is there",
        count_trials([control for _, control in halts]),
    )


def refresh_app(app: Supervisor, run_id: str) -> None:
    """What our app does with a run it finds: it looks."""


def start_run_again(app: Supervisor, run_id: str) -> None:
    """The control: what was going is started once more, without asking whether it still goes."""
    app.registry.watchers[run_id].process = app.spawner.spawn_worker(app.registry.run_dir(run_id), "starter", -3)


def first_app(folder: Path, name: str) -> tuple[int, str]:
    """An app in a process of its own that has started a run and watches it; its process id and the run's."""
    told, said = os.pipe()
    child = os.fork()
    if child == 0:
        app = scripted_app(folder, SPEED).watch()
        os.write(said, app.control.start(Recipe(name=name)).encode())
        os.close(said)
        signal.pause()
        os._exit(0)
    os.close(said)
    with os.fdopen(told) as pipe:
        return child, pipe.read()


def kill_app(folder: Path, step: float, attach: Attach) -> str:
    """The app killed at a step of its run, and another in its place. What went wrong, or nothing."""
    child, run_id = first_app(folder, "orphaned")
    run_dir = Workspace(folder).runs / run_id
    log = run_dir / "events.jsonl"
    reached = wait_for(
        lambda: log.exists() and log.read_bytes().count(b'"kind": "TrainStep"') >= step - 1, WAIT_SECONDS, 0.01
    )
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    before, began = workers(run_id), time.process_time()
    app = scripted_app(folder, SPEED)
    seconds = time.process_time() - began
    found = app.registry.run_state(run_id)
    attach(app, run_id)
    return (
        ("" if reached else "the run did not come to that step")
        or check_shown_state(found, before, seconds, step)
        or check_run_end(app, run_id, before)
    )


def check_shown_state(view: RunState, before: set[int], seconds: float, step: float) -> str:
    """Is the run shown as it is, in time?"""
    if seconds > ATTACHED_SECONDS:
        return f"step {step:.0f}: found after {seconds:.1f} processor seconds"
    if view.phase.is_active or not before:
        return ""
    return "" if view.phase is Phase.DONE else f"step {step:.0f}: shown as {view.phase}, {view.error}"


def check_run_end(app: Supervisor, run_id: str, before: set[int]) -> str:
    """The run must end, with every step once, by the worker that began it."""
    others: set[int] = set()

    def over() -> bool:
        others.update(workers(run_id) - before)
        app.registry.refresh()
        return not app.registry.run_state(run_id).phase.is_active and not workers(run_id)

    if not wait_for(over, WAIT_SECONDS, 0.1):
        return "the run did not come to its end"
    view = app.registry.run_state(run_id)
    steps = [(point.stage, point.step) for point in view.points]
    said = (app.registry.run_dir(run_id) / "events.jsonl").read_bytes().count(b'"kind": "TrainStep"')
    if others:
        return f"{len(others)} further workers"
    if view.phase is not Phase.DONE or len(steps) != STEPS or said != STEPS:
        return f"{view.phase} after {said} steps, {len(steps)} of them shown: {view.error}"
    return ""


def workers(run_id: str) -> set[int]:
    return {one.pid for one in find_workers(run_id)}


def halt_worker(folder: Path, seconds: float) -> tuple[str, str]:
    """The worker may not run for so long. What went wrong in our app, and in one that looks at the process alone."""
    app = scripted_app(folder, SPEED)
    run_id = app.control.start(Recipe(name="slow"))
    if not wait_for_run(app, run_id, lambda view: len(view.points) > 3, WAIT_SECONDS):
        return "the run did not begin", ""
    began, halt = time.monotonic(), find_workers(run_id)
    for process in halt:
        process.suspend()
    beat = app.registry.run_dir(run_id) / "heartbeat.json"
    wait_for(lambda: heartbeat.seconds_since_write(beat) > SILENT_SECONDS, WAIT_SECONDS)
    app.registry.refresh()
    shown = bool(app.registry.run_state(run_id).stalled)
    wait_for(lambda: time.monotonic() - began > seconds, seconds)
    active, there = app.registry.run_state(run_id).phase.is_active, all(psutil.pid_exists(one.pid) for one in halt)
    for process in halt:
        process.resume()
    ended = wait_for_run(app, run_id, lambda view: view.phase is Phase.DONE and not view.stalled, WAIT_SECONDS)
    wrong = "" if shown and active and ended else f"shown {shown}, still called active {active}, at its end {ended}"
    return wrong, "its process is there, so it is called running" if there else ""
