"""What a compare worker can say beside what every worker says: scores, answers, lanes and heat maps."""

from __future__ import annotations

from dataclasses import dataclass

from trainer_core.schema import StoredText
from trainer_core.texts import Text


@dataclass(frozen=True)
class ConfidenceInterval:
    """A number with its 95 % interval, and how many things it was measured on. No interval: too few of them."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def ends(self) -> tuple[float, float]:
        """Where the interval begins and ends; the value itself twice where there is none."""
        return (self.value if self.low is None else self.low), (self.value if self.high is None else self.high)


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

    part: StoredText
    number: int
    parts: int
    done: int
    total: int
    seconds_left: float | None

    @property
    def summary(self) -> Text:
        facts = {"part": self.part, "number": self.number, "parts": self.parts, "done": self.done / (self.total or 1)}
        if self.seconds_left is None:
            return Text("scoring.progress", **facts)
        return Text("scoring.progress_left", **facts, seconds=self.seconds_left)


@dataclass(frozen=True)
class ScoringFailed:
    """The lanes could not be scored, or scoring was stopped; they stay loaded."""

    message: StoredText


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
    message: StoredText


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


CompareEvent = (
    ScoringProgress | ScoresReady | ScoringFailed | PromptStarted | TextChunk | AnswersFinished | RequestFailed
    | LanesLoaded | LaneAdjusted | TokenHeatmap
)  # fmt: skip
