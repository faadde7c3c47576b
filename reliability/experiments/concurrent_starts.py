"""Many starts at once: two tabs, two apps, a double click. Exactly one run may come of it each time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reliability.harness.claim import Proof, count_trials
from tests.support.scripted import scripted_app, scripted_command
from trainer_core.config.recipe import Recipe
from trainer_core.errors import UserError
from trainer_core.jobs.run_control import RunControl
from trainer_core.jobs.spawn import WorkerSpawner
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.runs.events import Phase

QUESTION = "Starts at the same moment from two apps with two tabs each: how many runs train, and are the others refused in words?"
SPEED = 400
CLICKS = 2
WAIT_SECONDS = 600.0
"""For the end of the run, on however busy a machine."""


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    count = 2 if quick else 200
    ours = [race_starts(folder / f"{trial}", scripted_app) for trial in range(count)]
    control = [race_starts(folder / f"c{trial}", open_unlocked_app) for trial in range(count // 10 or 2)]
    without = "without the lock that other processes see"
    yield Proof("Of four starts at once exactly one trains", count_trials(ours), without, count_trials(control))


def open_unlocked_app(folder: Path, speed: float) -> Supervisor:
    """An app that thinks it is the only process on its workspace."""
    app = scripted_app(folder, speed)
    spawner = UnlockedSpawner(app.registry, app.device, scripted_command(speed), ahead=False)
    app.control = RunControl(app.registry, spawner, app.compare)
    return app


class UnlockedSpawner(WorkerSpawner):
    @contextmanager
    def start_lock(self) -> Iterator[None]:
        with self._starting:
            yield


def race_starts(folder: Path, open_app: Callable[[Path, float], Supervisor]) -> str:
    """What went wrong, or nothing."""
    apps = [open_app(folder, SPEED) for _ in range(2)]
    said: list[str] = []
    gate = threading.Barrier(len(apps) * CLICKS)

    def click(app: Supervisor) -> None:
        gate.wait()
        try:
            app.control.start(Recipe(name="raced"))
        except UserError as error:
            said.append(str(error))

    tabs = [threading.Thread(target=click, args=(app,)) for app in apps for _ in range(CLICKS)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()

    def over() -> bool:
        for app in apps:
            app.registry.refresh()
        return not any(app.registry.active_run for app in apps)

    if not wait_for(over, WAIT_SECONDS):
        return "a run did not come to its end"
    views = apps[0].registry.run_states
    done = [view for view in views if view.phase is Phase.DONE]
    refused = [view for view in views if view.phase is Phase.FAILED and view.error.code == "device.busy"]
    for app in apps:
        app.close()
    if len(done) != 1 or len(done) + len(refused) != len(views) or len(said) + len(views) != len(tabs):
        return f"{[(view.phase, view.error) for view in views]}, refused: {said}"
    return ""
