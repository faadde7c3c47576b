"""Row lengths of a stage as its trainer sees them, and its longest rows."""

from __future__ import annotations

import math

from trainer_core.runs.events import RowLengths, Stage

LENGTH_QUANTILE = 0.95


def summarize_lengths(stage: Stage, counts: list[int]) -> RowLengths:
    """The longest row, the 95th percentile, and the share of tokens that truncation there would lose."""
    ordered = sorted(counts)
    most = ordered[math.ceil(LENGTH_QUANTILE * len(ordered)) - 1]
    beyond = sum(count - most for count in ordered if count > most) / sum(ordered)
    return RowLengths(stage, ordered[-1], most, round(beyond, 5))


def longest_rows(counts: list[int], size: int) -> list[int]:
    """Indices of the longest rows, as many as a batch needs; repeated if there are fewer."""
    places = sorted(range(len(counts)), key=lambda place: -counts[place])
    return [places[at % len(places)] for at in range(size)]
