"""Sentences of an export's certificate, for the terminal, the page and its HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from trainer_core.evaluation.score_table import KEPT_FORMAT, format_measure
from trainer_core.runs.export_events import BaseMeasure
from trainer_core.texts import Text


def base_lines(bases: Sequence[BaseMeasure]) -> list[str]:
    """What was measured on the weights before and after the rounding to 4 bits, the chosen ones first."""
    return [str(base_line(one, chosen=number == 0)) for number, one in enumerate(bases)]


def base_line(one: BaseMeasure, chosen: bool) -> Text:
    base = Text(f"base_weights.{one.base}")
    if one.divergence is None:
        code = "base_choice.chosen_unmeasured" if chosen else "base_choice.other_unmeasured"
        return Text(code, base=base, reason=one.problem)
    kept = format_measure(one.kept, KEPT_FORMAT) or "–"
    return Text(
        "base_choice.chosen" if chosen else "base_choice.other", base=base, divergence=one.divergence, kept=kept
    )
