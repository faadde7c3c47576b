"""The score table: its rows, number formats, legend, and the lanes that forgot something.

The page, the terminal and the report show the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from trainer_core.errors import DataError
from trainer_core.runs.compare_events import ConfidenceInterval, LaneScore, ScoresReady
from trainer_core.system import untrusted_files
from trainer_core.texts import Text

SCORES_ADAPTER = TypeAdapter(ScoresReady)


def read_score_file(path: Path) -> ScoresReady:
    """The scores that a comparison saved as scores.json in a run's folder.

    Raises:
        DataError: the file is damaged, or of another version.
    """
    try:
        return SCORES_ADAPTER.validate_python(
            untrusted_files.parse_json(untrusted_files.read_regular_file(path.parent, path.name))
        )
    except (OSError, ValueError) as error:
        raise DataError("scores.other_version", path=str(path)) from error


@dataclass(frozen=True)
class ScoreRow:
    """One measure: title, format specification, and one value per lane (None if not measured)."""

    title: str
    spell: str
    found: tuple[ConfidenceInterval | None, ...]

    @property
    def cells(self) -> list[str]:
        return [format_measure(one, self.spell) or "–" for one in self.found]


def score_rows(scores: Sequence[LaneScore]) -> list[ScoreRow]:
    """The rows of every measure taken."""
    taken = [ScoreRow(title, spell, tuple(of(score) for score in scores)) for title, of, spell in MEASURES]
    return [line for line in taken if any(line.found)]


def format_score_rows(scores: Sequence[LaneScore]) -> list[list[str]]:
    """The rows as text: the title, then one cell per lane."""
    return [[line.title, *line.cells] for line in score_rows(scores)]


def forgetting_warnings(scores: Sequence[LaneScore]) -> list[str]:
    """A sentence for every lane that forgot what the base knew."""
    return [
        str(Text("scores.forgetting", lane=score.lane, lost=found.lost, gained=found.gained, p=found.p_value))
        for score in scores
        if (found := score.forgetting) and found.is_significant
    ]


def format_measure(measured: ConfidenceInterval | None, spell: str) -> str:
    """74 [61, 88]; the value alone without an interval; empty for None. A share also shows its sample size."""
    if measured is None:
        return ""
    of = f" (n {measured.count:,})" if spell == SHARE_FORMAT else ""
    if measured.low is None or measured.high is None:
        return f"{measured.value:{spell}}{of}"
    low, high = interval_ends(measured, spell)
    return f"{measured.value:{spell}} [{low:{spell}}, {high:{spell}}]{of}"


def interval_ends(measured: ConfidenceInterval, spell: str) -> tuple[float, float]:
    """The ends of the interval, or the value twice. Shares are clipped to 0 … 1, which a t interval can exceed."""
    low, high = measured.ends
    return (max(0.0, low), min(1.0, high)) if spell == SHARE_FORMAT else (low, high)


def score_legend(scored: ScoresReady) -> str:
    """Explains the rows of the table that exist."""
    first = scored.scores[0]
    told = [Text("scores.legend", pairs=first.accuracy.count, reference=scored.reference)]
    if first.own:
        told.append(Text("scores.answers", prompts=first.own.tokens.count))
    if first.general:
        told.append(Text("scores.questions", questions=first.general.count))
    return " ".join(map(str, told))


SHARE_FORMAT, KEPT_FORMAT = ".0%", ".1%"
"""A share of a count, and a share of an amount, which may be above 1 and has no sample size of its own."""
"""Format of a share of 0 to 1."""
MEASURES: tuple[tuple[str, Callable[[LaneScore], ConfidenceInterval | None], str], ...] = (
    ("Held-out accuracy", lambda score: score.accuracy, SHARE_FORMAT),
    ("Mean margin", lambda score: score.margin, ".3f"),
    ("Reward accuracy", lambda score: score.reward_accuracy, SHARE_FORMAT),
    ("Reward margin", lambda score: score.reward_margin, ".2f"),
    ("Perplexity of chosen", lambda score: score.perplexity, ".1f"),
    ("KL to the base", lambda score: score.divergence, ".2f"),
    ("Answer length, tokens", lambda score: score.own.tokens if score.own else None, ".0f"),
    ("Length ÷ base", lambda score: score.own.ratio if score.own else None, ".2f"),
    ("Repeated phrases", lambda score: score.own.repetition if score.own else None, SHARE_FORMAT),
    ("Ends by itself", lambda score: score.own.ended if score.own else None, SHARE_FORMAT),
    ("General questions", lambda score: score.general, SHARE_FORMAT),
    ("Change against the base", lambda score: score.forgetting.change if score.forgetting else None, "+.0%"),
)
"""Every row of the table: title, value of a score, format."""
