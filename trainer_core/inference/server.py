"""Comparing: base and adapters answer side by side in one batch. Plain transformers and PEFT, never unsloth.

Unsloth's kernels read the one active adapter and skip the call that carries PEFT's `adapter_names`, so all rows of a mixed
batch would silently get the same adapter; hence a process of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from trainer_core.config.jobs import CompareJob
from trainer_core.errors import DeviceError, UserError
from trainer_core.inference.load import Lanes, dialed, load, proofs
from trainer_core.inference.progress import Progress, Stopped
from trainer_core.inference.scoring import score
from trainer_core.inference.streaming import answer
from trainer_core.inference.token_heatmap import heat
from trainer_core.models import hub, resolve
from trainer_core.runs import compare_requests, run_folder
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Answered, AskFailed, Dialed, LaneProof, LanesLoaded, Phase, ScoreFailed, Status
from trainer_core.runs.workspace import Workspace

__all__ = ["serve"]


def serve(job: CompareJob, run_dir: Path, emit: EventLog, inbox: compare_requests.Inbox) -> Phase:
    """Load all lanes once and answer requests until the app is gone.

    Raises:
        ConfigError: two lanes have one name.
        ModelError: the base or an adapter cannot be loaded.
    """
    emit(Status(Phase.LOADING, "Loading the base model and its adapters"))
    lanes = load(base_of(job, run_dir, emit), job.precision, job.lanes)
    proven = proofs(lanes)
    emit(LanesLoaded(proven))
    emit(Status(Phase.READY, summary(proven)))
    while (request := inbox.next()) is not None:
        match request:
            case compare_requests.Score():
                measure(lanes, request, emit, inbox)
            case compare_requests.Dial():
                lanes = turned(lanes, request, emit)
            case _:
                respond(lanes, request, emit, inbox)
    return Phase.STOPPED


def base_of(job: CompareJob, run_dir: Path, emit: EventLog) -> str:
    """The folder of the base model; one of the Hub is fetched first, if it is not here."""
    model = resolve.resolve(job.model, Workspace.of(run_dir))
    found = hub.fetched(model, lambda text: emit(Status(Phase.LOADING, text))) if resolve.on_the_hub(model) else None
    return str(found or model)


def summary(proven: Sequence[LaneProof]) -> str:
    """What is loaded, and which adapters change nothing."""
    idle = [proof.lane for proof in proven if proof.sha256 and proof.difference == 0]
    equal = f" {' and '.join(idle)}: the adapter changes nothing, the logits equal the base's." if idle else ""
    return f"{len(proven)} lanes on one base.{equal}"


def turned(lanes: Lanes, request: compare_requests.Dial, emit: EventLog) -> Lanes:
    """The lanes with one of them at another strength or blend; what is wrong with that is said, and they stay as they are."""
    try:
        changed = dialed(lanes, request)
        with enough_memory():
            proof = next(proof for proof in proofs(changed) if proof.lane == request.lane)
        emit(Dialed(request.id, proof))
        return changed
    except UserError as error:
        emit(AskFailed(request.id, str(error)))
        return lanes


def respond(
    lanes: Lanes, request: compare_requests.Ask | compare_requests.Heat, emit: EventLog, inbox: compare_requests.Inbox
) -> None:
    """Answer one prompt, or look at one answer; what is wrong with it is said, and the lanes stay loaded."""
    try:
        with enough_memory():
            match request:
                case compare_requests.Ask():
                    ends = answer(lanes, request, emit, inbox.cancelled)
                    emit(Answered(request.id, ends, inbox.cancelled.is_set()))
                case compare_requests.Heat():
                    emit(heat(lanes, request))
    except UserError as error:
        emit(AskFailed(request.id, str(error)))


def measure(lanes: Lanes, request: compare_requests.Score, emit: EventLog, inbox: compare_requests.Inbox) -> None:
    """Score all lanes; what is wrong with the pairs is said, and the lanes stay loaded."""
    try:
        with enough_memory():
            found = score(lanes, request, Progress(emit, inbox.cancelled))
        if request.into:
            run_folder.write_atomically(Path(request.into), json.dumps(asdict(found), indent=1))
        emit(found)
    except UserError as error:
        emit(ScoreFailed(str(error)))
    except Stopped:
        emit(ScoreFailed("Scoring was stopped."))


@contextmanager
def enough_memory() -> Iterator[None]:
    """Memory that ran out on the device is the user's to mend, and what it held is given back.

    Raises:
        DeviceError: the device had not enough of it.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise DeviceError(f"Not enough memory on the device: {error}. Use fewer lanes or a shorter prompt.") from error
