"""The rows of a stage as its trainer has them: how long each is, and which are the longest."""

from __future__ import annotations

import math

from datasets import Dataset

from trainer_core.methods.base import RowKind
from trainer_core.runs.events import RowLengths, Stage

LENGTH_QUANTILE = 0.95


def count_tokens(data: Dataset, rows: RowKind, limit: int) -> list[int]:
    """Tokens of every row after the cut; a pair counts with its longer side.

    Args:
        limit: the recipe's own length. A trainer's copy is None on CUDA, where Unsloth moves it to another name.
    """
    if rows == "chat":
        return [min(len(row), limit) for row in data["input_ids"]]
    sides = zip(data["prompt_ids"], data["chosen_ids"], data["rejected_ids"], strict=True)
    return [min(len(prompt) + max(len(chosen), len(rejected)), limit) for prompt, chosen, rejected in sides]


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
