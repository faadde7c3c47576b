"""What a worker can say: the event classes, the log they are appended to, and how events fold into the state of a run.

One line of `events.jsonl` is one event: {"seq": 7, "at": "2026-01-31T12:00:00.123Z", "kind": "Step", ...its fields}.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from pydantic import TypeAdapter

from trainer_core import durable
from trainer_core.redact import redacted

Stage = Literal["sft", "dpo"]


class Phase(StrEnum):
    """queued → loading → sft → dpo → saving → done | stopped | paused | failed; to compare: loading → ready ⇄ answering."""

    QUEUED = "queued"
    LOADING = "loading"
    SFT = "sft"
    DPO = "dpo"
    SAVING = "saving"
    SCORING = "scoring"
    READY = "ready"
    ANSWERING = "answering"
    DONE = "done"
    STOPPED = "stopped"
    PAUSED = "paused"
    FAILED = "failed"

    @property
    def active(self) -> bool:
        """Is there more to come?"""
        return self not in (Phase.DONE, Phase.STOPPED, Phase.PAUSED, Phase.FAILED)

    @property
    def resumable(self) -> bool:
        """Ended before its end, so that it can be gone on with."""
        return self in (Phase.STOPPED, Phase.PAUSED, Phase.FAILED)


@dataclass(frozen=True)
class Offer:
    """One way out of a failure: a sentence, and what it changes in the recipe, as dotted key → value."""

    text: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Status:
    """The worker entered a phase; the detail is a sentence for the page."""

    phase: Phase
    detail: str = ""


@dataclass(frozen=True)
class Prepared:
    """The data as it will be trained on."""

    chats: int
    pairs: int
    held_out: int
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Changed:
    """A value that differs from what was asked, and why."""

    what: str
    asked: str
    used: str
    why: str


@dataclass(frozen=True)
class Noted:
    """A sentence about the data or the run that the user should read: rows that were left out or cut, and the like."""

    text: str


@dataclass(frozen=True)
class Plan:
    """Optimiser steps of each stage, as far as they are known before the first one."""

    steps: dict[str, int]


@dataclass(frozen=True)
class Proof:
    """DPO's first step measured against what it must be: policy and reference are still the same model.

    Losses in nats. `expected_loss` is None where the loss depends on the data (the sft term). `policy` and
    `reference` say in words which weights are which.
    """

    stage: Stage
    loss: float
    expected_loss: float | None
    margin: float
    expected_margin: float
    tolerance: float
    policy: str
    reference: str
    holds: bool


@dataclass(frozen=True, slots=True)  # many of them live as long as the app
class Step:
    """One optimiser step. Loss in nats per token (SFT) or per pair (DPO), log-probs in nats per answer, margins in β·nats."""

    stage: Stage
    step: int
    total: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float
    tokens_per_second: float
    seconds_left: float
    margin: float | None = None
    accuracy: float | None = None
    chosen: float | None = None
    rejected: float | None = None


@dataclass(frozen=True)
class Evaluated:
    """The held-out rows at a step, measured in training. Units are those of `Step`; accuracy and margin in DPO only.

    rows: how many of them, the same at every step of a stage. seconds: what it took.
    """

    stage: Stage
    step: int
    loss: float
    accuracy: float | None = None
    margin: float | None = None
    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Sample:
    """One answer to a fixed prompt. ended: by itself, not cut at the most tokens it may have."""

    prompt: str
    answer: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class Sampled:
    """What the model answers to the run's fixed prompts at a step, always taking the likeliest token.

    Step 0 is the base alone; of a run there is one. seconds: what it took.
    """

    stage: Stage
    step: int
    samples: tuple[Sample, ...]
    seconds: float


@dataclass(frozen=True)
class Resumed:
    """A stage goes on from a checkpoint (step 0: from its beginning); later steps that were lost are made again.

    `skipped` has a sentence for each newer checkpoint that could not be used.
    """

    stage: Stage
    step: int
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpointed:
    """The run can be continued from this step. `folder` is relative to the run folder."""

    stage: Stage
    step: int
    folder: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class RowLengths:
    """How long a stage's rows are, in tokens as trained. most: 95 % of them have at most so many; beyond: the share of all
    tokens that lies behind that."""

    stage: Stage
    longest: int
    most: int
    beyond: float


@dataclass(frozen=True)
class Probed:
    """Memory as it was measured on the longest rows before the first step. Bytes, and tokens of a micro-batch.

    peak: with a whole micro-batch, and what the optimiser will add. half: what was measured with half of it, or less.
    most: what a run may take. cut: the whole micro-batch was not tried, its peak follows from the half.
    """

    stage: Stage
    tokens: int
    half: int
    peak: int
    most: int
    seconds: float
    cut: bool = False


@dataclass(frozen=True)
class OutOfMemory:
    """Memory ran out, and a fresh worker goes on with less; what changes follows as `Changed` events."""

    stage: Stage
    message: str


@dataclass(frozen=True)
class Saved:
    """An adapter is complete on disk. `folder` is relative to the run folder."""

    stage: Stage
    folder: str
    bytes: int
    step: int


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval, and how many things it was measured on. No interval: too few of them."""

    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Forgetting:
    """A lane against the base on the general questions.

    change: of the share answered rightly. p_value: of the exact McNemar test.
    """

    lost: int
    gained: int
    change: Measured
    p_value: float

    @property
    def harmed(self) -> bool:
        """Did it drop beyond chance?"""
        return self.change.high is not None and self.change.high < 0


