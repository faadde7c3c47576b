"""The state of a run, folded from its events. Pages, reports and commands read it instead of the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import TypeVar, cast

from trainer_core.errors import ConfigError
from trainer_core.runs.compare_events import (
    AdapterCheck,
    AnswersFinished,
    AnswerStats,
    CompareEvent,
    LaneAdjusted,
    LaneScore,
    LanesLoaded,
    PromptStarted,
    RequestFailed,
    ScoresReady,
    ScoringFailed,
    ScoringProgress,
    TextChunk,
    TokenHeatmap,
)
from trainer_core.runs.event_log import Tail
from trainer_core.runs.events import (
    AdapterSaved,
    CheckpointSaved,
    DataPrepared,
    DeviceAcquired,
    Evaluation,
    Event,
    MemoryProbed,
    Notice,
    OutOfMemory,
    Phase,
    PhaseChanged,
    ReferenceCheck,
    RowLengths,
    RunEnded,
    RunFailed,
    SampleAnswers,
    SettingChanged,
    Stage,
    StageResumed,
    StepsPlanned,
    Suggestion,
    TrainEvent,
    TrainStep,
)
from trainer_core.runs.export_events import ExportEvent, ExportFinished, ExportPart, ExportProgress, ExportRegistered
from trainer_core.system import untrusted_files
from trainer_core.system.untrusted_files import UnsafeFile
from trainer_core.texts import NO_TEXT, Text


@dataclass(frozen=True)
class PromptAnswers:
    """The lanes' answers to one prompt, and their statistics (empty until they end)."""

    answers: Mapping[str, str]
    ends: Mapping[str, AnswerStats]
    problem: Text = NO_TEXT
    """Why there is no answer."""
    cancelled: bool = False


MAX_NOTES = 1_000
"""Notes, changes and checkpoints kept of one run; more mean a damaged log."""
MAX_ANSWERS = 200
"""Prompts whose answers stay in memory: the one on the page, and others answered ahead or for a judge."""


