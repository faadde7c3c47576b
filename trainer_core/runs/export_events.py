"""Events of an export: its progress, its parts, and the certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer_core.runs.compare_events import ConfidenceInterval
from trainer_core.runs.progress import PartProgress
from trainer_core.texts import NO_TEXT, Text

TIE_NATS = 0.2
"""Two tokens this close are a tie: rounding decides which comes first. Measured on the starter: the first other token of an
answer is at most 0.03 nats behind for 16-bit files, 0.15 for Q8_0, and 0.66 for Q4_K_M."""
MAX_FINE_KL, MAX_COARSE_KL = 0.01, 0.1
"""Mean nats per token up to which a form counts as the same: forms of at least FINE_BITS, and forms of fewer bits."""
MIN_FINE_KEPT, MIN_COARSE_KEPT = 0.95, 0.8
"""Share of the margin below which a form counts as changed, if its whole interval lies there, and likewise above 1 ÷ this share;
for the same two kinds."""
FINE_BITS = 8.0
Verdict = Literal["same", "ties", "changed", "unchecked"]


@dataclass(frozen=True)
class ExportProgress(PartProgress):
    """In bytes, tokens or prompts, depending on the part."""


@dataclass(frozen=True)
class ExportPart:
    """A part is complete. bytes: of its files."""

    part: str
    bytes: int


@dataclass(frozen=True)
class AnswerComparison:
    """Greedy answers against the trained lane's. equal: how many of `count` are the same.

    gaps: for each answer that differs, by how many nats its first other token was less likely for the lane than the lane's own.
    """

    equal: int
    count: int
    gaps: tuple[float, ...]


@dataclass(frozen=True)
class CertificateRow:
    """One form of the trained lane: the merged model, or a GGUF file. A value is None if it was not measured.

    bits: per weight. template_equal, tokens_equal, special_equal: the rendered prompts, their token ids, and the begin and end
    tokens are those of training. engine_…: in the engine that will serve the file.
    divergence: mean KL(lane ‖ form) per token of the lane's answers, in nats. engine_divergence: mean KL(form ‖ lane) over the
    engine's most likely tokens.
    accuracy: share of the held-out pairs whose chosen answer gained on the rejected one, against the base.
    kept: share of the lane's mean gain that the form keeps; None also where the lane has no gain beyond chance.
    problem: why something was not measured.
    """

    form: str
    bytes: int
    bits: float
    template_equal: bool | None = None
    tokens_equal: bool | None = None
    special_equal: bool | None = None
    answers: AnswerComparison | None = None
    engine_answers: AnswerComparison | None = None
    divergence: float | None = None
    engine_divergence: float | None = None
    accuracy: ConfidenceInterval | None = None
    kept: ConfidenceInterval | None = None
    problem: Text = NO_TEXT

    @property
    def same_words(self) -> bool:
        """Does nothing that was measured say that prompts become other tokens?"""
        return False not in (self.template_equal, self.tokens_equal, self.special_equal)

    @property
    def served_answers(self) -> AnswerComparison | None:
        """In the engine that will serve the form, where it was tried there."""
        return self.engine_answers or self.answers

    @property
    def served_divergence(self) -> float | None:
        """In nats per token, as `served_answers`."""
        return self.divergence if self.engine_divergence is None else self.engine_divergence

    @property
    def verdict(self) -> Verdict:
        answers = [one for one in (self.answers, self.engine_answers) if one]
        far = [kl for kl in (self.divergence, self.engine_divergence) if kl is not None]
        most, least = (MAX_FINE_KL, MIN_FINE_KEPT) if self.bits >= FINE_BITS else (MAX_COARSE_KL, MIN_COARSE_KEPT)
        if not self.same_words or not max(far, default=0.0) <= most or (self.kept and is_outside(self.kept, least)):
            return "changed"
        if any(not gap <= TIE_NATS for one in answers for gap in one.gaps):  # NaN too
            return "changed"
        if None in (self.template_equal, self.tokens_equal, self.special_equal) or not answers or not far:
            return "unchecked"
        return "ties" if any(one.gaps for one in answers) else "same"


def is_outside(kept: ConfidenceInterval, least: float) -> bool:
    """Does the whole interval lie below `least`, or above what is as far from 1 on the other side?"""
    low, high = kept.ends
    return high < least or low > 1 / least


BaseWeights = Literal["original", "rounded"]


@dataclass(frozen=True)
class BaseMeasure:
    """What the adapter does on the weights before or after the rounding to 4 bits. A value is None if it was not measured.

    divergence: mean KL(lane ‖ adapter on these weights) per token, in nats. kept: as in a CertificateRow.
    """

    base: BaseWeights
    divergence: float | None = None
    kept: ConfidenceInterval | None = None
    problem: Text = NO_TEXT


@dataclass(frozen=True)
class ExportFinished:
    """The export lies in `folder`.

    pairs: held-out pairs of the certificate. bases: the weights measured to merge into, the chosen ones first; empty if the
    base was not in 4 bits.
    """

    folder: str
    forms: tuple[CertificateRow, ...]
    pairs: int
    bases: tuple[BaseMeasure, ...] = ()


@dataclass(frozen=True)
class ExportRegistered:
    """A program on this computer was given its form. said: where the model is in it; problem: why it was not given."""

    target: str
    said: Text = NO_TEXT
    problem: Text = NO_TEXT


ExportEvent = ExportProgress | ExportPart | ExportFinished | ExportRegistered
