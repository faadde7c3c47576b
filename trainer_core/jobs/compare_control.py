"""Opens and closes the one comparison that holds the device."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from trainer_core.config.jobs import CompareJob, Lane
from trainer_core.errors import BusyError
from trainer_core.jobs.comparison import CompareSession
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.run_watcher import RunWatcher
from trainer_core.jobs.spawn import WorkerSpawner
from trainer_core.runs import run_folder


class CompareControl:
    def __init__(self, registry: RunRegistry, spawner: WorkerSpawner):
        self.registry, self.spawner = registry, spawner

    def open_comparison(self, model: str, precision: str, lanes: Sequence[Lane], run: str = "") -> CompareSession:
        """Load these lanes. Reuses an open comparison of the same lanes of the same run; closes any other.

        Raises:
            BusyError: a run holds the device.
            ModelError: the base model is unusable.
        """
        job = CompareJob.model_validate({"model": model, "precision": precision, "lanes": tuple(lanes)})
        with self.spawner.start_lock():
            if active := self.registry.active_run:
                raise BusyError("compare_control.busy", run=active.id)
            current = self.registry.comparison
            if current and (current.job, current.run) == (job, run) and current.state.phase.is_active:
                return current
            self.close_comparison()
            facts = self.spawner.run_file_facts((), model)
            run_dir = run_folder.create_run(self.registry.workspace.compare, job, "", **facts)
            watcher = RunWatcher(run_dir)
            watcher.process = self.spawner.spawn_worker(run_dir, model, stdin=subprocess.PIPE)
            self.registry.comparison = CompareSession(job, watcher, run)
            return self.registry.comparison

    def compare_run(self, run_id: str, lanes: Sequence[Lane] = ()) -> CompareSession:
        """Load the base, SFT and DPO of a run, or other lanes on the same base."""
        with self.spawner.start_lock():
            self.registry.refresh()
            self.registry.repair_run(run_id)
        model, precision = self.registry.run_base(run_id)
        return self.open_comparison(model, precision, lanes or self.registry.run_lanes(run_id), run_id)

    def close_comparison(self) -> None:
        if self.registry.comparison:
            self.registry.comparison.close()