@dataclass(frozen=True)
class OwnAnswers:
    """What a lane's own answers are like.

    tokens: their mean length. ratio: that ÷ the base's, where the base is a lane.
    ended: share that ended by themselves.
    repetition: mean share of phrases of four tokens that were written before in the same answer.
    """

    tokens: Measured
    ended: Measured
    repetition: Measured
    ratio: Measured | None = None


@dataclass(frozen=True)
class LaneScore:
    """One lane, measured. What was not asked for, or cannot be said, is None.

    On the held-out pairs:
    accuracy: share of pairs whose chosen answer is likelier per token than the rejected one (its end token included).
    margin: mean difference of the two, in nats per token.
    reward_accuracy, reward_margin: the same for DPO's implicit reward log π(answer) − log π_reference(answer), summed
        over the answer, in nats; times the run's beta it is DPO's own margin. None for what equals the reference.
    perplexity: of the chosen answers, exp of the mean nats per token over all of them.
    divergence: mean KL(lane ‖ base) per token of the chosen answers, in nats; the base reads the same system prompt.

    own: of its own answers to the prompts.

    On the bundled general questions:
    general: share answered rightly. forgetting: against the base.
    """

    lane: str
    accuracy: Measured
    margin: Measured
    perplexity: Measured
    divergence: Measured
    reward_accuracy: Measured | None = None
    reward_margin: Measured | None = None
    own: OwnAnswers | None = None
    general: Measured | None = None
    forgetting: Forgetting | None = None


@dataclass(frozen=True)
class Written:
    """What the lanes answered to a prompt while they were scored."""

    prompt: str
    answers: dict[str, str]


@dataclass(frozen=True)
class Scored:
    """All lanes, in their order. `reference` names the lane that the rewards are measured against."""

    scores: tuple[LaneScore, ...]
    reference: str = "the base"
    written: tuple[Written, ...] = ()


@dataclass(frozen=True)
class Scoring:
    """How far the scoring is: part `number` of `parts`, of which `done` of `total` tokens are done.

    seconds_left: to the end of this part, None before the first measure; of answers in the making it is the most.
    """

    part: str
    number: int
    parts: int
    done: int
    total: int
    seconds_left: float | None

    @property
    def told(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left:.0f} s left"
        return f"Scoring, part {self.number} of {self.parts}: {self.part}, {self.done / self.total:.0%}{left}"


@dataclass(frozen=True)
class ScoreFailed:
    """The lanes could not be scored, or scoring was stopped; they stay loaded."""

    message: str


@dataclass(frozen=True)
class Asked:
    """A prompt went to the lanes."""

    ask: str
    prompt: str
    lanes: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """Lanes grew: lane name → the text that came since the last event."""

    ask: str
    more: dict[str, str]


@dataclass(frozen=True)
class LaneEnd:
    tokens: int
    seconds: float
    ended_itself: bool


@dataclass(frozen=True)
class Answered:
    """All lanes of a prompt are complete (or were cancelled, which `cancelled` says)."""

    ask: str
    ends: dict[str, LaneEnd]
    cancelled: bool = False


@dataclass(frozen=True)
class AskFailed:
    """One Ask, Dial or Heat could not be done; the lanes stay loaded."""

    ask: str
    message: str


