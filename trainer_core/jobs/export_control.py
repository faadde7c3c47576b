"""Starts, stops and resumes exports. Each is a worker of its own, beside a training run or a comparison."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer_core.config.jobs import ExportJob, Lane, require_free_name
from trainer_core.config.recipe import Sampling
from trainer_core.errors import BusyError, ConfigError
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.run_watcher import RunWatcher, refresh_watchers
from trainer_core.jobs.spawn import WorkerSpawner
from trainer_core.runs import control, run_folder
from trainer_core.runs.run_state import RunState
from trainer_core.schema import parse_values
from trainer_core.system import hardware


@dataclass(frozen=True)
class ExportRequest:
    """What the user asked for: the lane of a run in these forms, as `name` in the folder `out`."""

    run: str
    lane: Lane
    targets: Sequence[str]
    out: Path
    name: str
    repo: str = ""


class ExportControl:
    def __init__(self, registry: RunRegistry, spawner: WorkerSpawner):
        self.registry, self.spawner = registry, spawner
        self.watchers: dict[str, RunWatcher] = {}
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Refresh every export of the workspace from its folder."""
        with self._lock:
            trouble = refresh_watchers(self.watchers, self.registry.workspace.export_jobs)
        self.registry.last_error = trouble or self.registry.last_error

    @property
    def export_states(self) -> list[RunState]:
        """All exports, newest first."""
        return [self.watchers[name].state for name in sorted(self.watchers, reverse=True)]

    def export_state(self, export_id: str) -> RunState:
        return self.watchers[export_id].state

    def export_job(self, export_id: str) -> ExportJob:
        """What an export does.

        Raises:
            ConfigError: its run.json cannot be read, or is of another kind of job.
        """
        found = run_folder.read_run(self.watchers[export_id].run_dir).job
        if not isinstance(found, ExportJob):
            raise ConfigError("export.other_job", export=export_id)
        return found

    def start(self, asked: ExportRequest) -> str:
        """Start an export and return its id.

        Raises:
            ConfigError: an unknown form, a name that no folder can have, or one that is taken.
            BusyError: another export writes the same folder.
            ModelError: the run is no training run, or the import is not complete.
        """
        model, precision = self.registry.run_base(asked.run)
        held_out = self.registry.run_dir(asked.run) / "held-out.jsonl"
        values = {
            "model": model,
            "precision": precision,
            "lane": asked.lane,
            "targets": tuple(asked.targets),
            "out": str(asked.out.resolve()),
            "name": asked.name,
            "sampling": self.find_sampling(asked.run),
            "held_out": str(held_out) if held_out.exists() else "",
            "run": asked.run,
            "repo": asked.repo,
        }
        job = parse_values(ExportJob, values, "export")
        if again := self.find_refused(job):
            self.resume(again)
            return again
        require_free_name(job.folder)
        with self.spawner.start_lock():
            self.refresh()
            self.require_idle(job)
            facts = self.spawner.run_file_facts((), job.model)
            run_dir = run_folder.create_run(self.registry.workspace.export_jobs, job, job.name, **facts)
            return self.spawn(RunWatcher(run_dir), job)

    def find_sampling(self, run: str) -> Sampling:
        """The settings that the run's lanes last answered with in Compare."""
        comparison = self.registry.comparison
        return comparison.sampling if comparison and comparison.run == run else Sampling()

    def find_refused(self, job: ExportJob) -> str:
        """The same export, complete but for a program that did not take its form; empty if there is none."""
        asked = job.model_dump(exclude={"sampling"})
        known = (state.id for state in self.export_states if state.refused_programs and not state.phase.is_active)
        return next((one for one in known if self.export_job(one).model_dump(exclude={"sampling"}) == asked), "")

    def require_idle(self, job: ExportJob) -> None:
        """Two exports never write the same folder at once.

        Raises:
            BusyError: another one does.
        """
        for state in self.export_states:
            if state.phase.is_active and self.export_job(state.id).folder == job.folder:
                raise BusyError("export.in_progress", folder=str(job.folder))

    def stop(self, export_id: str) -> None:
        """End an export after its current step; `resume` goes on with what is complete."""
        control.send_request(self.watchers[export_id].run_dir, "stop")

    def resume(self, export_id: str) -> None:
        """Go on with an export that was stopped, failed or killed, or ask the programs again that did not take it.

        Raises:
            BusyError: it is active, or there is nothing left to do.
        """
        with self.spawner.start_lock():
            self.refresh()
            if not is_resumable(self.export_state(export_id)):
                raise BusyError("export.not_resumable", export=export_id)
            run_dir = self.watchers[export_id].run_dir
            control.clear_request(run_dir)
            self.spawn(RunWatcher.for_resume(run_dir), self.export_job(export_id))

    def spawn(self, watcher: RunWatcher, job: ExportJob) -> str:
        """A worker that sees no card: a training run may need all of its memory. It reaches the Hub if a model there is named."""
        model = job.repo if "hub" in job.targets else job.model
        watcher.process = self.spawner.spawn_worker(watcher.run_dir, model, subprocess.DEVNULL, hardware.NO_CARD)
        with self._lock:
            self.watchers[watcher.run_dir.name] = watcher
        return watcher.run_dir.name


def is_resumable(state: RunState) -> bool:
    return state.phase.is_resumable or bool(state.refused_programs and not state.phase.is_active)
