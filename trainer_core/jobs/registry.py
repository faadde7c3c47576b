"""The runs of a workspace and the loaded lanes.

All state comes from the folders: a restarted app finds the same runs in the same states, and attaches to live ones.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import cast

from trainer_core.config.jobs import ImportJob, Lane
from trainer_core.config.recipe import Precision, Recipe
from trainer_core.errors import BusyError, ModelError, UserError
from trainer_core.jobs.comparison import CompareSession
from trainer_core.jobs.run_watcher import RunWatcher, refresh_watchers
from trainer_core.runs import checkpoints, import_origin, run_folder, trash
from trainer_core.runs.import_origin import Origin
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text

IMPORTED = " · imported"
"""Ends the name of a lane that was trained elsewhere."""


class RunRegistry:
    """All runs by id, and the newest comparison."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.watchers: dict[str, RunWatcher] = {}
        self.imports: dict[str, RunWatcher] = {}
        """What was trained elsewhere, by the id of its import."""
        self.comparison: CompareSession | None = None
        self.last_error = ""
        """A traceback, without secrets: the page shows it."""
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Refresh every state from its folder."""
        with self._lock:
            troubles = (
                refresh_watchers(self.watchers, self.workspace.runs),
                refresh_watchers(self.imports, self.workspace.imports),
            )
            self.last_error = next(filter(None, troubles), "")
        self.refresh_comparison()

    def refresh_comparison(self) -> None:
        if self.comparison:
            self.comparison.refresh()

    def add_run(self, run_id: str, watcher: RunWatcher) -> None:
        """Add or replace a run, with the worker started for it."""
        with self._lock:
            self.watchers[run_id] = watcher

    def add_import(self, import_id: str, watcher: RunWatcher) -> None:
        with self._lock:
            self.imports[import_id] = watcher

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

    @property
    def import_states(self) -> list[RunState]:
        """All imports, newest first."""
        return [self.imports[name].state for name in sorted(self.imports, reverse=True)]

    def run_state(self, run_id: str) -> RunState:
        """The state of a run or an import."""
        return self.find_watcher(run_id).state

    def run_dir(self, run_id: str) -> Path:
        """The folder of a run or an import."""
        return self.find_watcher(run_id).run_dir

    def find_watcher(self, run_id: str) -> RunWatcher:
        return self.imports[run_id] if run_id in self.imports else self.watchers[run_id]

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

    def run_base(self, run_id: str) -> tuple[str, Precision]:
        """The base of a run or an import, and its precision.

        Raises:
            UserError: its run.json or its origin cannot be read.
        """
        if run_id in self.imports:
            folder, origin = self.read_import(run_id)
            return (origin.base if origin.kind == "adapter" else str(folder)), "auto"
        recipe = self.run_recipe(run_id)
        return recipe.model, cast(Precision, self.run_state(run_id).effective_value("precision", recipe.precision))

    def find_run_base(self, run_id: str) -> tuple[str, Precision] | None:
        """The base of a run or an import; None if its files are unreadable, an error shown with it."""
        try:
            return self.run_base(run_id)
        except UserError:
            return None

    def read_import(self, import_id: str) -> tuple[Path, Origin]:
        """The folder with an import's files, and where they came from.

        Raises:
            ModelError: it is not complete, or its origin is damaged.
        """
        folder = import_origin.find_import(self.run_dir(import_id))
        if folder is None:
            raise ModelError("imports.incomplete", name=self.import_name(import_id))
        return folder, import_origin.read_origin(folder)

    def import_name(self, import_id: str) -> str:
        """The name that an import was given; its id if its run.json is unreadable."""
        try:
            job = self.run_file(import_id).job
        except UserError:
            return import_id
        return job.name if isinstance(job, ImportJob) else import_id

    def describe_import(self, import_id: str) -> tuple[Text, ...]:
        """Where an import came from, and what may make it answer differently there."""
        _, origin = self.read_import(import_id)
        source = " @ ".join(filter(None, (origin.source, origin.commit[:7])))
        facts = {"name": self.import_name(import_id), "source": source, "date": origin.date}
        if origin.kind == "model":
            return (Text("imports.model_origin", **facts),)
        told = [Text("imports.adapter_origin", base=origin.base, **facts)]
        if origin.named_base not in ("", origin.base, Path(origin.base).name):
            told.append(Text("imports.other_base", named=origin.named_base))
        if origin.own_template:
            told.append(Text("imports.own_template"))
        return tuple(told)

    def run_lanes(self, run_id: str) -> tuple[Lane, ...]:
        """The base and every adapter of a run or an import, as lanes."""
        if run_id in self.imports:
            return (Lane(name="Base"), *self.import_lanes(run_id))
        adapters = [
            Lane(name=stage.upper(), adapter=str(self.run_dir(run_id) / folder))
            for stage, folder in self.run_state(run_id).adapters.items()
        ]
        return (Lane(name="Base"), *adapters)

    def import_lanes(self, import_id: str) -> tuple[Lane, ...]:
        """The adapter of an import; none for a whole model, which is a base."""
        folder, origin = self.read_import(import_id)
        name = f"{self.import_name(import_id)}{IMPORTED}"
        return (Lane(name=name, adapter=str(folder)),) if origin.kind == "adapter" else ()

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
