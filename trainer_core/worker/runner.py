"""The child process: one job, one run folder, one final event. `python -m trainer_core.worker RUN_DIR`."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import cast

from trainer_core.config.jobs import JOB_KINDS, Job
from trainer_core.errors import DiskError, UserError
from trainer_core.planning import out_of_memory, presets
from trainer_core.planning.presets import architecture_for_model
from trainer_core.runs import effective_recipe, exit_codes, heartbeat, run_folder
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import DeviceAcquired, Notice, OutOfMemory, Phase, PhaseChanged, RunEnded, RunFailed
from trainer_core.runs.exit_codes import EXIT_RESTART
from trainer_core.runs.run_state import read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system import hardware, kernel_cache, redact, sleep_inhibitor
from trainer_core.texts import Text
from trainer_core.worker import device_lock, restart

IMPORTING = PhaseChanged(Phase.LOADING, Text("loading.libraries"))
CRASH_LINES = 40
CHILD_VARIABLE = "TUNEBENCH_CHILD"
"""Set for a worker that is restarted by its parent but not forked from it."""


RunJob = Callable[[Job, Path, EventLog, StopRequests], Phase]
"""Runs a job: trains or compares."""


def load_entry_point(job: Job) -> RunJob:
    """The function that runs a job. One process never runs both: unsloth's patched kernels would ignore a lane's adapter."""
    module, name = JOB_KINDS[job.kind].run.split(":")
    with kernel_cache.preserve_inductor_variable():
        found = cast(RunJob, getattr(importlib.import_module(module), name))
    gc.freeze()  # what was imported stays: a collection, of which a stage has two, looks at a tenth and takes 0.02 s, not 0.3
    return found


def main(run_dir: Path, find_work: Callable[[Job], RunJob] = load_entry_point) -> int:
    """Run a folder's job to its final event. EXIT_RESTART: a new worker should resume with less memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; only a request ends a run
    faulthandler.enable()
    with redact.redact_streams():
        return run_job(run_dir, find_work)


def run_job(run_dir: Path, find_work: Callable[[Job], RunJob]) -> int:
    emit = EventLog(run_dir / "events.jsonl")
    try:
        with heartbeat.heartbeat_thread(run_dir) as wants:
            phase = do_work(run_dir, find_work, emit, wants)
    except DiskError as error:
        emit(RunEnded(Phase.PAUSED, Text("run.disk_full", reason=error.text)))
        return 0
    except UserError as error:
        emit(RunFailed(error.text, offers=getattr(error, "offers", ())))
    except Exception as error:
        traceback.print_exc()
        if line := hardware.find_card_loss(error):
            emit(RunFailed(describe_lost_card(line, run_dir), traceback.format_exc()))
            return 1
        if out_of_memory.is_out_of_memory(error):
            return EXIT_RESTART if plan_oom_retry(run_dir, emit, str(error)) else 1
        reason = Text("run.bug", kind=type(error).__name__, message=str(error))
        emit(RunFailed(reason, traceback.format_exc()))
    else:
        emit(RunEnded(phase))
        return 0
    return 1


def do_work(run_dir: Path, find_work: Callable[[Job], RunJob], emit: EventLog, wants: StopRequests) -> Phase:
    """Read the job, lock the device, import the libraries, and run."""
    file = run_folder.read_run(run_dir)
    emit(PhaseChanged(Phase.LOADING, Text("loading.start")))
    for note in file.notes:
        emit(Notice(note))
    kind, card = JOB_KINDS[file.job.kind], hardware.card_uuid(os.environ)
    with ExitStack() as held:
        if kind.needs_device:
            held.enter_context(device_lock.hold_device(run_dir, card))
            emit(DeviceAcquired(card))
        emit(IMPORTING)
        if kind.is_detached:
            sys.stderr.write(f"{held.enter_context(sleep_inhibitor.keep_awake())}\n")
        return find_work(file.job)(file.job, run_dir, emit, wants)


def describe_lost_card(line: str, run_dir: Path) -> Text:
    """The error text after a card was lost: what happened, what is safe, what to do. line: CUDA's message."""
    if is_detached_run(run_dir):
        return Text("card.lost_in_run", line=line[:200], hint=read_run_state(run_dir).resume_hint)
    return Text("card.lost", line=line[:200])


def emit_importing(run_dir: Path) -> None:
    """Report the import phase for a child that cannot do so yet.

    Raises:
        DiskError: the disk is full.
    """
    EventLog(run_dir / "events.jsonl")(IMPORTING)


