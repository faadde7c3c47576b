"""Start, stop, pause, kill, resume, extend, trash a run, and use an earlier step of it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from filelock import Timeout

from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import METHODS, STARTER, Recipe
from trainer_core.errors import BusyError, ConfigError, DeviceError, DiskError
from trainer_core.jobs.compare_control import CompareControl
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.run_watcher import RunWatcher
from trainer_core.jobs.spawn import WorkerSpawner
from trainer_core.methods.steps import count_steps
from trainer_core.models import resolve, starter
from trainer_core.runs import checkpoints, control, effective_recipe, run_folder
from trainer_core.runs.event_log import append_events
from trainer_core.runs.events import Event, Phase, RunEnded, SettingChanged, Stage
from trainer_core.runs.run_state import RunState
from trainer_core.system.file_lock import ProcessLock
from trainer_core.texts import Text


class RunControl:
    """The user's actions on a run. Those that need the device close the comparison first."""

    def __init__(self, registry: RunRegistry, spawner: WorkerSpawner, compare: CompareControl):
        self.registry, self.spawner, self.compare = registry, spawner, compare

    def start(self, recipe: Recipe, reasons: Sequence[str] = ()) -> str:
        """Start a training run and return its id at once.

        Raises:
            BusyError: a run is active.
            UserError: the model is unusable, or the workspace is not writable.
        """
        workspace = self.registry.workspace
        with self.spawner.start_lock():
            self.registry.refresh()
            self.registry.require_idle()
            if recipe.model != STARTER:
                resolve.resolve_model(recipe.model, workspace)
            self.compare.close_comparison()
            facts = self.spawner.run_file_facts(reasons, recipe.model)
            run_dir = run_folder.create_run(workspace.runs, TrainJob(recipe=recipe), recipe.name, **facts)
            watcher = RunWatcher(run_dir)
            watcher.process = self.spawner.start_worker(run_dir, recipe.model)
            self.registry.add_run(run_dir.name, watcher)
            return run_dir.name

    def stop(self, run_id: str) -> None:
        """Ask a run to save and end after its current step."""
        control.send_request(self.registry.run_dir(run_id), "stop")

    def pause(self, run_id: str) -> None:
        """Ask a run to release the device after its current step; `resume` starts exactly there."""
        control.send_request(self.registry.run_dir(run_id), "pause")

    def kill(self, run_id: str) -> None:
        """Kill the processes of a run in mid-step; `resume` starts from its newest checkpoint.

        Raises:
            BusyError: it is not active.
        """
        if not self.registry.run_state(run_id).phase.is_active:
            raise BusyError("run_control.not_running", run=run_id)
        control.send_request(self.registry.run_dir(run_id), "end", str(Text("run_control.ended")))

    def resume(self, run_id: str) -> None:
        """Resume a paused, stopped or failed run from its newest valid checkpoint.

        Raises:
            BusyError: a run is active, or this one is finished.
            DeviceError: it trained on a card, and there is none now.
        """
        with self.spawner.start_lock():
            self.registry.refresh()
            self.registry.require_idle()
            state = self.registry.run_state(run_id)
            if not state.phase.is_resumable:
                raise BusyError("run_control.finished", run=run_id)
            self.require_gpu(state)
            self.compare.close_comparison()
            run_dir, recipe = self.registry.run_dir(run_id), self.registry.run_recipe(run_id)
            if changes := starter_changes(state, recipe, self.registry.run_file(run_id)):
                append_events(run_dir / "events.jsonl", changes)
            control.clear_request(run_dir)
            watcher = RunWatcher.for_resume(run_dir)
            watcher.process = self.spawner.start_worker(run_dir, recipe.model)
            self.registry.add_run(run_id, watcher)

    def extend(self, run_id: str, epochs: float = 1.0) -> None:
        """Extend the last stage of a finished run by more epochs, with the same reference.

        The adapter is backed up first, so that a kill at any moment leaves a run that is finished or can resume.

        Raises:
            BusyError: a run is active, or this one is not finished.
            ConfigError: its log does not say how many rows it was trained on.
            ModelError: the adapter is damaged.
            DiskError: too little space for the backup; nothing has changed.
        """
        with self.spawner.start_lock():
            self.registry.refresh()
            self.registry.require_idle()
            self.registry.repair_run(run_id)
            state, run_dir = self.registry.run_state(run_id), self.registry.run_dir(run_id)
            if state.phase is not Phase.DONE:
                raise BusyError("run_control.not_finished", run=run_id, phase=state.phase.value)
            wanted = self.registry.run_recipe(run_id)
            stage = wanted.method.stages[-1]
            recipe = effective_recipe.effective_recipe(wanted, state.changes)
            events = extension_events(state, recipe, stage, epochs)
            checkpoints.back_up_adapter(run_dir, stage)
            append_events(run_dir / "events.jsonl", events)
        self.resume(run_id)

    def move_to_trash(self, run_id: str) -> None:
        """Move a run to the trash and forget it.

        Raises:
            BusyError: it is active, so its folder is in use.
            DiskError: it cannot be moved.
        """
        with self.spawner.start_lock():
            self.registry.refresh()
            if self.registry.run_state(run_id).phase.is_active:
                raise BusyError("run_control.in_use", run=run_id)
            folder, comparison = str(self.registry.run_dir(run_id)), self.registry.comparison
            if comparison and any((lane.adapter or "").startswith(folder) for lane in comparison.job.lanes):
                self.compare.close_comparison()
            self.registry.trash_run(run_id)

    def use_checkpoint(self, run_id: str, stage: Stage, step: int) -> None:
        """Make an earlier step the adapter of its stage.

        Raises:
            BusyError: the run is active, or can resume and would then be measured against another adapter.
            ModelError: the step's weights are gone or damaged.
        """
        with self.spawner.start_lock():
            self.registry.refresh()
            state = self.registry.run_state(run_id)
            if state.phase.is_active:
                raise BusyError("run_control.still_training", run=run_id)
            self.registry.repair_run(run_id)
            later = state.last_step and state.last_step.stage != stage
            if stage not in state.adapters or (later and state.phase.is_resumable):
                raise BusyError("run_control.resume_first", run=run_id)
            self.compare.close_comparison()
            checkpoints.use_step(self.registry.run_dir(run_id), stage, step)

    def repair_all(self) -> None:
        """Finish or undo half-done writes of crashed processes, unless another app is starting a run."""
        with contextlib.suppress(OSError, Timeout, DiskError), ProcessLock(self.spawner.start_lock_file, timeout=0):
            for run_id in list(self.registry.watchers):
                self.registry.repair_run(run_id)

    def require_gpu(self, state: RunState) -> None:
        """Refuse to resume a GPU run on the processor, unless the user chose the processor.

        Raises:
            DeviceError: there is no card to resume on.
        """
        device = self.spawner.device
        if state.card and device.choice != "cpu" and not device.machine.best_gpu:
            about = {"run": state.id, "problem": device.machine.problem, "hint": state.resume_hint}
            raise DeviceError("run_control.card_lost", **about)


