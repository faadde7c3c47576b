"""Events of a worker, one class per kind; those of Compare are in `compare_events.py`. `event_log.py` writes and reads them,
`run_state.py` folds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator

from trainer_core.config.recipe import METHODS
from trainer_core.methods.base import RowKind
from trainer_core.runs.compare_events import CompareEvent
from trainer_core.runs.export_events import ExportEvent
from trainer_core.texts import NO_TEXT, Text


def check_stage(key: str) -> str:
    if key not in METHODS:
        raise ValueError(f"no method {key[:80]!r}")
    return key


Stage = Annotated[str, AfterValidator(check_stage)]
"""A stage of a run: the key of its method."""


class Phase(StrEnum):
    """queued → loading → training → saving (per stage) → done | stopped | paused | failed;
    compare: loading → ready ⇄ answering."""

    QUEUED = "queued"
    LOADING = "loading"
    TRAINING = "training"
    SAVING = "saving"
    SCORING = "scoring"
    READY = "ready"
    ANSWERING = "answering"
    DONE = "done"
    STOPPED = "stopped"
    PAUSED = "paused"
    FAILED = "failed"

    @property
    def is_active(self) -> bool:
        return self not in (Phase.DONE, Phase.STOPPED, Phase.PAUSED, Phase.FAILED)

    @property
    def is_resumable(self) -> bool:
        """Ended early, can be resumed."""
        return self in (Phase.STOPPED, Phase.PAUSED, Phase.FAILED)


@dataclass(frozen=True)
class Suggestion:
    """A way out of a failure, and its changes to the recipe: dotted key → value."""

    text: Text
    changes: dict[str, Any]


@dataclass(frozen=True)
class PhaseChanged:
    """The worker entered a phase. stage: the phase's stage, if any."""

    phase: Phase
    detail: Text = NO_TEXT
    stage: str = ""


@dataclass(frozen=True)
class DeviceAcquired:
    """A worker has the device. card: UUID of its graphics card; empty: the processor."""

    card: str


@dataclass(frozen=True)
class DataPrepared:
    chats: int
    pairs: int
    held_out: int
    sha256: str
    notes: tuple[Text, ...] = ()

    def row_count(self, kind: RowKind) -> int:
        return self.chats if kind == "chat" else self.pairs


@dataclass(frozen=True)
class SettingChanged:
    """A setting whose value differs from what was asked, and why."""

    what: str
    asked: str
    used: str
    why: Text


@dataclass(frozen=True)
class Notice:
    """A note to the user about the data or the run, such as dropped or cut rows."""

    text: Text


@dataclass(frozen=True)
class StepsPlanned:
    steps: dict[str, int]


@dataclass(frozen=True)
class ReferenceCheck:
    """A stage's first batch against its expected values. With a reference, policy and reference are still the same model.

    Losses in nats. `expected_loss` is None if the loss depends on the data (the sft term); `margin` is None without a
    reference. `policy` and `reference` say which weights they are.
    """

    stage: Stage
    loss: float
    expected_loss: float | None
    margin: float | None
    expected_margin: float
    tolerance: float
    policy: Text
    reference: Text
    holds: bool


@dataclass(frozen=True, slots=True)  # one per step, kept as long as the app runs
class TrainStep:
    """One optimiser step. Loss in nats, per token or per pair. metrics: keyed and in units as the method defines."""

    stage: Stage
    step: int
    total: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float
    tokens_per_second: float
    seconds_left: float
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Evaluation:
    """Evaluation on the held-out rows at a step. Units as in `TrainStep`.

    rows: their count, the same at every step of a stage. seconds: duration.
    """

    stage: Stage
    step: int
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    rows: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class SampleAnswer:
    """One answer to a fixed prompt. ended: with the end token, not cut at the token limit."""

    prompt: str
    answer: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class SampleAnswers:
    """The model's answers to the run's fixed prompts at a step, decoded greedily.

    Step 0 is the base; a run has one such event. seconds: duration.
    """

    stage: Stage
    step: int
    samples: tuple[SampleAnswer, ...]
    seconds: float