@dataclass(frozen=True)
class RunState:
    """The state of a run, folded from its events."""

    id: str
    phase: Phase = Phase.QUEUED
    stage: str = ""
    """Stage of the phase, if any."""
    detail: Text = NO_TEXT
    card: str = ""
    """UUID of the newest worker's graphics card; empty: the processor."""
    stalled: str = ""
    """Why a live run makes no progress; set by the reader, not by events."""
    error: Text = NO_TEXT
    traceback: str = ""
    unreadable: str = ""
    """Why the run cannot be shown; set by the reader."""
    points: tuple[TrainStep, ...] = ()
    evaluated: tuple[Evaluation, ...] = ()
    sampled: tuple[SampleAnswers, ...] = ()
    planned: Mapping[str, int] = field(default_factory=dict)
    prepared: DataPrepared | None = None
    proof: ReferenceCheck | None = None
    changes: tuple[SettingChanged, ...] = ()
    notes: tuple[Text, ...] = ()
    adapters: Mapping[str, str] = field(default_factory=dict)
    checkpoints: tuple[CheckpointSaved, ...] = ()
    out_of_memory: tuple[OutOfMemory, ...] = ()
    row_lengths: Mapping[str, RowLengths] = field(default_factory=dict)
    probed: Mapping[str, MemoryProbed] = field(default_factory=dict)
    offers: tuple[Suggestion, ...] = ()
    scored: ScoresReady | None = None
    scoring: ScoringProgress | None = None
    scoring_error: Text = NO_TEXT
    lanes: tuple[AdapterCheck, ...] = ()
    ask: str = ""
    prompt: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[str, AnswerStats] = field(default_factory=dict)
    said: Mapping[str, PromptAnswers] = field(default_factory=dict)
    heated: TokenHeatmap | None = None
    exporting: ExportProgress | None = None
    exported: ExportFinished | None = None
    registered: Mapping[str, ExportRegistered] = field(default_factory=dict)
    """What programs on this computer were given, by export target."""

    @property
    def refused_programs(self) -> tuple[str, ...]:
        """Export targets whose program did not take its form."""
        return tuple(target for target, one in self.registered.items() if one.problem)

    def answers_to(self, ask: str) -> PromptAnswers | None:
        """Answers to a prompt; None before its turn, and once they are dropped."""
        if ask and ask == self.ask and ask not in self.said:
            return PromptAnswers(self.answers, self.ends)
        return self.said.get(ask)

    @property
    def training_stage(self) -> str:
        """The stage in training; empty in every other phase."""
        return self.stage if self.phase is Phase.TRAINING else ""

    @property
    def scores(self) -> tuple[LaneScore, ...]:
        return self.scored.scores if self.scored else ()

    @property
    def last_step(self) -> TrainStep | None:
        return self.points[-1] if self.points else None

    def best_evaluation(self, stage: Stage) -> Evaluation | None:
        """The lowest held-out loss of a stage, if it has at least two evaluations."""
        measured = [one for one in self.evaluated if one.stage == stage and isfinite(one.loss)]
        return min(measured, key=lambda one: one.loss) if len(measured) > 1 else None

    def steps_done(self, stage: Stage) -> int:
        return max((point.step for point in self.points if point.stage == stage), default=0)

    @property
    def resume_hint(self) -> Text:
        """Where Resume would start if the run ended now."""
        newest = self.checkpoints[-1] if self.checkpoints else None
        if newest and newest.stage not in self.adapters:
            return Text("resume.from_step", stage=newest.stage.upper(), step=newest.step)
        if self.adapters:
            return Text("resume.after_stage", stage=list(self.adapters)[-1].upper())
        return Text("resume.from_start")

    def effective_value(self, what: str, asked: str) -> str:
        """The value that was used: `asked`, unless the run changed it."""
        return next((change.used for change in reversed(self.changes) if change.what == what), asked)

    @property
    def progress(self) -> float:
        """Share of all planned optimiser steps done, 0 to 1."""
        if self.phase is Phase.DONE:
            return 1.0
        total = sum(self.planned.values())
        return min(len(self.points) / total, 1.0) if total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds left in training, from the measured steps; None before the first step and after the last."""
        if not self.last_step or not self.phase.is_active:
            return None
        begun = {self.points[0].stage, self.last_step.stage}  # at most two stages, one after the other
        later = sum(steps for stage, steps in self.planned.items() if stage not in begun)
        return self.last_step.seconds_left + later * self.last_step.seconds


def apply_all(view: RunState, events: Iterable[Event]) -> RunState:
    """The state after these events. Consecutive steps are added together: copying all points per step would be quadratic."""
    for kind, alike in groupby(events, key=type):
        if kind is TrainStep:
            view = replace(view, points=(*view.points, *cast("Iterator[TrainStep]", alike)))
        else:
            for event in alike:
                view = apply(view, event)
    return view


def apply(view: RunState, event: Event) -> RunState:
    if isinstance(event, TrainEvent):
        return apply_train_event(view, event)
    if isinstance(event, CompareEvent):
        return apply_compare_event(view, event)
    if isinstance(event, ExportEvent):
        return apply_export_event(view, event)
    match event:
        case PhaseChanged(phase, detail, stage):
            return replace(view, phase=phase, stage=stage, detail=detail, error=NO_TEXT, traceback="", offers=())
        case DeviceAcquired(card):
            return replace(view, card=card)
        case Notice(text):
            return replace(view, notes=append_new(view.notes, (text,)))
        case RunEnded(phase, detail):
            return replace(view, phase=phase, detail=detail)
        case RunFailed(message, details, offers):
            return replace(view, phase=Phase.FAILED, error=message, traceback=details, offers=offers)


def apply_train_event(view: RunState, event: TrainEvent) -> RunState:  # noqa: C901  (one case per event class, a line each)
    match event:
        case DataPrepared():
            return replace(view, prepared=event, notes=append_new(view.notes, event.notes))
        case SettingChanged():
            return replace(view, changes=append_new(view.changes, (event,)))
        case StepsPlanned(steps):
            return replace(view, planned=steps)
        case ReferenceCheck():
            return replace(view, proof=event)
        case TrainStep():
            return replace(view, points=(*view.points, event))
        case Evaluation():
            return replace(view, evaluated=(*view.evaluated, event))
        case SampleAnswers():
            return replace(view, sampled=(*view.sampled, event))
        case StageResumed(stage, step, skipped):
            return rewind_stage(view, stage, step, skipped)
        case CheckpointSaved():
            return replace(view, checkpoints=append_new(view.checkpoints, (event,)))
        case RowLengths(stage):
            return replace(view, row_lengths={**view.row_lengths, stage: event})
        case MemoryProbed(stage):
            return replace(view, probed={**view.probed, stage: event})
        case OutOfMemory():
            return replace(view, out_of_memory=(*view.out_of_memory, event))
        case AdapterSaved(stage, folder):
            return replace(view, adapters={**view.adapters, stage: folder})


def apply_compare_event(view: RunState, event: CompareEvent) -> RunState:  # noqa: C901  (one case per event class)
    match event:
        case ScoringProgress():
            return replace(view, phase=Phase.SCORING, detail=event.summary, scoring=event, scoring_error=NO_TEXT)
        case ScoresReady():
            return replace(view, phase=Phase.READY, scored=event, scoring=None, detail=Text("scoring.done"))
        case ScoringFailed(message):
            return replace(view, phase=Phase.READY, detail=message, scoring=None, scoring_error=message)
        case PromptStarted(ask, prompt, lanes):
            blank = dict.fromkeys(lanes, "")
            return replace(view, phase=Phase.ANSWERING, ask=ask, prompt=prompt, answers=blank, ends={})
        case TextChunk(_, more):
            return replace(view, answers={lane: text + more.get(lane, "") for lane, text in view.answers.items()})
        case AnswersFinished(ask, ends, cancelled):
            said = PromptAnswers(view.answers, ends, cancelled=cancelled)
            return with_answers(replace(view, phase=Phase.READY, ends=ends), ask, said)
        case RequestFailed(ask, message):
            return with_answers(
                replace(view, phase=Phase.READY, ask=ask, detail=message), ask, PromptAnswers({}, {}, message)
            )
        case LanesLoaded(proofs):
            return replace(view, lanes=proofs)
        case LaneAdjusted(_, proof):
            now = tuple(proof if one.lane == proof.lane else one for one in view.lanes)
            return replace(view, phase=Phase.READY, lanes=now)
        case TokenHeatmap():
            return replace(view, phase=Phase.READY, heated=event)


def apply_export_event(view: RunState, event: ExportEvent) -> RunState:
    match event:
        case ExportProgress():
            return replace(view, exporting=event, detail=event.part)
        case ExportPart():
            return view
        case ExportFinished():
            return replace(view, exporting=None, exported=event)
        case ExportRegistered():
            return replace(view, registered={**view.registered, event.target: event})


def with_answers(view: RunState, ask: str, said: PromptAnswers) -> RunState:
    """Add a prompt's answers and drop the oldest."""
    return replace(view, said=dict([*view.said.items(), (ask, said)][-MAX_ANSWERS:]))


