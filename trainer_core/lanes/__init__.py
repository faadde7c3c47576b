"""Comparing: base and adapters answer side by side in one batch. Plain transformers and PEFT, never unsloth.

Unsloth's kernels read the one active adapter and skip the call that carries PEFT's `adapter_names`, so all rows of a mixed
batch would silently get the same adapter; hence a process of its own.
"""

from __future__ import annotations

from pathlib import Path

from trainer_core import models, requests, runs
from trainer_core.config import CompareJob
from trainer_core.errors import UserError
from trainer_core.events import Answered, AskFailed, EventLog, LanesLoaded, Phase, Status
from trainer_core.lanes.generate import answer
from trainer_core.lanes.load import Lanes, load, proofs
from trainer_core.lanes.score import score

__all__ = ["serve"]


def serve(job: CompareJob, run_dir: Path, emit: EventLog, inbox: requests.Inbox) -> Phase:
    """Load all lanes once and answer requests until the app is gone.

    Raises:
        ModelError: the base or an adapter cannot be loaded.
    """
    emit(Status(Phase.LOADING, "Loading the base model"))
    lanes = load(models.resolve(job.model, runs.Workspace.of(run_dir)), job.precision, job.lanes)
    emit(LanesLoaded(proofs(lanes)))
    emit(Status(Phase.READY, f"{len(job.lanes)} lanes on one base"))
    while (request := inbox.next()) is not None:
        match request:
            case requests.Ask():
                respond(lanes, request, emit, inbox)
            case requests.Score():
                emit(Status(Phase.SCORING, "Scoring on the held-out pairs"))
                emit(score(lanes, request, lambda text: emit(Status(Phase.SCORING, text))))
    return Phase.STOPPED


def respond(lanes: Lanes, request: requests.Ask, emit: EventLog, inbox: requests.Inbox) -> None:
    """Answer one prompt; what is wrong with it is said, and the lanes stay loaded."""
    try:
        ends = answer(lanes, request, emit, inbox.cancelled)
        emit(Answered(request.id, ends, inbox.cancelled.is_set()))
    except UserError as error:
        emit(AskFailed(request.id, str(error)))
