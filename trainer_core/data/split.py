"""Holds out rows by a hash of the prompt, so that order, repetition and later runs change nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop
from typing import TypeVar

HELD_OUT_SHARE, MIN_HELD_OUT, MAX_HELD_OUT = 0.05, 16, 200
"""5 %: enough for a stable figure, too little for training to miss."""

T = TypeVar("T")


def held_out_size(rows: int) -> int:
    """Number of rows to hold out: 5 %, at least 16 and at most 200, but never more than a quarter."""
    return min(max(round(HELD_OUT_SHARE * rows), MIN_HELD_OUT), MAX_HELD_OUT, rows // 4)


def held_out_keys(keys: Iterable[int]) -> frozenset[int]:
    """The prompts to hold out, given the prompt key of each row. All rows with one prompt fall on the same side.

    Prompts are taken in the order of their keys, which are hashes, as long as their rows fit into `held_out_size`.
    """
    counts = Counter(keys)
    left = held_out_size(counts.total())
    taken, waiting = set(), list(counts)
    heapify(waiting)
    while left and waiting:
        key = heappop(waiting)
        if counts[key] <= left:
            taken.add(key)
            left -= counts[key]
    return frozenset(taken)


def split_rows(rows: Sequence[T], key: Callable[[T], int]) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """The rows to train on and the held-out rows, each in the given order."""
    keys = [key(row) for row in rows]
    out = held_out_keys(keys)
    train = tuple(row for row, its in zip(rows, keys, strict=True) if its not in out)
    return train, tuple(row for row, its in zip(rows, keys, strict=True) if its in out)
