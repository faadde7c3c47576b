"""The rows of a stage as its trainer has them: how long each is, and which are the longest."""

from __future__ import annotations

import math

from trainer_core.runs.events import RowLengths, Stage

LENGTH_QUANTILE = 0.95


def summarize_lengths(stage: Stage, counts: list[int]) -> RowLengths:
    """The longest row, the 95th percentile, and what a cut there would lose."""
    ordered = sorted(counts)
    most = ordered[math.ceil(LENGTH_QUANTILE * len(ordered)) - 1]
    beyond = sum(count - most for count in ordered if count > most) / sum(ordered)
    return RowLengths(stage, ordered[-1], most, round(beyond, 5))


def longest_rows(counts: list[int], size: int) -> list[int]:
    """The places of the longest rows, as many as a batch takes; where there are fewer, some twice."""
    places = sorted(range(len(counts)), key=lambda place: -counts[place])
    return [places[at % len(places)] for at in range(size)]
