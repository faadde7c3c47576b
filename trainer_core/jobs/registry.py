"""The runs of a workspace and the loaded lanes.

All state comes from the folders: a restarted app finds the same runs in the same states, and attaches to live ones.
"""

from __future__ import annotations

import threading
from pathlib import Path

from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Recipe
from trainer_core.errors import BusyError, ModelError
from trainer_core.jobs.comparison import CompareSession
from trainer_core.jobs.run_watcher import RunWatcher, refresh_watchers
from trainer_core.runs import checkpoints, run_folder, trash
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace


class RunRegistry:
    """All runs by id, and the newest comparison."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.watchers: dict[str, RunWatcher] = {}
        self.comparison: CompareSession | None = None
        self.last_error = ""
        """A traceback, without secrets: the page shows it."""
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Refresh every state from its folder."""
        with self._lock:
            self.last_error = refresh_watchers(self.watchers, self.workspace.runs)
        self.refresh_comparison()

    def refresh_comparison(self) -> None:
        if self.comparison:
            self.comparison.refresh()

    def add_run(self, run_id: str, watcher: RunWatcher) -> None:
        """Add or replace a run, with the worker started for it."""
        with self._lock:
            self.watchers[run_id] = watcher

    def trash_run(self, run_id: str) -> None:
        """Move a run's folder to the trash and forget it, under the lock, so that no refresh comes between.

        Raises:
            DiskError: it cannot be moved.
        """
        with self._lock:
            trash.trash_run(self.workspace, self.run_dir(run_id))
            del self.watchers[run_id]

    @property
    def run_states(self) -> list[RunState]:
        """All runs, newest first."""
        return [self.watchers[name].state for name in sorted(self.watchers, reverse=True)]

    @property
    def current_run(self) -> RunState | None:
        """The run to show: the active one, else the newest."""
        states = self.run_states
        return next((state for state in states if state.phase.is_active), states[0] if states else None)

    @property
    def active_run(self) -> RunState | None:
        return next((state for state in self.run_states if state.phase.is_active), None)

    def run_state(self, run_id: str) -> RunState:
        return self.watchers[run_id].state

    def run_dir(self, run_id: str) -> Path:
        return self.watchers[run_id].run_dir

    def run_file(self, run_id: str) -> run_folder.RunFile:
        return run_folder.read_run(self.run_dir(run_id))

    def run_recipe(self, run_id: str) -> Recipe:
        """The recipe of a run.

        Raises:
            ModelError: not a training run.
        """
        job = run_folder.train_job_of(self.run_file(run_id))
        if job is None:
            raise ModelError("run_registry.other_job", run=run_id)
        return job.recipe

    def run_lanes(self, run_id: str) -> tuple[Lane, ...]:
        """The base and every adapter of a run, as lanes."""
        adapters = [
            Lane(name=stage.upper(), adapter=str(self.run_dir(run_id) / folder))
            for stage, folder in self.run_state(run_id).adapters.items()
        ]
        return (Lane(name="Base"), *adapters)

    def require_idle(self) -> None:
        """Allow one job on the device at a time.

        Raises:
            BusyError: names the active run.
        """
        if active := self.active_run:
            raise BusyError("run_registry.busy", run=active.id)

    def repair_run(self, run_id: str) -> None:
        """Finish or undo half-done writes of a crashed process, unless a worker is alive."""
        if not self.run_state(run_id).phase.is_active:
            checkpoints.clean_run_leftovers(self.run_dir(run_id))
