"""The child process: one job, one run folder, one last word. `python -m trainer_core.worker RUN_DIR`."""

from __future__ import annotations

import faulthandler
import signal
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from trainer_core import requests, runs
from trainer_core.config import CompareJob, Job, TrainJob
from trainer_core.errors import UserError
from trainer_core.events import Ended, EventLog, Failed, Phase, Status


class Parts(Protocol):
    """What does the work: `engine` trains, `lanes` compares."""

    def train(self, job: TrainJob, run_dir: Path, emit: EventLog, wants: runs.Wants) -> Phase: ...
    def serve(self, job: CompareJob, run_dir: Path, emit: EventLog, inbox: requests.Inbox) -> Phase: ...


def ml_parts(job: Job) -> Parts:
    """The heavy half for a job. One process never holds both: unsloth's patched kernels would ignore a lane's adapter."""
    parts: ModuleType
    match job:
        case CompareJob():
            from trainer_core import lanes as parts
        case TrainJob():
            from trainer_core import engine as parts  # its first line is `import unsloth`
    return cast(Parts, parts)


def main(run_dir: Path, parts=ml_parts) -> int:  # type: ignore[no-untyped-def]
    """Run the job of a folder to its last word; 0 if that word is done or stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; only a request ends a run
    faulthandler.enable()
    emit = EventLog(run_dir / "events.jsonl")
    try:
        with runs.beating(run_dir) as wants:
            job = runs.read_run(run_dir).job
            emit(Status(Phase.LOADING, "Starting"))
            with runs.device_lease(runs.Workspace.of(run_dir), run_dir.name):
                match job:
                    case TrainJob():
                        phase = parts(job).train(job, run_dir, emit, wants)
                    case CompareJob():
                        phase = parts(job).serve(job, run_dir, emit, requests.Inbox(sys.stdin))
    except UserError as error:
        emit(Failed(str(error)))
    except Exception as error:  # a bug: say so, keep the traceback
        emit(Failed(f"{type(error).__name__}: {error}", traceback.format_exc()))
        traceback.print_exc()
    else:
        emit(Ended(phase))
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
