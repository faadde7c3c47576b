"""Starts and removes imports: adapters and models that were trained elsewhere. Each is a worker of its own, like an export."""

from __future__ import annotations

import subprocess
from pathlib import Path

from trainer_core.config.jobs import ImportJob
from trainer_core.errors import BusyError, ConfigError
from trainer_core.jobs.compare_control import CompareControl
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.run_watcher import RunWatcher
from trainer_core.jobs.spawn import WorkerSpawner
from trainer_core.models import foreign_files, resolve
from trainer_core.runs import checkpoints, control, run_folder, trash
from trainer_core.runs.events import Phase
from trainer_core.schema import parse_values
from trainer_core.system import hardware


class ImportControl:
    def __init__(self, registry: RunRegistry, spawner: WorkerSpawner, compare: CompareControl):
        self.registry, self.spawner, self.compare = registry, spawner, compare

    def start(self, source: str, name: str = "", base: str = "") -> str:
        """Start an import and return its id.

        Args:
            source: a folder, or a Hub id. name: empty: that of the source.
            base: the base of an adapter; empty: the one that the adapter names.

        Raises:
            ConfigError: a name that no lane can have, or one that is taken.
            ModelError: there is no such folder.
        """
        source = source.strip()
        values = {"source": source, "name": name.strip() or default_name(source), "base": base.strip()}
        job = parse_values(ImportJob, values, "import")
        if not resolve.is_hub_id(job.source):
            foreign_files.open_folder(job.source)
        with self.spawner.start_lock():
            self.registry.refresh()
            self.require_free_name(job.name)
            facts = self.spawner.run_file_facts((), job.base)
            run_dir = run_folder.create_run(self.registry.workspace.imports, job, job.name, **facts)
            watcher = RunWatcher(run_dir)
            watcher.process = self.spawner.spawn_worker(
                run_dir, network_model(job), subprocess.DEVNULL, hardware.NO_CARD
            )
            self.registry.add_import(run_dir.name, watcher)
            return run_dir.name

    def require_free_name(self, name: str) -> None:
        """Two imports with one name would be one lane.

        Raises:
            ConfigError: another import has it.
        """
        for state in self.registry.import_states:
            same = self.registry.import_name(state.id).lower() == name.lower()
            if same and (state.phase.is_active or state.phase is Phase.DONE):
                raise ConfigError("imports.name_taken", name=name)

    def stop(self, import_id: str) -> None:
        control.send_request(self.registry.run_dir(import_id), "stop")

    def remove(self, import_id: str) -> None:
        """Move an import to the trash.

        Raises:
            BusyError: it is at work, or a run was trained on it.
            DiskError: it cannot be moved.
        """
        with self.spawner.start_lock():
            self.registry.refresh()
            run_dir = self.registry.run_dir(import_id)
            if self.registry.run_state(import_id).phase.is_active:
                raise BusyError("imports.active", name=self.registry.import_name(import_id))
            if users := [one for one in self.registry.watchers if self.uses_folder(one, run_dir)]:
                raise BusyError("imports.in_use", name=self.registry.import_name(import_id), run=users[0])
            current = self.registry.comparison
            folders = [folder for lane in current.job.lanes for folder in lane.adapter_folders] if current else []
            if current and any(Path(one).is_relative_to(run_dir) for one in (current.job.model, *folders)):
                self.compare.close_comparison()
            checkpoints.clean_run_leftovers(run_dir)
            trash.trash_run(self.registry.workspace, run_dir)
            del self.registry.imports[import_id]

    def uses_folder(self, run_id: str, folder: Path) -> bool:
        base = self.registry.find_run_base(run_id)
        return base is not None and Path(base[0]).is_relative_to(folder)


def default_name(source: str) -> str:
    """The last part of a path or of a Hub id, as a name can be."""
    return run_folder.slugify_name(Path(source).name)


def network_model(job: ImportJob) -> str:
    """The model that decides whether the worker may reach the Hub: one there, unless all is on this computer."""
    named = [] if job.base or resolve.is_hub_id(job.source) else [foreign_files.named_base(Path(job.source))]
    return next((name for name in (job.source, job.base, *named) if resolve.is_hub_id(name)), job.source)
