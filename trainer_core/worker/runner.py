"""The child process: one job, one run folder, one last word. `python -m trainer_core.worker RUN_DIR`."""

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
from trainer_core.planning.presets import shape_for
from trainer_core.runs import compare_requests, effective_recipe, exit_codes, heartbeat, run_folder
from trainer_core.runs.control import Wants
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Ended, Failed, Noted, OutOfMemory, Phase, Placed, Status
from trainer_core.runs.exit_codes import AGAIN
from trainer_core.runs.run_state import read_view
from trainer_core.runs.workspace import Workspace
from trainer_core.system import hardware, kernel_cache, redact, sleep_inhibitor
from trainer_core.worker import device_lock, restart

IMPORTING = Status(Phase.LOADING, "Loading the libraries, up to a minute the first time")
CRASH_LINES = 40
CHILD = "TUNEBENCH_CHILD"
"""Set for a worker that has a parent which keeps it going, where that is not a fork."""


class Parts(Protocol):
    """What does the work: `engine` trains, `lanes` compares."""

    def train(self, job: TrainJob, run_dir: Path, emit: EventLog, wants: Wants) -> Phase: ...
    def serve(self, job: CompareJob, run_dir: Path, emit: EventLog, inbox: compare_requests.Inbox) -> Phase: ...


def ml_parts(job: Job) -> Parts:
    """The heavy half for a job. One process never holds both: unsloth's patched kernels would ignore a lane's adapter."""
    parts: ModuleType
    match job:
        case CompareJob():
            from trainer_core.inference import server as parts
        case TrainJob():
            with kernel_cache.unmoved():
                from trainer_core import training as parts  # its first line is `import unsloth`
    return cast(Parts, parts)


def main(run_dir: Path, parts=ml_parts) -> int:  # type: ignore[no-untyped-def]
    """Run the job of a folder to its last word; 0 if it went as asked, AGAIN if a fresh worker shall go on with less memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; only a request ends a run
    faulthandler.enable()
    with redact.streams():
        return work(run_dir, parts)


def work(run_dir: Path, parts) -> int:  # type: ignore[no-untyped-def]
    """The job to its last word, which says how it ended."""
    emit = EventLog(run_dir / "events.jsonl")
    try:
        with heartbeat.beating(run_dir) as wants:
            file = run_folder.read_run(run_dir)
            job = file.job
            emit(Status(Phase.LOADING, "Starting"))
            for note in file.notes:
                emit(Noted(note))
            card = hardware.card_of(os.environ)
            with device_lock.device(run_dir, card):
                emit(Placed(card))
                emit(IMPORTING)
                match job:
                    case TrainJob():
                        with sleep_inhibitor.kept() as how:
                            sys.stderr.write(how + "\n")
                            phase = parts(job).train(job, run_dir, emit, wants)
                    case CompareJob():
                        phase = parts(job).serve(job, run_dir, emit, compare_requests.Inbox(sys.stdin))
    except DiskError as error:
        emit(Ended(Phase.PAUSED, f"{error} Then go on with Resume; nothing that was saved is lost."))
        return 0
    except UserError as error:
        emit(Failed(str(error), offers=getattr(error, "offers", ())))
    except Exception as error:
        traceback.print_exc()
        if line := hardware.card_lost(error):
            emit(Failed(lost(line, run_dir), traceback.format_exc()))
            return 1
        if out_of_memory.ran_out(error):
            return AGAIN if step_down(run_dir, emit, str(error)) else 1
        emit(Failed(f"{type(error).__name__}: {error}", traceback.format_exc()))  # a bug: say so, keep the traceback
    else:
        emit(Ended(phase))
        return 0
    return 1


def lost(line: str, run_dir: Path) -> str:
    """What happened, what is safe and what to do after a card has gone in mid-run. line: what CUDA said."""
    view, trains_it = read_view(run_dir), trains(run_dir)
    safe = view.kept if trains_it else "Nothing is lost; load the lanes again."
    return (
        f"The graphics card stopped answering ({line[:200]}). {safe} Restart the computer before that. If it comes again, "
        "the card is too hot, overclocked or short of power, or its driver needs an update."
    )


def say_importing(run_dir: Path) -> None:
    """For a child that imports before it can say so.

    Raises:
        DiskError: the disk is full.
    """
    EventLog(run_dir / "events.jsonl")(IMPORTING)


def step_down(run_dir: Path, emit: EventLog, message: str) -> bool:
    """After memory ran out: write down what a fresh worker shall do with less. False: nothing is left to try; that is said."""
    view, job = read_view(run_dir), run_folder.read_run(run_dir).job
    if not isinstance(job, TrainJob):
        emit(
            Failed(
                f"Memory ran out while comparing: {message.splitlines()[0]} Load fewer lanes, or close other programs."
            )
        )
        return False
    recipe = effective_recipe.in_force(job.recipe, view.changes)
    stage, taken = out_of_memory.stage_at(view, recipe), len(view.out_of_memory)
    shape = shape_for(recipe.model, Workspace.of(run_dir), presets.load_catalogue())
    place = hardware.shows_card(os.environ), view.phase is Phase.LOADING, shape
    rung = out_of_memory.next_rung(recipe, stage, taken, *place)
    if rung is None:
        left, base = out_of_memory.rung_below(recipe, stage, *place), view.used("precision", recipe.precision)
        ways = out_of_memory.offers(recipe, stage, view.row_lengths.get(stage), base, left)
        emit(Failed(out_of_memory.explain(stage, getattr(recipe, stage), taken, left), offers=ways))
        return False
    emit(OutOfMemory(stage, message.splitlines()[0][:500] if message else ""))
    for change in rung.settings:
        emit(change)
    emit(Status(Phase.LOADING, f"Memory ran out: going on with {rung.told}"))
    return True


def killed(run_dir: Path) -> bool:
    """After the system's memory guard ended a worker: as after any lack of memory. False: nothing is left to try."""
    return step_down(
        run_dir, EventLog(run_dir / "events.jsonl"), "The system ended the worker, because memory ran out."
    )


