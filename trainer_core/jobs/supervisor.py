"""One device, one job: starts workers, watches run folders, and knows the state of everything. No other file starts a worker.

The supervisor decides nothing from memory that a folder does not say: an app that starts anew finds the same runs in the
same states, and attaches to those that still work.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from trainer_core.config.jobs import CompareJob, Lane, TrainJob
from trainer_core.config.recipe import STARTER, Recipe
from trainer_core.errors import BusyError, DeviceError, DiskError, ModelError
from trainer_core.jobs import stall, warm_worker
from trainer_core.jobs.comparison import Comparison
from trainer_core.jobs.run_control import extension_events
from trainer_core.jobs.run_watcher import RunWatcher
from trainer_core.jobs.shutdown import ASLEEP_SECONDS
from trainer_core.jobs.spawn import DETACHED_OPTIONS, IDLE_SECONDS, PRELOAD_SECONDS, WORKER_COMMAND, is_memory_low
from trainer_core.jobs.warm_worker import WarmWorker
from trainer_core.models import resolve, starter
from trainer_core.runs import checkpoints, control, effective_recipe, heartbeat, run_folder, trash
from trainer_core.runs import workspace as workspace_module
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Event, Phase, SettingChanged, Stage
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace
from trainer_core.system import durable, hardware, kernel_cache, malloc, project, untrusted_files
from trainer_core.system.hardware import Gpu, Machine
from trainer_core.system.hardware_history import HardwareHistory

ROUND_SECONDS = 1.0


def starter_changes(view: RunState, recipe: Recipe, file: run_folder.RunFile) -> tuple[Event, ...]:
    """What the events of a run say that goes on with another conversion of the starter than it has trained on so far."""
    before = view.effective_value(starter.NAME, file.versions.get(starter.NAME, starter.FIRST_EDITION))
    if recipe.model != STARTER or not view.points or before == starter.EDITION:
        return ()
    return (SettingChanged(starter.NAME, before, starter.EDITION, starter.DIFFERENCE),)


class Supervisor:
    """Starts, watches and re-attaches.

    Args:
        workspace: where runs, models and locks lie.
        command: what a worker is started with; the run folder is appended.
        device: "auto" takes the GPU if there is one, "cpu" never does.
        read_machine: how the hardware is read, once a second, by the one thread here.
        ahead: whether a worker may be started before its run is, see `expect`.
        session: what is kept open from one reading to the next.
        patience: how long a run that was asked to leave may be silent, see `enforce`.
    """

    def __init__(
        self,
        workspace: Workspace,
        command: Sequence[str] = WORKER_COMMAND,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        read_machine: Callable[[], Machine] = hardware.detect_machine,
        ahead: bool = False,
        session: Callable[[], AbstractContextManager[None]] = hardware.nvml_session,
        patience: stall.StopTimeouts = stall.STOP_TIMEOUTS,
    ):
        self.workspace, self.command, self.device, self.read_machine = workspace, tuple(command), device, read_machine
        self.machine = read_machine()
        self.readings = HardwareHistory()
        self.comparison: Comparison | None = None
        self.last_error = ""
        self.session, self.preload, self.patience = session, ahead and warm_worker.IS_SUPPORTED, patience
        self._awake = self._round = time.time()
        self._expected: tuple[str, float] | None = None
        self._waiting: WarmWorker | None = None
        self._watched: dict[str, RunWatcher] = {}
        self._starting = threading.Lock()
        self._looking = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        with malloc.pause_gc():
            self.refresh()
        self.repair_all()

    def watch(self) -> Supervisor:
        """Keep looking from a thread, once a second."""
        malloc.configure_malloc()
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop looking and end Compare. A training run goes on."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.close_comparison()
        self.stop_warm_worker()

    def _loop(self) -> None:
        """Round after round, with NVML kept open as long as nothing is wrong: what comes back is only seen by a new start."""
        self._trimmed = time.monotonic()
        while not self._ended.is_set():
            with self.session():
                while self._turn() and not self.machine.problem:
                    pass

    def _turn(self) -> bool:
        """One round. False: the app ends."""
        if self._ended.wait(ROUND_SECONDS):
            return False
        if time.monotonic() > self._trimmed + malloc.TRIM_SECONDS:
            malloc.release_free_memory()
            self._trimmed = time.monotonic()
        try:
            self.machine = self.read_machine()
            self.readings.record(self.machine)
            self.refresh()
            self.enforce_stop_requests()
            self.update_warm_worker()
        except Exception:  # shown in the rail; the next round may go well
            self.last_error = traceback.format_exc()
        return True

    def refresh(self) -> None:
        """Bring every view up to date with its folder."""
        with self._looking:
            for run_dir in run_folder.list_runs(self.workspace.runs):
                if untrusted_files.printable_id(run_dir) not in self._watched:
                    self._watched[untrusted_files.printable_id(run_dir)] = RunWatcher(run_dir)
            trouble = ""
            for watched in list(self._watched.values()):
                try:
                    watched.refresh()
                except Exception:  # one bad folder must not blind the app to the others
                    trouble = traceback.format_exc()
            self.last_error = trouble
        self.refresh_comparison()

    def refresh_comparison(self) -> None:
        """Bring the lanes up to date between two rounds, so that their text is shown as it grows."""
        with self._looking:
            if self.comparison:
                self.comparison.watcher.refresh()

    def preload_for(self, model: str) -> None:
        """Somebody is at the Start page with this model: a worker shall wait for the click, with the libraries imported."""
        self._expected = model, time.monotonic()

    def update_warm_worker(self) -> None:
        """Have one worker wait as long as a run is likely, and none otherwise."""
        if not self.preload or not self._starting.acquire(blocking=False):
            return
        try:
            wanted = self.warm_worker_environment()
            if self._waiting and (self._waiting.environment != wanted or not self._waiting.is_alive):
                self.stop_warm_worker()
            if wanted and not self._waiting:
                self._waiting = warm_worker.start_warm_worker(
                    workspace_module.ensure_dir(self.workspace.root) / "waiting.log", wanted, **DETACHED_OPTIONS
                )
        finally:
            self._starting.release()

    def warm_worker_environment(self) -> dict[str, str] | None:
        """The environment of the worker that shall wait now; None: none shall."""
        if self._expected is None or self.active_run:
            return None
        model, since = self._expected
        loads = self.comparison is not None and self.comparison.state.phase is Phase.LOADING
        seconds = time.monotonic() - since
        if seconds > IDLE_SECONDS or not self._waiting and (seconds < PRELOAD_SECONDS or loads or is_memory_low()):
            return None
        try:
            return self.worker_environment(model)
        except DeviceError:
            return None

    def stop_warm_worker(self) -> None:
        if self._waiting:
            self._waiting.stop()
            self._waiting = None

    def start_worker(self, run_dir: Path, model: str) -> subprocess.Popen[bytes]:
        """A trainer for a run folder: the one that waits, if it is of this kind, or a new one."""
        kernel_cache.trim_kernel_cache(kernel_cache.kernel_cache_folder(self.workspace.root.resolve()))
        ready, self._waiting = self._waiting, None
        if ready and ready.environment == self.worker_environment(model) and ready.assign(run_dir):
            return ready.process
        if ready:
            ready.stop()
        return self.spawn_worker(run_dir, model, stdin=subprocess.DEVNULL)

    @property
    def gpu(self) -> Gpu | None:
        """The card that runs use; None means the processor.

        Raises:
            DeviceError: a GPU was demanded and there is none.
        """
        best = None if self.device == "cpu" else self.machine.best_gpu
        if self.device == "cuda" and best is None:
            raise DeviceError(
                f"No usable NVIDIA GPU was found. {self.machine.problem} Start with --device cpu instead."
            )
        return best

    @property
    def run_states(self) -> list[RunState]:
        """All runs, newest first."""
        return [self._watched[name].state for name in sorted(self._watched, reverse=True)]

    @property
    def current_run(self) -> RunState | None:
        """The run to show: the one at work, or else the newest."""
        views = self.run_states
        return next((view for view in views if view.phase.is_active), views[0] if views else None)

    @property
    def active_run(self) -> RunState | None:
        return next((view for view in self.run_states if view.phase.is_active), None)

    def run_state(self, run_id: str) -> RunState:
        return self._watched[run_id].state

    def run_dir(self, run_id: str) -> Path:
        return self._watched[run_id].run_dir

    def run_file(self, run_id: str) -> run_folder.RunFile:
        return run_folder.read_run(self.run_dir(run_id))

    @property
    def start_lock_file(self) -> Path:
        return workspace_module.ensure_dir(self.workspace.root) / "start.lock"

    @contextlib.contextmanager
    def start_lock(self) -> Iterator[None]:
        """One start at a time, in this app and in any other process on the workspace, so that each sees the one before."""
        with self._starting, FileLock(self.start_lock_file):
            yield

    def start(self, recipe: Recipe, reasons: Sequence[str] = ()) -> str:
        """Start a training run and return its id at once.

        Raises:
            BusyError: a run is going.
            UserError: the model cannot be used, or the workspace cannot be written.
        """
        with self.start_lock():
            self.refresh()
            self.require_idle()
            if recipe.model != STARTER:
                resolve.resolve_model(recipe.model, self.workspace)
            self.close_comparison()
            run_dir = run_folder.create_run(
                self.workspace.runs, TrainJob(recipe=recipe), recipe.name, **self.run_file_facts(reasons, recipe.model)
            )
            watched = RunWatcher(run_dir)
            watched.process = self.start_worker(run_dir, recipe.model)
            with self._looking:
                self._watched[run_dir.name] = watched
            return run_dir.name

    def run_file_facts(self, reasons: Sequence[str], model: str) -> dict[str, object]:
        """What a run.json says beside the job, which uses this model."""
        versions = {name: version(name) for name in checkpoints.RECORDED_PACKAGES}
        if model == STARTER:
            versions[starter.NAME] = starter.EDITION
        gpu = self.gpu
        pinned = hardware.card_number_notice(gpu, hardware.worker_environment(gpu)) if gpu else ""
        return {
            "device": gpu.name if gpu else self.machine.cpu.name,
            "reasons": (*reasons, *filter(None, [pinned])),
            "versions": versions,
        }

    def stop(self, run_id: str) -> None:
        """Ask a run to keep what it has learned and end after its current step."""
        control.send_request(self.run_dir(run_id), "stop")

    def pause(self, run_id: str) -> None:
        """Ask a run to leave the device after its current step; `resume` goes on exactly there."""
        control.send_request(self.run_dir(run_id), "pause")

    def kill(self, run_id: str) -> None:
        """End the processes of a run in mid-step, from the next rounds on; `resume` goes on from its newest checkpoint.

        Raises:
            BusyError: it is not going.
        """
        if not self.run_state(run_id).phase.is_active:
            raise BusyError(f"The run {run_id} is not going, so there is nothing to end.")
        control.send_request(self.run_dir(run_id), "end", "It was ended at your request.")

    def enforce_stop_requests(self) -> None:
        """See to it that who was asked to leave does. What is due is read from the folders, so any app goes on with it."""
        now = time.time()
        self._awake, self._round = (now if now - self._round > ASLEEP_SECONDS else self._awake), now
        for watched in list(self._watched.values()):
            if watched.state.phase.is_active and (asked := control.read_control(watched.run_dir)):
                if asked.request == "end":
                    self.terminate_run(watched)
                elif why := stall.stop_timeout_reason(watched.state, self.seconds_unresponsive(watched), self.patience):
                    control.send_request(watched.run_dir, "end", why)

    def seconds_unresponsive(self, watched: RunWatcher) -> float:
        """Seconds for which a run could have answered and has not; an app that starts or wakes up counts anew."""
        files = control.control_file(watched.run_dir), watched.run_dir / "events.jsonl"
        return min(time.time() - self._awake, *map(heartbeat.seconds_since_write, files))

    def terminate_run(self, watched: RunWatcher) -> None:
        """End the processes of a run, and kill those that stay. A start at the same time is waited for, and left alone."""
        with self.start_lock():
            asked = control.read_control(watched.run_dir)
            if asked and asked.request == "end":
                since = heartbeat.seconds_since_write(control.control_file(watched.run_dir))
                heartbeat.terminate(watched.run_dir, kill=since > self.patience.kill)

    def resume(self, run_id: str) -> None:
        """Go on with a run that was paused, stopped or broken off, from its newest sound checkpoint.

        Raises:
            BusyError: a run is going, or this one is at its end.
            DeviceError: it trained on a card, and there is none now.
        """
        with self.start_lock():
            self.refresh()
            self.require_idle()
            if not self.run_state(run_id).phase.is_resumable:
                raise BusyError(f"The run {run_id} is at its end, so there is nothing to go on with.")
            self.require_gpu(self.run_state(run_id))
            self.close_comparison()
            run_dir = self.run_dir(run_id)
            for event in starter_changes(self.run_state(run_id), self.run_recipe(run_id), self.run_file(run_id)):
                EventLog(run_dir / "events.jsonl")(event)
            control.clear_request(run_dir)
            watched = RunWatcher.for_resume(run_dir)
            watched.process = self.start_worker(run_dir, self.run_recipe(run_id).model)
            with self._looking:
                self._watched[run_id] = watched

    def extend(self, run_id: str, epochs: float = 1.0) -> None:
        """Go on with the last stage of a finished run for more passes over its data, with the reference it had.

        The adapter made so far is laid aside first, so that a kill at any moment leaves a finished run or one to go on with.

        Raises:
            BusyError: a run is going, or this one is not at its end.
            ModelError: the adapter is damaged.
            DiskError: no room to lay it aside; everything is as it was.
        """
        with self.start_lock():
            self.refresh()
            self.require_idle()
            self.repair_run(run_id)
            view = self.run_state(run_id)
            if view.phase is not Phase.DONE:
                raise BusyError(f"The run {run_id} is {view.phase.value}; only a finished run can be made longer.")
            stage = self.run_recipe(run_id).method.stages[-1]
            recipe = effective_recipe.effective_recipe(self.run_recipe(run_id), view.changes)
            checkpoints.back_up_adapter(self.run_dir(run_id), stage)
            emit = EventLog(self.run_dir(run_id) / "events.jsonl")
            for event in extension_events(view, recipe, stage, epochs):
                emit(event)
        self.resume(run_id)

    def move_to_trash(self, run_id: str) -> None:
        """Move a run to the trash, and forget it.

        Raises:
            BusyError: it is going, so its folder is in use.
            DiskError: it cannot be moved.
        """
        with self.start_lock():
            self.refresh()
            if self.run_state(run_id).phase.is_active:
                raise BusyError(f"The run {run_id} is going. Stop it first; then it can be thrown away.")
            run_dir = self.run_dir(run_id)
            lanes = self.comparison.job.lanes if self.comparison else ()
            if any((lane.adapter or "").startswith(str(run_dir)) for lane in lanes):
                self.close_comparison()
            with self._looking:
                trash.trash_run(self.workspace, run_dir)
                del self._watched[run_id]

    def run_recipe(self, run_id: str) -> Recipe:
        """What a run was asked to do.

        Raises:
            ModelError: it is no training run.
        """
        job = run_folder.train_job_of(self.run_file(run_id))
        if job is None:
            raise ModelError(f"{run_id} is no training run.")
        return job.recipe

    def require_idle(self) -> None:
        """One job on the device at a time.

        Raises:
            BusyError: naming the run that is going.
        """
        if active := self.active_run:
            raise BusyError(f"The run {active.id} is already going. Stop it first, or watch it under Train.")

    def require_gpu(self, view: RunState) -> None:
        """What trained on a card is not gone on with on the processor, unless that was asked for.

        Raises:
            DeviceError: there is no card to go on with.
        """
        if view.card and self.device != "cpu" and not self.machine.best_gpu:
            raise DeviceError(
                f"The run {view.id} trained on a graphics card, and none can be used now. {self.machine.problem} "
                f"{view.resume_hint} Bring the card back first, or start with --device cpu to go on with the processor."
            )

    def open_comparison(self, model: str, precision: str, lanes: Sequence[Lane], run: str = "") -> Comparison:
        """Load these lanes; an open comparison of the same lanes of the same run is kept, another one is closed first.

        Raises:
            BusyError: a run holds the device.
            ModelError: the base model cannot be used.
        """
        job = CompareJob.model_validate({"model": model, "precision": precision, "lanes": tuple(lanes)})
        with self.start_lock():
            if active := self.active_run:
                raise BusyError(f"The device is busy with the run {active.id}. Compare opens when it is done.")
            current = self.comparison
            if current and (current.job, current.run) == (job, run) and current.state.phase.is_active:
                return current
            self.close_comparison()
            run_dir = run_folder.create_run(self.workspace.compare, job, "", **self.run_file_facts((), model))
            watched = RunWatcher(run_dir)
            watched.process = self.spawn_worker(run_dir, model, stdin=subprocess.PIPE)
            self.comparison = Comparison(job, watched, run)
            return self.comparison

    def run_lanes(self, run_id: str) -> tuple[Lane, ...]:
        """The base and every adapter of a run, as lanes."""
        made = self._watched[run_id].state.adapters
        adapters = [
            Lane(name=stage.upper(), adapter=str(self.run_dir(run_id) / folder)) for stage, folder in made.items()
        ]
        return (Lane(name="Base"), *adapters)

    def compare_run(self, run_id: str, lanes: Sequence[Lane] = ()) -> Comparison:
        """Load the base, SFT and DPO of one run, or other lanes on the same base."""
        with self.start_lock():
            self.refresh()
            self.repair_run(run_id)
        recipe = self.run_recipe(run_id)
        precision = self._watched[run_id].state.effective_value("precision", recipe.precision)
        return self.open_comparison(recipe.model, precision, lanes or self.run_lanes(run_id), run_id)

    def use_checkpoint(self, run_id: str, stage: Stage, step: int) -> None:
        """Make an earlier step the adapter of its stage.

        Raises:
            BusyError: the run is going, or can be gone on with and would then be measured against another adapter.
            ModelError: the step's weights are gone or damaged.
        """
        with self.start_lock():
            self.refresh()
            view = self.run_state(run_id)
            if view.phase.is_active:
                raise BusyError(f"The run {run_id} is going. When it is done, any of its checkpoints can be kept.")
            self.repair_run(run_id)
            later = view.last_step and view.last_step.stage != stage
            if stage not in view.adapters or (later and view.phase.is_resumable):
                raise BusyError(f"The run {run_id} is not at its end. Resume it first, or open the step in Compare.")
            self.close_comparison()
            checkpoints.use_step(self.run_dir(run_id), stage, step)

    def repair_all(self) -> None:
        """Finish or undo what a process that is gone left half done in the runs. Another app that starts something goes first."""
        with contextlib.suppress(OSError, Timeout, DiskError), FileLock(self.start_lock_file, timeout=0):
            for run_id in list(self._watched):
                self.repair_run(run_id)

    def repair_run(self, run_id: str) -> None:
        """Finish or undo what a process that is gone left half done in a run that nobody works on."""
        if not self.run_state(run_id).phase.is_active:
            checkpoints.clean_run_leftovers(self.run_dir(run_id))

    def close_comparison(self) -> None:
        if self.comparison:
            self.comparison.close()

    def spawn_worker(self, run_dir: Path, model: str, stdin: int) -> subprocess.Popen[bytes]:
        """A worker for a run folder. A trainer gets its own session and no pipe, so that nothing of the app can hold it up."""
        with durable.disk_errors(run_dir / "worker.log"), untrusted_files.open_for_append(run_dir, "worker.log") as log:
            return subprocess.Popen(
                [*self.command, str(run_dir.resolve())],
                cwd=project.PROJECT,
                env=self.worker_environment(model),
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                **DETACHED_OPTIONS,
            )

    def worker_environment(self, model: str) -> dict[str, str]:
        """A worker's environment: the device by UUID, UTF-8, no telemetry, and no network where the model is local."""
        local = model == STARTER or Path(model).expanduser().is_dir()
        ours = {
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(project.PROJECT), os.environ.get("PYTHONPATH", "")))),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "UNSLOTH_DISABLE_STATISTICS": "1",
            **kernel_cache.kernel_cache_environment(kernel_cache.kernel_cache_folder(self.workspace.root.resolve())),
            "TOKENIZERS_PARALLELISM": "false",
            **({"HF_HUB_OFFLINE": "1"} if local else {}),
        }
        return {**os.environ, **ours, **hardware.worker_environment(self.gpu)}


def wait_for(condition: Callable[[], bool], seconds: float, every: float = 0.2) -> bool:
    """Has the condition become true within the time?"""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(every)
    return condition()
