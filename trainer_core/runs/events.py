"""What a worker can say, one class for each kind of event. `event_log.py` writes and reads them, `run_state.py` folds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

Stage = Literal["sft", "dpo"]
STAGES: tuple[Stage, ...] = ("sft", "dpo")
"""In the order in which a run makes them."""


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
    def is_active(self) -> bool:
        """Is there more to come?"""
        return self not in (Phase.DONE, Phase.STOPPED, Phase.PAUSED, Phase.FAILED)

    @property
    def is_resumable(self) -> bool:
        """Ended before its end, so that it can be gone on with."""
        return self in (Phase.STOPPED, Phase.PAUSED, Phase.FAILED)


@dataclass(frozen=True)
class Suggestion:
    """One way out of a failure: a sentence, and what it changes in the recipe, as dotted key → value."""

    text: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class PhaseChanged:
    """The worker entered a phase; the detail is a sentence for the page."""

    phase: Phase
    detail: str = ""


@dataclass(frozen=True)
class DeviceAcquired:
    """A worker has the device. card: the UUID of its graphics card; empty: the processor."""

    card: str


@dataclass(frozen=True)
class DataPrepared:
    """The data as it will be trained on."""

    chats: int
    pairs: int
    held_out: int
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SettingChanged:
    """A value that differs from what was asked, and why."""

    what: str
    asked: str
    used: str
    why: str


@dataclass(frozen=True)
class Notice:
    """A sentence about the data or the run that the user should read: rows that were left out or cut, and the like."""

    text: str


@dataclass(frozen=True)
class StepsPlanned:
    """Optimiser steps of each stage, as far as they are known before the first one."""

    steps: dict[str, int]


@dataclass(frozen=True)
class ReferenceCheck:
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
class TrainStep:
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
class Evaluation:
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
class SampleAnswer:
    """One answer to a fixed prompt. ended: by itself, not cut at the most tokens it may have."""

    prompt: str
    answer: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class SampleAnswers:
    """What the model answers to the run's fixed prompts at a step, always taking the likeliest token.

    Step 0 is the base alone; of a run there is one. seconds: what it took.
    """

    stage: Stage
    step: int
    samples: tuple[SampleAnswer, ...]
    seconds: float


@dataclass(frozen=True)
class StageResumed:
    """A stage goes on from a checkpoint (step 0: from its beginning); later steps that were lost are made again.

    `skipped` has a sentence for each newer checkpoint that could not be used.
    """

    stage: Stage
    step: int
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckpointSaved:
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
class MemoryProbed:
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
class AdapterSaved:
    """An adapter is complete on disk. `folder` is relative to the run folder."""

    stage: Stage
    folder: str
    bytes: int
    step: int


@dataclass(frozen=True)
class ConfidenceInterval:
    """A number with its 95 % interval, and how many things it was measured on. No interval: too few of them."""

    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class ForgettingCheck:
    """A lane against the base on the general questions.

    change: of the share answered rightly. p_value: of the exact McNemar test.
    """

    lost: int
    gained: int
    change: ConfidenceInterval
    p_value: float

    @property
    def is_significant(self) -> bool:
        """Did it drop beyond chance?"""
        return self.change.high is not None and self.change.high < 0


@dataclass(frozen=True)
class GenerationStats:
    """What a lane's own answers are like.

    tokens: their mean length. ratio: that ÷ the base's, where the base is a lane.
    ended: share that ended by themselves.
    repetition: mean share of phrases of four tokens that were written before in the same answer.
    """

    tokens: ConfidenceInterval
    ended: ConfidenceInterval
    repetition: ConfidenceInterval
    ratio: ConfidenceInterval | None = None


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
    accuracy: ConfidenceInterval
    margin: ConfidenceInterval
    perplexity: ConfidenceInterval
    divergence: ConfidenceInterval
    reward_accuracy: ConfidenceInterval | None = None
    reward_margin: ConfidenceInterval | None = None
    own: GenerationStats | None = None
    general: ConfidenceInterval | None = None
    forgetting: ForgettingCheck | None = None


@dataclass(frozen=True)
class ScoredAnswers:
    """What the lanes answered to a prompt while they were scored."""

    prompt: str
    answers: dict[str, str]


@dataclass(frozen=True)
class ScoresReady:
    """All lanes, in their order. `reference` names the lane that the rewards are measured against."""

    scores: tuple[LaneScore, ...]
    reference: str = "the base"
    written: tuple[ScoredAnswers, ...] = ()


@dataclass(frozen=True)
class ScoringProgress:
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
    def summary(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left:.0f} s left"
        return f"Scoring, part {self.number} of {self.parts}: {self.part}, {self.done / (self.total or 1):.0%}{left}"


@dataclass(frozen=True)
class ScoringFailed:
    """The lanes could not be scored, or scoring was stopped; they stay loaded."""

    message: str


@dataclass(frozen=True)
class PromptStarted:
    """A prompt went to the lanes."""

    ask: str
    prompt: str
    lanes: tuple[str, ...]


@dataclass(frozen=True)
class TextChunk:
    """Lanes grew: lane name → the text that came since the last event."""

    ask: str
    more: dict[str, str]


@dataclass(frozen=True)
class AnswerStats:
    tokens: int
    seconds: float
    ended_itself: bool


@dataclass(frozen=True)
class AnswersFinished:
    """All lanes of a prompt are complete (or were cancelled, which `cancelled` says)."""

    ask: str
    ends: dict[str, AnswerStats]
    cancelled: bool = False


@dataclass(frozen=True)
class RequestFailed:
    """One Ask, Dial or Heat could not be done; the lanes stay loaded."""

    ask: str
    message: str


@dataclass(frozen=True)
class AdapterCheck:
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
    proofs: tuple[AdapterCheck, ...]


@dataclass(frozen=True)
class LaneAdjusted:
    """A lane has another strength or blend, from the next answer on."""

    ask: str
    proof: AdapterCheck


@dataclass(frozen=True)
class TokenLogprobs:
    """A token of an answer, or several that make up one character, and its log-probability under two lanes, in nats."""

    text: str
    first: float
    second: float


@dataclass(frozen=True)
class TokenHeatmap:
    """An answer piece by piece under two lanes; the end token is the last piece, if the answer ended by itself."""

    ask: str
    lanes: tuple[str, str]
    pieces: tuple[TokenLogprobs, ...]


@dataclass(frozen=True)
class RunEnded:
    """The last word of a run that went as asked: done or stopped."""

    phase: Phase
    detail: str = ""


@dataclass(frozen=True)
class RunFailed:
    """The last word of a run that went wrong. `details` is the traceback of a bug, or empty; `offers` are ways out."""

    message: str
    details: str = ""
    offers: tuple[Suggestion, ...] = ()


TrainEvent = (
    DataPrepared | SettingChanged | StepsPlanned | RowLengths | MemoryProbed | ReferenceCheck | TrainStep | Evaluation
    | SampleAnswers | StageResumed | CheckpointSaved | OutOfMemory | AdapterSaved
)  # fmt: skip
CompareEvent = (
    ScoringProgress | ScoresReady | ScoringFailed | PromptStarted | TextChunk | AnswersFinished | RequestFailed
    | LanesLoaded | LaneAdjusted | TokenHeatmap
)  # fmt: skip
Event = PhaseChanged | DeviceAcquired | Notice | RunEnded | RunFailed | TrainEvent | CompareEvent
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
"""Kind in a run folder of an earlier version → its class today."""