T = TypeVar("T")


def append_new(known: tuple[T, ...], new: tuple[T, ...]) -> tuple[T, ...]:
    """Add new items only; a resumed worker reports some twice."""
    return (
        (*known, *(one for one in new[:MAX_NOTES] if one not in known))[:MAX_NOTES] if len(known) < MAX_NOTES else known
    )


def rewind_stage(view: RunState, stage: Stage, step: int, skipped: tuple[Text, ...]) -> RunState:
    """Drop the steps, checkpoints and adapter that will be made again."""

    def stays(one: TrainStep | Evaluation | SampleAnswers | CheckpointSaved) -> bool:
        return one.stage != stage or one.step <= step

    return replace(
        view,
        points=tuple(filter(stays, view.points)),
        evaluated=tuple(filter(stays, view.evaluated)),
        sampled=tuple(filter(stays, view.sampled)),
        checkpoints=tuple(filter(stays, view.checkpoints)),
        adapters={name: folder for name, folder in view.adapters.items() if name != stage},
        notes=append_new(view.notes, skipped),
    )


def mark_dead(view: RunState, alive: bool, last_line: str) -> RunState:
    """An active run without a process has failed, whatever its last event was."""
    if not view.phase.is_active or alive:
        return view
    error = Text("worker.silent_end_with_log", line=last_line) if last_line else Text("worker.silent_end")
    return replace(view, phase=Phase.FAILED, error=error)


def read_run_state(run_dir: Path) -> RunState:
    """The state from all events so far.

    Raises:
        ConfigError: the log cannot be read.
    """
    try:
        return apply_all(RunState(untrusted_files.printable_id(run_dir)), Tail(run_dir / "events.jsonl"))
    except OSError as error:
        raise ConfigError(unreadable_reason("events.jsonl", error)) from error


def unreadable_reason(name: str, error: OSError) -> Text:
    code = "run.unsafe_file" if isinstance(error, UnsafeFile) else "run.unreadable_file"
    return Text(code, name=name, reason=error.strerror)
