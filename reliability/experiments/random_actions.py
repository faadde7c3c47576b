"""A life of clicks and accidents: create, start, stop, pause, kill, reload, delete and resume in any order."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.support.scripted import find_workers, scripted_app
from trainer_core.config.recipe import Recipe
from trainer_core.errors import UserError
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.supervisor import Supervisor, wait_for
from trainer_core.runs import run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.workspace import Workspace

QUESTION = (
    "A random sequence of starts, stops, pauses, kills, restarts of the app, deletions and resumes with scripted workers. After "
    "each step: at most one worker, a state for every run that its folder and processes bear out, within 100 looks of the app, "
    "50 ms apart."
)
SPEED = 60
SETTLED_LOOKS, LOOK_SECONDS = 100, 0.05
"""A busy machine takes more time for a look, but no more of them."""
WAIT_SECONDS = 600.0
"""For what must happen at last, on however busy a machine."""
STEPS = 50


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    lives, steps = (2, 20) if quick else (44, STEPS)
    WorkspaceMachine.steps, WorkspaceMachine.failure = 0, ""
    try:
        run_state_machine_as_test(
            WorkspaceMachine,
            settings=settings(
                max_examples=lives,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except (AssertionError, HypothesisException, ExceptionGroup):
        if not WorkspaceMachine.failure:
            raise
    failure = WorkspaceMachine.failure
    count = TrialCount(WorkspaceMachine.steps, int(bool(failure)), failure or f"({lives} lives)")
    blind = count_trials([UnwatchedMachine().after_a_kill() for _ in range(1 if quick else 10)])
    yield Proof("Every state is legal after every step", count, "an app that believes the events alone", blind)


class WorkspaceMachine(RuleBasedStateMachine):
    """One workspace and the app on it, which may be started anew at any time."""

    steps = 0
    failure = ""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory(prefix="proof-")
        self.workspace = Workspace(Path(self.place.name))
        self.app = self.open_app()

    def open_app(self) -> Supervisor:
        return scripted_app(self.workspace.root, SPEED)

    def ids(self) -> list[str]:
        return [view.id for view in self.app.registry.run_states]

    @rule(name=st.sampled_from(["quick", "slow", "fails", "killed"]))
    def start(self, name: str) -> None:
        """Refused while another run is at work. That one may end before it is looked at, and its process a moment later."""
        busy = self.app.registry.active_run
        try:
            self.app.control.start(Recipe(name=name))
        except UserError:
            return
        self.app.registry.refresh()
        if busy and self.app.registry.run_state(busy.id).phase.is_active:
            self.fail(f"started beside {busy.id}, which is at work")

    @rule(at=st.integers(0, 11), what=st.sampled_from(["stop", "pause", "resume", "move_to_trash", "extend"]))
    def click(self, at: int, what: str) -> None:
        """At one of the runs there are: how many that is depends on the clock, so it must not be what is drawn from."""
        if ids := self.ids():
            with suppress(UserError):
                getattr(self.app.control, what)(ids[at % len(ids)])

    @rule()
    def kill(self) -> None:
        for process in find_workers(self.place.name):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    @rule()
    def reload(self) -> None:
        self.app.close()
        self.app = self.open_app()

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0]))
    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    @invariant()
    def check_states(self) -> None:
        WorkspaceMachine.steps += 1
        for _ in range(SETTLED_LOOKS):
            self.app.registry.refresh()
            said = self.state_error()
            if not said:
                return
            time.sleep(LOOK_SECONDS)
        self.fail(said)

    def fail(self, said: str) -> NoReturn:
        """Keeps the words: Hypothesis repeats what failed, and where that goes well it tells nothing but that."""
        WorkspaceMachine.failure = said
        raise AssertionError(said)

    def state_error(self) -> str:
        """What is wrong now, or nothing."""
        active = [view.id for view in self.app.registry.run_states if view.phase.is_active]
        alive = self.count_workers()
        if alive > 1 or len(active) > 1:
            return f"{alive} workers, at work by their state: {active}"
        if alive and not active:
            return "a worker that no run knows"
        if active and not alive:
            return f"{active[0]} is {self.app.registry.run_state(active[0]).phase.value} without a worker"
        folders = {folder.name for folder in run_folder.list_runs(self.workspace.runs)}
        if folders != set(self.ids()):
            return f"runs {self.ids()}, folders {sorted(folders)}"
        unsound = [view.id for view in self.app.registry.run_states if view.phase is Phase.DONE and not view.adapters]
        return f"done without an adapter: {unsound}" if unsound else ""

    def count_workers(self) -> int:
        return len(find_workers(self.place.name))

    def teardown(self) -> None:
        self.kill()
        self.app.close()
        wait_for(lambda: self.count_workers() == 0, WAIT_SECONDS)
        with suppress(OSError):
            self.place.cleanup()


class UnwatchedMachine(WorkspaceMachine):
    """The control: nobody asks whether a worker lives."""

    def open_app(self) -> Supervisor:
        app = super().open_app()
        app.registry = TrustingRegistry(self.workspace)
        return app

    def after_a_kill(self) -> str:
        """What is wrong with the states after a worker was killed, or nothing."""
        self.app.control.start(Recipe(name="slow"))
        assert wait_for(lambda: self.count_workers() > 0, WAIT_SECONDS)
        self.kill()
        try:
            self.check_states()
        except AssertionError as error:
            return str(error)
        finally:
            self.teardown()
        return ""


class TrustingRegistry(RunRegistry):
    def refresh(self) -> None:
        super().refresh()
        for watcher in self.watchers.values():
            watcher.state = watcher._folded
