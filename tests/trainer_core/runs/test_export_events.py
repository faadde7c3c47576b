"""The verdict on a form, from what was measured of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from trainer_core.runs.compare_events import ConfidenceInterval
from trainer_core.runs.export_events import AnswerComparison, CertificateRow

ALIKE = AnswerComparison(16, 16, ())
ROW = CertificateRow("merged", 1, 16.0, True, True, True, ALIKE, divergence=0.001)


def kept(low: float, high: float) -> ConfidenceInterval:
    return ConfidenceInterval((low + high) / 2, low, high, 40)


def answers(*gaps: float) -> AnswerComparison:
    return AnswerComparison(16 - len(gaps), 16, gaps)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "same"),
        ({"answers": answers(0.01, 0.19)}, "ties"),
        ({"answers": answers(0.01, 0.21)}, "changed"),
        ({"answers": answers(float("nan"))}, "changed"),
        ({"engine_answers": answers(0.5)}, "changed"),
        ({"divergence": 0.011}, "changed"),
        ({"divergence": float("nan")}, "changed"),
        ({"divergence": 0.011, "bits": 4.89}, "same"),
        ({"divergence": 0.11, "bits": 4.89}, "changed"),
        ({"engine_divergence": 0.011}, "changed"),
        ({"kept": kept(0.90, 0.96)}, "same"),
        ({"kept": kept(0.90, 0.94)}, "changed"),
        ({"kept": kept(1.04, 1.10)}, "same"),
        ({"kept": kept(1.06, 1.10)}, "changed"),
        ({"kept": kept(1.20, 1.30), "bits": 4.89}, "same"),
        ({"kept": kept(1.51, 1.63), "bits": 4.89}, "changed"),
        ({"kept": kept(0.90, 0.94), "bits": 4.89}, "same"),
        ({"kept": kept(0.70, 0.79), "bits": 4.89}, "changed"),
        ({"tokens_equal": False}, "changed"),
        ({"tokens_equal": None}, "unchecked"),
        ({"answers": None}, "unchecked"),
        ({"divergence": None}, "unchecked"),
    ],
)
def test_the_verdict_follows_what_was_measured(changes: dict[str, Any], verdict: str) -> None:
    assert replace(ROW, **changes).verdict == verdict


def test_what_the_engine_did_is_told_before_what_the_weights_did() -> None:
    row = replace(ROW, engine_answers=answers(0.1), engine_divergence=0.002)
    assert (row.served_answers, row.served_divergence) == (answers(0.1), 0.002)
    assert (ROW.served_answers, ROW.served_divergence) == (ALIKE, 0.001)