@dataclass(frozen=True)
class LaneProof:
    """That a lane is what its name says: the adapter's hash, and by how much its logits differ from the base's.

    sha256: the first 12 digits, of both adapters in a blend; empty for the base.
    difference: largest absolute difference over a fixed prompt, in logits; 0 means the adapter changes nothing.
    strength, share: of the lane as it is now, see config.Lane.
    """

    lane: str
    sha256: str
    difference: float
    strength: float = 1.0
    share: float = 0.0


@dataclass(frozen=True)
class LanesLoaded:
    proofs: tuple[LaneProof, ...]


@dataclass(frozen=True)
class Dialed:
    """A lane has another strength or blend, from the next answer on."""

    ask: str
    proof: LaneProof


@dataclass(frozen=True)
class Piece:
    """A token of an answer, or several that make up one character, and its log-probability under two lanes, in nats."""

    text: str
    first: float
    second: float


@dataclass(frozen=True)
class Heated:
    """An answer piece by piece under two lanes; the end token is the last piece, if the answer ended by itself."""

    ask: str
    lanes: tuple[str, str]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Ended:
    """The last word of a run that went as asked: done or stopped."""

    phase: Phase
    detail: str = ""


@dataclass(frozen=True)
class Failed:
    """The last word of a run that went wrong. `details` is the traceback of a bug, or empty; `offers` are ways out."""

    message: str
    details: str = ""
    offers: tuple[Offer, ...] = ()


Event = (
    Status | Prepared | Changed | Noted | Plan | RowLengths | Probed | Proof | Step | Evaluated
    | Sampled | Resumed | Checkpointed | OutOfMemory | Saved
    | Scoring | Scored | ScoreFailed | Asked | Text | Answered
    | AskFailed | LanesLoaded | Dialed | Heated | Ended | Failed
)  # fmt: skip
KINDS: Mapping[str, type] = {kind.__name__: kind for kind in Event.__args__}


RESERVE_BYTES = 64 * 1024


class EventLog:
    """Appends events, one write per line, from any thread of the one process that owns the file.

    A reserve lies beside the file, so that a full disk can still be said: it is given up for the last words.
    """

    def __init__(self, path: Path):
        self.path, self._reserve = path, path.with_name(".reserve")
        cut_torn_tail(path)
        self._seq = path.read_bytes().count(b"\n") if path.exists() else 0
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (open as long as the worker lives)
        self._lock = threading.Lock()
        with durable.disk_errors(self._reserve):
            self._reserve.write_bytes(bytes(RESERVE_BYTES))

    def __call__(self, event: Event) -> None:
        """Append one event.

        Raises:
            DiskError: the disk is full; what is said from now on goes into the reserve.
        """
        with self._lock, durable.disk_errors(self.path):
            line = encode(event, self._seq + 1, datetime.now(UTC))
            try:
                if self._reserve.exists():  # given up, it has made room
                    durable.point(self.path)
                self._append(line)
            except OSError:
                self._reserve.unlink(missing_ok=True)
                if not isinstance(event, Ended | Failed):
                    raise
                self._append(line)  # a last word is said at once into the room that this left
            self._seq += 1

    def _append(self, line: bytes) -> None:
        """All of the line or nothing of it: half a line would swallow the next."""
        whole = self.path.stat().st_size
        try:
            written = self._file.write(line)
        except OSError:
            os.truncate(self.path, whole)
            raise
        if written != len(line):
            os.truncate(self.path, whole)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def encode(event: Event, seq: int, at: datetime) -> bytes:
    """One event as one line, without secrets."""
    head = {
        "seq": seq,
        "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "kind": type(event).__name__,
    }
    return (redacted(json.dumps(head | asdict(event), ensure_ascii=False)) + "\n").encode("utf-8", "replace")


def decode(line: bytes) -> Event:
    """The event of one line.

    Raises:
        ValueError: the line is no event of this version.
    """
    values = json.loads(line)
    kind = values.pop("kind", "") if isinstance(values, dict) else ""
    if kind not in KINDS:
        raise ValueError(f"unknown event kind {kind!r}")
    fields = {key: value for key, value in values.items() if key not in ("seq", "at")}
    return adapter(KINDS[kind]).validate_python(fields)


