"""The child process: one job, one run folder, one final event. `python -m trainer_core.worker RUN_DIR`."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from trainer_core.config.jobs import CompareJob, Job, TrainJob
from trainer_core.errors import DiskError, UserError
from trainer_core.planning import out_of_memory, presets
from trainer_core.planning.presets import architecture_for_model
from trainer_core.runs import compare_requests, effective_recipe, exit_codes, heartbeat, run_folder
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import DeviceAcquired, Notice, OutOfMemory, Phase, PhaseChanged, RunEnded, RunFailed
from trainer_core.runs.exit_codes import EXIT_RESTART
from trainer_core.runs.run_state import read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system import hardware, kernel_cache, redact, sleep_inhibitor
from trainer_core.worker import device_lock, restart

IMPORTING = PhaseChanged(Phase.LOADING, "Loading the libraries, up to a minute the first time")
CRASH_LINES = 40
CHILD_VARIABLE = "TUNEBENCH_CHILD"
"""Set for a worker that has a parent which keeps it going, where that is not a fork."""


class JobRunner(Protocol):
    """What does the work: `training` trains, `inference` compares."""

    def train(self, job: TrainJob, run_dir: Path, emit: EventLog, wants: StopRequests) -> Phase: ...
    def serve(self, job: CompareJob, run_dir: Path, emit: EventLog, inbox: compare_requests.RequestQueue) -> Phase: ...


def load_job_runner(job: Job) -> JobRunner:
    """The heavy half for a job. One process never holds both: unsloth's patched kernels would ignore a lane's adapter."""
    parts: ModuleType
    match job:
        case CompareJob():
            from trainer_core.inference import server as parts
        case TrainJob():
            with kernel_cache.preserve_inductor_variable():
                from trainer_core import training as parts  # its first line is `import unsloth`
    return cast(JobRunner, parts)


def main(run_dir: Path, parts=load_job_runner) -> int:  # type: ignore[no-untyped-def]
    """Run the job of a folder to its last word; 0 if it went as asked, AGAIN if a fresh worker shall go on with less memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; only a request ends a run
    faulthandler.enable()
    with redact.redact_streams():
        return run_job(run_dir, parts)


def run_job(run_dir: Path, parts) -> int:  # type: ignore[no-untyped-def]
    """The job to its last word, which says how it ended."""
    emit = EventLog(run_dir / "events.jsonl")
    try:
        with heartbeat.heartbeat_thread(run_dir) as wants:
            file = run_folder.read_run(run_dir)
            job = file.job
            emit(PhaseChanged(Phase.LOADING, "Starting"))
            for note in file.notes:
                emit(Notice(note))
            card = hardware.card_uuid(os.environ)
            with device_lock.hold_device(run_dir, card):
                emit(DeviceAcquired(card))
                emit(IMPORTING)
                match job:
                    case TrainJob():
                        with sleep_inhibitor.keep_awake() as how:
                            sys.stderr.write(f"{how}\n")
                            phase = parts(job).train(job, run_dir, emit, wants)
                    case CompareJob():
                        phase = parts(job).serve(job, run_dir, emit, compare_requests.RequestQueue(sys.stdin))
    except DiskError as error:
        emit(RunEnded(Phase.PAUSED, f"{error} Then go on with Resume; nothing that was saved is lost."))
        return 0
    except UserError as error:
        emit(RunFailed(str(error), offers=getattr(error, "offers", ())))
    except Exception as error:
        traceback.print_exc()
        if line := hardware.find_card_loss(error):
            emit(RunFailed(describe_lost_card(line, run_dir), traceback.format_exc()))
            return 1
        if out_of_memory.is_out_of_memory(error):
            return EXIT_RESTART if plan_oom_retry(run_dir, emit, str(error)) else 1
        emit(RunFailed(f"{type(error).__name__}: {error}", traceback.format_exc()))  # a bug: say so, keep the traceback
    else:
        emit(RunEnded(phase))
        return 0
    return 1


def describe_lost_card(line: str, run_dir: Path) -> str:
    """What happened, what is safe and what to do after a card has gone in mid-run. line: what CUDA said."""
    view, trains_it = read_run_state(run_dir), is_training_run(run_dir)
    safe = view.resume_hint if trains_it else "Nothing is lost; load the lanes again."
    return (
        f"The graphics card stopped answering ({line[:200]}). {safe} Restart the computer before that. If it comes again, "
        "the card is too hot, overclocked or short of power, or its driver needs an update."
    )


def emit_importing(run_dir: Path) -> None:
    """For a child that imports before it can say so.

    Raises:
        DiskError: the disk is full.
    """
    EventLog(run_dir / "events.jsonl")(IMPORTING)


