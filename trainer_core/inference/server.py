"""The compare worker: base and adapters answer side by side in one batch."""

# Plain transformers and PEFT in a process without unsloth, whose kernels give every row of a batch the one active adapter.

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import torch

from trainer_core.config.jobs import CompareJob
from trainer_core.errors import DeviceError, UserError
from trainer_core.inference.load import LaneSet, load_lanes, verify_adapters, with_adjusted_lane
from trainer_core.inference.scoring import compute_scores
from trainer_core.inference.streaming import stream_answers
from trainer_core.inference.token_heatmap import build_heatmap
from trainer_core.models import hub, resolve
from trainer_core.runs import compare_requests
from trainer_core.runs.compare_events import (
    AdapterCheck,
    AnswersFinished,
    LaneAdjusted,
    LanesLoaded,
    RequestFailed,
    ScoringFailed,
    ScoringProgress,
)
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Phase, PhaseChanged
from trainer_core.runs.progress import Cancelled, ProgressTracker
from trainer_core.runs.workspace import Workspace
from trainer_core.system.durable import write_atomically
from trainer_core.texts import Text

__all__ = ["serve"]


def serve(job: CompareJob, run_dir: Path, emit: EventLog, wants: StopRequests, requests: TextIO = sys.stdin) -> Phase:
    """Load all lanes once and answer `requests` until the app closes them; `wants` is not read.

    Raises:
        ConfigError: two lanes have the same name.
        ModelError: the base or an adapter cannot be loaded.
    """
    emit(PhaseChanged(Phase.LOADING, Text("loading.lanes")))
    inbox = compare_requests.RequestQueue(requests)
    lanes = load_lanes(fetch_base(job, run_dir, emit), job.precision, job.lanes)
    proven = verify_adapters(lanes)
    emit(LanesLoaded(proven))
    emit(PhaseChanged(Phase.READY, adapter_summary(proven)))
    while (request := inbox.next_request()) is not None:
        match request:
            case compare_requests.ScoreRequest():
                score_lanes(lanes, request, emit, inbox)
            case compare_requests.AdjustLaneRequest():
                lanes = adjust_lane(lanes, request, emit)
            case _:
                handle_request(lanes, request, emit, inbox)
    return Phase.STOPPED


def fetch_base(job: CompareJob, run_dir: Path, emit: EventLog) -> str:
    """The folder of the base model, downloaded from the Hub if it is missing."""
    model = resolve.resolve_model(job.model, Workspace.for_run(run_dir))
    found = (
        hub.fetch_model(model, lambda text: emit(PhaseChanged(Phase.LOADING, text)))
        if resolve.is_hub_id(model)
        else None
    )
    return str(found or model)


def adapter_summary(proven: Sequence[AdapterCheck]) -> Text:
    """What is loaded, and which adapters change nothing."""
    idle = [proof.lane for proof in proven if proof.sha256 and proof.difference == 0]
    if idle:
        return Text("compare.idle_adapters", lanes=len(proven), idle=", ".join(idle))
    return Text("compare.loaded", lanes=len(proven))


def adjust_lane(lanes: LaneSet, request: compare_requests.AdjustLaneRequest, emit: EventLog) -> LaneSet:
    """The lanes after a change of strength or blend; unchanged if it failed."""
    try:
        changed = with_adjusted_lane(lanes, request)
        with handle_out_of_memory():
            proof = next(proof for proof in verify_adapters(changed) if proof.lane == request.lane)
        emit(LaneAdjusted(request.id, proof))
        return changed
    except UserError as error:
        emit(RequestFailed(request.id, error.text))
        return lanes


def handle_request(
    lanes: LaneSet,
    request: compare_requests.GenerateRequest | compare_requests.HeatmapRequest,
    emit: EventLog,
    inbox: compare_requests.RequestQueue,
) -> None:
    """Answer one prompt, or compute one heatmap; emits what failed."""
    try:
        with handle_out_of_memory():
            match request:
                case compare_requests.GenerateRequest():
                    ends = stream_answers(lanes, request, emit, inbox.cancelled)
                    emit(AnswersFinished(request.id, ends, inbox.cancelled.is_set()))
                case compare_requests.HeatmapRequest():
                    emit(build_heatmap(lanes, request))
    except UserError as error:
        emit(RequestFailed(request.id, error.text))


def score_lanes(
    lanes: LaneSet, request: compare_requests.ScoreRequest, emit: EventLog, inbox: compare_requests.RequestQueue
) -> None:
    """Score all lanes; emits what failed."""
    try:
        with handle_out_of_memory():
            found = compute_scores(lanes, request, ProgressTracker(ScoringProgress, emit, inbox.cancelled))
        if request.into:
            write_atomically(Path(request.into), json.dumps(asdict(found), indent=1))
        emit(found)
    except UserError as error:
        emit(ScoringFailed(error.text))
    except Cancelled:
        emit(ScoringFailed(Text("scoring.stopped")))


@contextmanager
def handle_out_of_memory() -> Iterator[None]:
    """Free the device's memory if it ran out.

    Raises:
        DeviceError: the device had too little memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise DeviceError("lane_answers.no_memory", reason=str(error)) from error