@cache
def adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def cut_torn_tail(path: Path) -> None:
    """Remove a last line without its newline: a killed worker leaves one, and the next event would be glued to it."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def read_view(run_dir: Path) -> RunView:
    """All that the events of a folder say, up to now."""
    return folded(RunView(run_dir.name), Tail(run_dir / "events.jsonl"))


class Tail:
    """Reads what was appended since the last time; only whole lines count."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = self._line = 0

    def grew(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > self._offset

    def __iter__(self) -> Iterator[Event]:
        """The new events. A line that is none becomes a note about itself, so that it hides neither the rest nor other runs."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self._line += 1
                try:
                    yield decode(line)
                except ValueError:
                    yield Noted(
                        f"Line {self._line} of {self.path.name} cannot be read: it was damaged, or written by another version of "
                        "Tunebench. Adapters and checkpoints are as they were."
                    )


@dataclass(frozen=True)
class Said:
    """What the lanes said to one question: the texts, and how they ended once they have (empty until then)."""

    answers: Mapping[str, str]
    ends: Mapping[str, LaneEnd]
    problem: str = ""
    """Why there is no answer."""
    cancelled: bool = False


KEPT_ANSWERS = 200
"""Questions whose answers stay at hand: the one on the page, while others are answered ahead or for a judge."""


@dataclass(frozen=True)
class RunView:
    """All that is known of a run, folded from its events."""

    id: str
    phase: Phase = Phase.QUEUED
    detail: str = ""
    stalled: str = ""
    """Why a living run is not getting on; found by whoever looks at it, not by its events."""
    error: str = ""
    traceback: str = ""
    points: tuple[Step, ...] = ()
    evaluated: tuple[Evaluated, ...] = ()
    sampled: tuple[Sampled, ...] = ()
    planned: Mapping[str, int] = field(default_factory=dict)
    prepared: Prepared | None = None
    proof: Proof | None = None
    changes: tuple[Changed, ...] = ()
    notes: tuple[str, ...] = ()
    adapters: Mapping[str, str] = field(default_factory=dict)
    checkpoints: tuple[Checkpointed, ...] = ()
    out_of_memory: tuple[OutOfMemory, ...] = ()
    row_lengths: Mapping[str, RowLengths] = field(default_factory=dict)
    probed: Mapping[str, Probed] = field(default_factory=dict)
    offers: tuple[Offer, ...] = ()
    scored: Scored | None = None
    scoring: Scoring | None = None
    unscored: str = ""
    lanes: tuple[LaneProof, ...] = ()
    ask: str = ""
    prompt: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[str, LaneEnd] = field(default_factory=dict)
    said: Mapping[str, Said] = field(default_factory=dict)
    heated: Heated | None = None

    def said_to(self, ask: str) -> Said | None:
        """What was said to a question; None before its turn has come, and when it is long past."""
        if ask and ask == self.ask and ask not in self.said:
            return Said(self.answers, self.ends)
        return self.said.get(ask)

    @property
    def scores(self) -> tuple[LaneScore, ...]:
        return self.scored.scores if self.scored else ()

    @property
    def last(self) -> Step | None:
        return self.points[-1] if self.points else None

    def best(self, stage: Stage) -> Evaluated | None:
        """The lowest held-out loss of a stage that was measured at least twice."""
        measured = [one for one in self.evaluated if one.stage == stage and isfinite(one.loss)]
        return min(measured, key=lambda one: one.loss) if len(measured) > 1 else None

    def steps(self, stage: Stage) -> int:
        """Optimiser steps that a stage has done."""
        return max((point.step for point in self.points if point.stage == stage), default=0)

    def used(self, what: str, asked: str) -> str:
        """The value a setting really had: what was asked, unless the run says otherwise."""
        return next((change.used for change in reversed(self.changes) if change.what == what), asked)

    @property
    def progress(self) -> float:
        """Share of all planned optimiser steps that are done, 0 to 1."""
        if self.phase is Phase.DONE:
            return 1.0
        total = sum(self.planned.values())
        return min(len(self.points) / total, 1.0) if total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time to the end of training from the measured steps; None before the first one and after the last."""
        if not self.last or not self.phase.active:
            return None
        later = sum(steps for stage, steps in self.planned.items() if stage not in {p.stage for p in self.points})
        return self.last.seconds_left + later * self.last.seconds


def folded(view: RunView, events: Iterable[Event]) -> RunView:
    """The view after these events. Steps in a row are added at once: a copy of all points for each would be quadratic."""
    for kind, alike in groupby(events, key=type):
        if kind is Step:
            view = replace(view, points=(*view.points, *cast("Iterator[Step]", alike)))
        else:
            for event in alike:
                view = fold(view, event)
    return view


def fold(view: RunView, event: Event) -> RunView:  # noqa: C901  (one case per event class, none of them longer than a line)
    """The view after one more event."""
    match event:
        case Status(phase, detail):
            return replace(view, phase=phase, detail=detail, error="", traceback="", offers=())
        case Prepared():
            return replace(view, prepared=event, notes=joined(view.notes, event.notes))
        case Changed():
            return replace(view, changes=joined(view.changes, (event,)))
        case Noted(text):
            return replace(view, notes=joined(view.notes, (text,)))
        case Plan(steps):
            return replace(view, planned=steps)
        case Proof():
            return replace(view, proof=event)
        case Step():
            return replace(view, points=(*view.points, event))
        case Evaluated():
            return replace(view, evaluated=(*view.evaluated, event))
        case Sampled():
            return replace(view, sampled=(*view.sampled, event))
        case Resumed(stage, step, skipped):
            return resumed(view, stage, step, skipped)
        case Checkpointed():
            return replace(view, checkpoints=joined(view.checkpoints, (event,)))
        case RowLengths(stage):
            return replace(view, row_lengths={**view.row_lengths, stage: event})
        case Probed(stage):
            return replace(view, probed={**view.probed, stage: event})
        case OutOfMemory():
            return replace(view, out_of_memory=(*view.out_of_memory, event))
        case Saved(stage, folder):
            return replace(view, adapters={**view.adapters, stage: folder})
        case Scoring():
            return replace(view, phase=Phase.SCORING, detail=event.told, scoring=event, unscored="")
        case Scored():
            return replace(view, phase=Phase.READY, scored=event, scoring=None, detail="Scored.")
        case ScoreFailed(message):
            return replace(view, phase=Phase.READY, detail=message, scoring=None, unscored=message)
        case Asked(ask, prompt, lanes):
            blank = dict.fromkeys(lanes, "")
            return replace(view, phase=Phase.ANSWERING, ask=ask, prompt=prompt, answers=blank, ends={})
        case Text(_, more):
            return replace(view, answers={lane: text + more.get(lane, "") for lane, text in view.answers.items()})
        case AskFailed(ask, message):
            return keeping(replace(view, phase=Phase.READY, ask=ask, detail=message), ask, Said({}, {}, message))
        case LanesLoaded(proofs):
            return replace(view, lanes=proofs)
        case Dialed(_, proof):
            now = tuple(proof if one.lane == proof.lane else one for one in view.lanes)
            return replace(view, phase=Phase.READY, lanes=now)
        case Heated():
            return replace(view, phase=Phase.READY, heated=event)
        case Answered(ask, ends, cancelled):
            said = Said(view.answers, ends, cancelled=cancelled)
            return keeping(replace(view, phase=Phase.READY, ends=ends), ask, said)
        case Ended(phase, detail):
            return replace(view, phase=phase, detail=detail)
        case Failed(message, details, offers):
            return replace(view, phase=Phase.FAILED, error=message, traceback=details, offers=offers)


def keeping(view: RunView, ask: str, said: Said) -> RunView:
    """The view with what was said to a question, and without what was said long ago."""
    return replace(view, said=dict([*view.said.items(), (ask, said)][-KEPT_ANSWERS:]))


T = TypeVar("T")


def joined(known: tuple[T, ...], new: tuple[T, ...]) -> tuple[T, ...]:
    """What is new added; a worker that goes on says some things a second time."""
    return (*known, *(one for one in new if one not in known))


def resumed(view: RunView, stage: Stage, step: int, skipped: tuple[str, ...]) -> RunView:
    """The view without the steps, checkpoints and adapter that will be made again."""

    def stays(one: Step | Evaluated | Sampled | Checkpointed) -> bool:
        return one.stage != stage or one.step <= step

    return replace(
        view,
        points=tuple(filter(stays, view.points)),
        evaluated=tuple(filter(stays, view.evaluated)),
        sampled=tuple(filter(stays, view.sampled)),
        checkpoints=tuple(filter(stays, view.checkpoints)),
        adapters={name: folder for name, folder in view.adapters.items() if name != stage},
        notes=joined(view.notes, skipped),
    )


def settle(view: RunView, alive: bool, last_line: str) -> RunView:
    """An active run without a process failed, whatever its last event said."""
    if not view.phase.active or alive:
        return view
    said = f" The last line of its log: {last_line}" if last_line else ""
    return replace(view, phase=Phase.FAILED, error=f"The worker ended without a last word.{said}")