def starter_changes(state: RunState, recipe: Recipe, file: run_folder.RunFile) -> tuple[Event, ...]:
    """Events for a run that resumes with another conversion of the starter model than before."""
    before = state.effective_value(starter.NAME, file.versions.get(starter.NAME, starter.FIRST_EDITION))
    if recipe.model != STARTER or not state.points or before == starter.EDITION:
        return ()
    return (SettingChanged(starter.NAME, before, starter.EDITION, starter.DIFFERENCE),)


def extension_events(state: RunState, recipe: Recipe, stage: Stage, epochs: float) -> tuple[Event, ...]:
    """Events that extend the last stage of a finished run.

    Raises:
        ConfigError: its log does not say how many rows it was trained on.
    """
    if state.prepared is None:
        raise ConfigError("run_control.no_rows", run=state.id)
    rows = state.prepared.row_count(METHODS[stage].rows)
    settings = recipe.stage_settings(stage)
    before = state.steps_done(stage)
    more = count_steps(rows, settings.model_copy(update={"epochs": epochs, "max_steps": None}))
    change = SettingChanged(
        f"{stage}.max_steps", str(before), str(before + more), Text("run_control.longer", epochs=epochs)
    )
    return change, RunEnded(Phase.PAUSED, Text("run_control.to_resume"))