def plan_oom_retry(run_dir: Path, emit: EventLog, message: str) -> bool:
    """Record lower settings for a new worker. False: nothing is left to try, which is recorded too."""
    view, job = read_run_state(run_dir), run_folder.train_job_of(run_folder.read_run(run_dir))
    if job is None:
        emit(RunFailed(Text("memory.ran_out_not_training", message=first_line(message))))
        return False
    recipe = effective_recipe.effective_recipe(job.recipe, view.changes)
    stage, taken = out_of_memory.current_stage(view, recipe), len(view.out_of_memory)
    shape = architecture_for_model(recipe.model, Workspace.for_run(run_dir), presets.load_catalogue())
    place = hardware.has_card(os.environ), view.phase is Phase.LOADING, shape
    fallback = out_of_memory.next_fallback(recipe, stage, taken, *place)
    if fallback is None:
        left = out_of_memory.remaining_fallback(recipe, stage, *place)
        base = view.effective_value("precision", recipe.precision)
        ways = out_of_memory.suggest_fixes(recipe, stage, view.row_lengths.get(stage), base, left)
        reason = out_of_memory.explain_out_of_memory(stage, recipe.stage_settings(stage), taken, left)
        emit(RunFailed(reason, offers=ways))
        return False
    emit(OutOfMemory(stage, first_line(message)))
    for change in fallback.settings:
        emit(change)
    emit(PhaseChanged(Phase.LOADING, Text("loading.less_memory", settings=fallback.summary)))
    return True


def first_line(message: str) -> str:
    return message.partition("\n")[0][:500]


def on_oom_kill(run_dir: Path) -> bool:
    """Handle a kill by the OOM killer like any lack of memory. False: nothing is left to try."""
    return plan_oom_retry(
        run_dir, EventLog(run_dir / "events.jsonl"), "The system killed the worker because memory ran out."
    )


def write_final_event(run_dir: Path, code: int) -> None:
    """Write the final event of a killed worker. Its parent does, so that it works without an open app."""
    view = read_run_state(run_dir)
    if not view.phase.is_active:
        return
    log = "\n".join(run_folder.read_log_tail(run_dir, CRASH_LINES)) if restart.is_native_crash(code) else ""
    reason = Text(exit_cause(code), exit=exit_codes.describe_exit(code), hint=view.resume_hint)
    with suppress(DiskError):
        EventLog(run_dir / "events.jsonl")(RunFailed(reason, log))


def exit_cause(code: int) -> str:
    """The cause behind an exit code, as a text code. An NTSTATUS names its own."""
    if not restart.is_signal_exit(code):
        return "worker.ended"
    if restart.is_native_crash(code):
        return "worker.crashed"
    return "worker.killed_with_memory_left" if restart.VMSTAT_FILE.exists() else "worker.killed"


def run_with_forks(run_dir: Path, work: Callable[[Path], int], first: int | None = None) -> int:
    """Run a worker as a fork of a parent that restarts it. `first`: pid of a child that is already running."""
    return restart.exit_like(
        restart.run_with_restarts(
            partial(work, run_dir),
            partial(on_oom_kill, run_dir),
            first=first,
            last_word=partial(write_final_event, run_dir),
        )
    )


def run_with_respawns(run_dir: Path, command: Sequence[str]) -> int:
    """The same on systems without fork: each worker is a new process of this command."""
    work = partial(restart.run_in_process, command, {**os.environ, CHILD_VARIABLE: "1"})
    less, last = partial(on_oom_kill, run_dir), partial(write_final_event, run_dir)
    return restart.exit_like(restart.run_with_restarts(work, less, last_word=last, run=lambda work: work()))


def run_worker(run_dir: Path, work: Callable[[Path], int] = main, forks: bool = hasattr(os, "fork")) -> int:
    """Run a worker. A small parent restarts one that is detached from the app."""
    if CHILD_VARIABLE in os.environ or not is_detached_run(run_dir):
        return work(run_dir)
    return run_with_forks(run_dir, work) if forks else run_with_respawns(run_dir, [sys.executable, *sys.orig_argv[1:]])


def is_detached_run(run_dir: Path) -> bool:
    """Does the run outlive the app? Not without a readable run.json, an error that `main` reports."""
    try:
        return JOB_KINDS[run_folder.read_run(run_dir).job.kind].is_detached
    except UserError:
        return False