@dataclass(frozen=True)
class StageResumed:
    """A stage resumes from a checkpoint (step 0: from its start); later steps are lost and run again.

    `skipped`: for each newer checkpoint, why it could not be used.
    """

    stage: Stage
    step: int
    skipped: tuple[Text, ...] = ()


@dataclass(frozen=True)
class CheckpointSaved:
    """The run can resume from this step. `folder` is relative to the run folder."""

    stage: Stage
    step: int
    folder: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class RowLengths:
    """Row lengths of a stage, in tokens as trained. most: the 95th percentile; beyond: share of all tokens past it."""

    stage: Stage
    longest: int
    most: int
    beyond: float


@dataclass(frozen=True)
class MemoryProbed:
    """Memory measured on the longest rows before the first step. Bytes, and tokens of a micro-batch.

    peak: of a whole micro-batch, plus what the optimiser will add. half: measured with half of it, or less.
    most: the limit of the run. cut: the whole micro-batch was not tried; its peak is extrapolated from the half.
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
    """Memory ran out, and a new worker resumes with lower settings, which follow as `SettingChanged` events."""

    stage: Stage
    message: str


@dataclass(frozen=True)
class AdapterSaved:
    """An adapter is complete on disk. `folder` is relative to the run folder."""

    stage: Stage
    folder: str
    bytes: int
    step: int


@dataclass(frozen=True)
class RunEnded:
    """Last event of a run that ended as asked: done or stopped."""

    phase: Phase
    detail: Text = NO_TEXT


@dataclass(frozen=True)
class RunFailed:
    """Last event of a run that failed. `details`: the traceback of a bug, or empty; `offers`: ways out."""

    message: Text
    details: str = ""
    offers: tuple[Suggestion, ...] = ()


TrainEvent = (
    DataPrepared | SettingChanged | StepsPlanned | RowLengths | MemoryProbed | ReferenceCheck | TrainStep | Evaluation
    | SampleAnswers | StageResumed | CheckpointSaved | OutOfMemory | AdapterSaved
)  # fmt: skip
Event = PhaseChanged | DeviceAcquired | Notice | RunEnded | RunFailed | TrainEvent | CompareEvent | ExportEvent
EVENT_KINDS: Mapping[str, type] = {kind.__name__: kind for kind in Event.__args__}
OLD_NAMES: Mapping[str, str] = {
    "Status": "PhaseChanged",
    "Placed": "DeviceAcquired",
    "Prepared": "DataPrepared",
    "Changed": "SettingChanged",
    "Noted": "Notice",
    "Plan": "StepsPlanned",
    "Proof": "ReferenceCheck",
    "Step": "TrainStep",
    "Evaluated": "Evaluation",
    "Sampled": "SampleAnswers",
    "Resumed": "StageResumed",
    "Checkpointed": "CheckpointSaved",
    "Probed": "MemoryProbed",
    "Saved": "AdapterSaved",
    "Scored": "ScoresReady",
    "Scoring": "ScoringProgress",
    "ScoreFailed": "ScoringFailed",
    "Asked": "PromptStarted",
    "Text": "TextChunk",
    "Answered": "AnswersFinished",
    "AskFailed": "RequestFailed",
    "Dialed": "LaneAdjusted",
    "Heated": "TokenHeatmap",
    "Ended": "RunEnded",
    "Failed": "RunFailed",
}
"""Kind in run folders of an earlier version → today's class."""
OLD_METRICS = ("margin", "accuracy", "chosen", "rejected")
"""Fields of steps and evaluations of an earlier version that are metrics today."""


def upgrade_fields(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """Rename the fields of an earlier version to today's names."""
    if kind == "PhaseChanged" and values.get("phase") in ("sft", "dpo"):
        return values | {"phase": Phase.TRAINING.value, "stage": values["phase"]}
    if kind in ("TrainStep", "Evaluation") and "metrics" not in values:
        metrics = {name: values[name] for name in OLD_METRICS if values.get(name) is not None}
        return {name: value for name, value in values.items() if name not in OLD_METRICS} | {"metrics": metrics}
    return values