def last_word(run_dir: Path, code: int) -> None:
    """What a worker could not say itself, since it was ended in mid-sentence. Its keeper says it, whether an app looks or not."""
    view = read_view(run_dir)
    if not view.phase.active:
        return
    log = "\n".join(run_folder.log_tail(run_dir, CRASH_LINES)) if restart.crashed(code) else ""
    with suppress(DiskError):
        EventLog(run_dir / "events.jsonl")(Failed(f"The worker {exit_codes.told(code)}{cause(code)}. {view.kept}", log))


def cause(code: int) -> str:
    """What an exit code says about why, as the end of a sentence; nothing where it says nothing."""
    if not restart.by_signal(code):
        return ""  # an NTSTATUS is told with its meaning
    if restart.crashed(code):
        return f": {exit_codes.BELOW}"
    return f" from outside{'; the system counted no lack of memory' if restart.COUNTS.exists() else ''}"


def kept(run_dir: Path, work: Callable[[Path], int], first: int | None = None) -> int:
    """A worker that a parent keeps going, to its end: a fork of it. `first`: a child that works already."""
    return restart.end_like(
        restart.kept(
            partial(work, run_dir), partial(killed, run_dir), first=first, last_word=partial(last_word, run_dir)
        )
    )


def respawned(run_dir: Path, command: Sequence[str]) -> int:
    """The same where the system cannot fork: each worker is this command anew, with nothing in memory."""
    work = partial(restart.in_process, command, {**os.environ, CHILD: "1"})
    less, last = partial(killed, run_dir), partial(last_word, run_dir)
    return restart.end_like(restart.kept(work, less, last_word=last, run=lambda work: work()))


def life(run_dir: Path, work: Callable[[Path], int] = main, forks: bool = hasattr(os, "fork")) -> int:
    """A worker from first to last. One that trains is kept going by a small parent."""
    if CHILD in os.environ or not trains(run_dir):
        return work(run_dir)
    return kept(run_dir, work) if forks else respawned(run_dir, [sys.executable, *sys.orig_argv[1:]])


def trains(run_dir: Path) -> bool:
    """Is it a training run? A folder without a readable run.json is none; that is said by `main`."""
    try:
        return run_folder.train_job(run_folder.read_run(run_dir)) is not None
    except UserError:
        return False
