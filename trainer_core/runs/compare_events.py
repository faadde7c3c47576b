"""Events of a compare worker: scores, answers, lanes and heat maps."""

from __future__ import annotations

from dataclasses import dataclass

from trainer_core.runs.progress import PartProgress
from trainer_core.texts import Text


@dataclass(frozen=True)
class ConfidenceInterval:
    """A number with its 95 % interval and sample count. The interval is None if the sample is too small."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def ends(self) -> tuple[float, float]:
        """Ends of the interval; the value itself if there is no interval."""
        return (self.value if self.low is None else self.low), (self.value if self.high is None else self.high)


@dataclass(frozen=True)
class ForgettingCheck:
    """A lane against the base on the general questions.

    change: of the share of correct answers. p_value: of the exact McNemar test.
    """

    lost: int
    gained: int
    change: ConfidenceInterval
    p_value: float

    @property
    def is_significant(self) -> bool:
        """Is the drop beyond chance?"""
        return self.change.high is not None and self.change.high < 0


@dataclass(frozen=True)
class GenerationStats:
    """Statistics of a lane's own answers.

    tokens: mean length. ratio: mean length ÷ the base's, if the base is a lane.
    ended: share that ended with the end token.
    repetition: mean share of four-token phrases that occurred before in the same answer.
    """

    tokens: ConfidenceInterval
    ended: ConfidenceInterval
    repetition: ConfidenceInterval
    ratio: ConfidenceInterval | None = None


@dataclass(frozen=True)
class LaneScore:
    """Scores of one lane. A score that was not requested or cannot be computed is None.

    On the held-out pairs:
    accuracy: share of pairs whose chosen answer is likelier per token than the rejected one (its end token included).
    margin: mean difference of the two, in nats per token.
    reward_accuracy, reward_margin: the same for DPO's implicit reward log π(answer) − log π_reference(answer), summed
        over the answer, in nats; times the run's beta it is DPO's own margin. None for what equals the reference.
    perplexity: of the chosen answers, exp of the mean nats per token over all of them.
    divergence: mean KL(lane ‖ base) per token of the chosen answers, in nats; the base reads the same system prompt.

    own: statistics of its own answers to the prompts.

    On the bundled general questions:
    general: share of correct answers. forgetting: against the base.
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
    """The lanes' answers to a prompt, written during scoring."""

    prompt: str
    answers: dict[str, str]


@dataclass(frozen=True)
class ScoresReady:
    """Scores of all lanes, in order. `reference` names the lane that rewards are measured against."""

    scores: tuple[LaneScore, ...]
    reference: str = "the base"
    written: tuple[ScoredAnswers, ...] = ()


@dataclass(frozen=True)
class ScoringProgress(PartProgress):
    """In tokens. seconds_left is an upper bound while answers are generated."""

    @property
    def summary(self) -> Text:
        facts = {"part": self.part, "number": self.number, "parts": self.parts, "done": self.done / (self.total or 1)}
        if self.seconds_left is None:
            return Text("scoring.progress", **facts)
        return Text("scoring.progress_left", **facts, seconds=self.seconds_left)


@dataclass(frozen=True)
class ScoringFailed:
    """Scoring failed or was stopped; the lanes stay loaded."""

    message: Text


@dataclass(frozen=True)
class PromptStarted:
    ask: str
    prompt: str
    lanes: tuple[str, ...]


@dataclass(frozen=True)
class TextChunk:
    """New text of each lane since the last event."""

    ask: str
    more: dict[str, str]


@dataclass(frozen=True)
class AnswerStats:
    tokens: int
    seconds: float
    ended_itself: bool


@dataclass(frozen=True)
class AnswersFinished:
    ask: str
    ends: dict[str, AnswerStats]
    cancelled: bool = False


@dataclass(frozen=True)
class RequestFailed:
    """An ask, dial or heat request failed; the lanes stay loaded."""

    ask: str
    message: Text


@dataclass(frozen=True)
class AdapterCheck:
    """Proves which adapter a lane uses: its hash, and how much it changes the base's logits.

    sha256: the first 12 digits, of both adapters in a blend; empty for the base.
    difference: largest absolute difference over a fixed prompt, in logits; 0 means the adapter changes nothing.
    strength, share: the lane's current ones, see config.Lane.
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
    """A lane has a new strength or blend, used from the next answer on."""

    ask: str
    proof: AdapterCheck


@dataclass(frozen=True)
class TokenLogprobs:
    """A token (or several that form one character) and its log-probability under two lanes, in nats."""

    text: str
    first: float
    second: float


@dataclass(frozen=True)
class TokenHeatmap:
    """An answer token by token under two lanes; includes the end token if the answer ended with it."""

    ask: str
    lanes: tuple[str, str]
    pieces: tuple[TokenLogprobs, ...]


CompareEvent = (
    ScoringProgress | ScoresReady | ScoringFailed | PromptStarted | TextChunk | AnswersFinished | RequestFailed
    | LanesLoaded | LaneAdjusted | TokenHeatmap
)  # fmt: skip
