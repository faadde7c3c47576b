"""A score table in plain values, each number with its position on its scale."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer_core.evaluation import score_table
from trainer_core.runs.compare_events import ScoresReady


@lru_cache(maxsize=4)
def read_scores(path: Path, changed: int) -> ScoresReady:
    return score_table.read_score_file(path)


MAIN_MEASURES = ("Held-out accuracy", "Answer length, tokens", "General questions")
"""The most important measures; the others are folded."""


def score_table_payload(found: ScoresReady) -> dict[str, Any]:
    """The numbers of the terminal's table, each also as a dot with its interval."""
    measures = {line.title: measure_payload(line) for line in score_table.score_rows(found.scores)}
    return {
        "lanes": [score.lane for score in found.scores],
        "first": [measures.pop(title) for title in MAIN_MEASURES if title in measures],
        "rest": list(measures.values()),
        "harmed": [score.lane for score in found.scores if score.forgetting and score.forgetting.is_significant],
        "warnings": score_table.forgetting_warnings(found.scores),
        "legend": score_table.score_legend(found),
    }


def measure_payload(line: score_table.ScoreRow) -> dict[str, Any]:
    """One measure: each lane's number, and the positions of it, its interval and 0 on the lanes' common scale."""
    known = [(one.value, *score_table.interval_ends(one, line.spell)) for one in line.found if one]
    low, high = min(0.0, *(one[1] for one in known)), max(0.0, *(one[2] for one in known))
    if line.spell == score_table.SHARE_FORMAT:
        low, high = 0.0, 1.0
    places = iter([[round((at - low) / (high - low or 1), 4) for at in one] for one in known])
    return {
        "title": line.title,
        "cells": line.cells,
        "spans": [next(places) if one else None for one in line.found],
        "zero": round(-low / (high - low or 1), 4),
    }
