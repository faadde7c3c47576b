"""An app with a scripted worker, without a page, and waiting for what its runs do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from trainer_core.jobs.stall import STOP_TIMEOUTS, StopTimeouts
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace


def scripted_command(speed: float | str) -> tuple[str, ...]:
    """The command of a worker that plays so many steps a second."""
    return sys.executable, "-m", "tests.support.fake_worker", str(speed)


def scripted_app(folder: Path, speed: float = 50, patience: StopTimeouts = STOP_TIMEOUTS) -> Supervisor:
    return Supervisor(Workspace(folder), scripted_command(speed), device="cpu", patience=patience)


def finish_runs(folder: Path, *names: str) -> list[str]:
    """The ids of runs of the starter's recipe that have ended; how each behaved is its name."""
    app, ids = scripted_app(folder, 1000), []
    for name in names:
        ids.append(app.control.start(starter_recipe().model_copy(update={"name": name})))
        assert wait_for_run(app, ids[-1], lambda state: not state.phase.is_active, 60)
    app.close()
    return ids


def wait_for_run(app: Supervisor, run_id: str, condition: Callable[[RunState], bool], seconds: float) -> bool:
    """Has the run's state become so within the time?"""

    def reached() -> bool:
        app.registry.refresh()
        return condition(app.registry.run_state(run_id))

    return wait_for(reached, seconds)


def find_workers(name: str) -> list[psutil.Process]:
    """Living workers whose command names a run or a workspace: the parent where there is one, and the worker."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or [])
        if name in words and "worker" in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