def plan_oom_retry(run_dir: Path, emit: EventLog, message: str) -> bool:
    """After memory ran out: write down what a fresh worker shall do with less. False: nothing is left to try; that is said."""
    view, job = read_run_state(run_dir), run_folder.read_run(run_dir).job
    if not isinstance(job, TrainJob):
        emit(
            RunFailed(
                f"Memory ran out while comparing: {message.splitlines()[0]} Load fewer lanes, or close other programs."
            )
        )
        return False
    recipe = effective_recipe.effective_recipe(job.recipe, view.changes)
    stage, taken = out_of_memory.current_stage(view, recipe), len(view.out_of_memory)
    shape = architecture_for_model(recipe.model, Workspace.for_run(run_dir), presets.load_catalogue())
    place = hardware.has_card(os.environ), view.phase is Phase.LOADING, shape
    rung = out_of_memory.next_fallback(recipe, stage, taken, *place)
    if rung is None:
        left, base = (
            out_of_memory.remaining_fallback(recipe, stage, *place),
            view.effective_value("precision", recipe.precision),
        )
        ways = out_of_memory.suggest_fixes(recipe, stage, view.row_lengths.get(stage), base, left)
        emit(
            RunFailed(
                out_of_memory.explain_out_of_memory(stage, recipe.stage_settings(stage), taken, left), offers=ways
            )
        )
        return False
    emit(OutOfMemory(stage, message.splitlines()[0][:500] if message else ""))
    for change in rung.settings:
        emit(change)
    emit(PhaseChanged(Phase.LOADING, f"Memory ran out: going on with {rung.summary}"))
    return True


def on_oom_kill(run_dir: Path) -> bool:
    """After the system's memory guard ended a worker: as after any lack of memory. False: nothing is left to try."""
    return plan_oom_retry(
        run_dir, EventLog(run_dir / "events.jsonl"), "The system ended the worker, because memory ran out."
    )


def write_final_event(run_dir: Path, code: int) -> None:
    """Write the final event of a worker that was killed. Its parent does, whether an app is open or not."""
    view = read_run_state(run_dir)
    if not view.phase.is_active:
        return
    log = "\n".join(run_folder.read_log_tail(run_dir, CRASH_LINES)) if restart.is_native_crash(code) else ""
    with suppress(DiskError):
        EventLog(run_dir / "events.jsonl")(
            RunFailed(f"The worker {exit_codes.describe_exit(code)}{exit_cause(code)}. {view.resume_hint}", log)
        )


def exit_cause(code: int) -> str:
    """What an exit code says about why, as the end of a sentence; nothing where it says nothing."""
    if not restart.is_signal_exit(code):
        return ""  # an NTSTATUS is told with its meaning
    if restart.is_native_crash(code):
        return f": {exit_codes.NATIVE_FAILURE}"
    return f" from outside{'; the system counted no lack of memory' if restart.VMSTAT_FILE.exists() else ''}"


def run_with_forks(run_dir: Path, work: Callable[[Path], int], first: int | None = None) -> int:
    """A worker that a parent keeps going, to its end: a fork of it. `first`: a child that works already."""
    return restart.exit_like(
        restart.run_with_restarts(
            partial(work, run_dir),
            partial(on_oom_kill, run_dir),
            first=first,
            last_word=partial(write_final_event, run_dir),
        )
    )


def run_with_respawns(run_dir: Path, command: Sequence[str]) -> int:
    """The same where the system cannot fork: each worker is this command anew, with nothing in memory."""
    work = partial(restart.run_in_process, command, {**os.environ, CHILD_VARIABLE: "1"})
    less, last = partial(on_oom_kill, run_dir), partial(write_final_event, run_dir)
    return restart.exit_like(restart.run_with_restarts(work, less, last_word=last, run=lambda work: work()))


def run_worker(run_dir: Path, work: Callable[[Path], int] = main, forks: bool = hasattr(os, "fork")) -> int:
    """A worker from first to last. One that trains is kept going by a small parent."""
    if CHILD_VARIABLE in os.environ or not is_training_run(run_dir):
        return work(run_dir)
    return run_with_forks(run_dir, work) if forks else run_with_respawns(run_dir, [sys.executable, *sys.orig_argv[1:]])


def is_training_run(run_dir: Path) -> bool:
    """Is it a training run? A folder without a readable run.json is none; that is said by `main`."""
    try:
        return run_folder.train_job_of(run_folder.read_run(run_dir)) is not None
    except UserError:
        return False
