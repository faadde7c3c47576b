"""Which form to take, as a picture: the share of the trained margin that each keeps, from the smallest to the largest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from trainer_core.evaluation.score_table import KEPT_FORMAT, format_measure
from trainer_core.runs.export_events import CertificateRow
from trainer_core.system.format import format_file_size
from trainer_core.texts import Text

WIDTH, ROW = 640, 26
LEFT, RIGHT, TOP, BOTTOM = 170, 24, 8, 24
MOST = 1.0
"""Everything kept: always in sight."""
ENOUGH = 0.95
"""Share of the margin that a form keeps, beyond chance, to be recommended."""
CHART_STYLE = (
    ".kept-chart { width: 100%; height: auto; display: block } .kept-chart text { font-size: 12px; fill: currentColor } "
    ".kept-chart line { stroke: currentColor; opacity: .35 } .kept-chart .whisker { opacity: 1; stroke-width: 2 } "
    ".kept-chart circle { fill: currentColor }"
)


def render_kept_chart(rows: Sequence[CertificateRow]) -> str:
    """A line for each form with its size and a dot with its interval, the smallest first; empty with fewer than two."""
    measured = sorted((row for row in rows if row.kept), key=lambda row: row.bytes)
    if len(measured) < 2:
        return ""
    ends = [end for row in measured if row.kept for end in row.kept.ends]
    low, high = min(*ends, MOST), max(*ends, MOST)
    room = max(0.05 * (high - low), 0.005)
    low, high, bottom = low - room, high + room, TOP + ROW * len(measured)

    def x(share: float) -> float:
        return LEFT + (share - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = [render_line(x(MOST), x(MOST), TOP, bottom), render_label(x(MOST), bottom + 16, "100 %", "middle")]
    for number, row in enumerate(measured):
        parts.append(render_row(row, TOP + ROW * (number + 0.5), x))
    spoken = "; ".join(f"{row_label(row)}: {format_measure(row.kept, KEPT_FORMAT)}" for row in measured)
    title, view = escape(f"{Text('certificate.chart')}: {spoken}"), f"0 0 {WIDTH} {bottom + BOTTOM}"
    return f'<svg class="kept-chart" viewBox="{view}" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def render_row(row: CertificateRow, y: float, x: Callable[[float], float]) -> str:
    """x: the place of a share."""
    assert row.kept
    left, right = map(x, row.kept.ends)
    return (
        f"{render_label(0, y + 4, row_label(row), 'start')}"
        f'<line class="whisker" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle cx="{x(row.kept.value):.1f}" cy="{y:.1f}" r="4"/>'
    )


def row_label(row: CertificateRow) -> str:
    return f"{form_name(row)}, {format_file_size(row.bytes)}"


def render_line(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def render_label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def form_name(row: CertificateRow) -> str:
    """The number format, as others call it."""
    return row.form.removeprefix("gguf:").upper() if ":" in row.form else row.form


def smallest_form(rows: Sequence[CertificateRow]) -> Text | None:
    """The smallest form that keeps ENOUGH of the margin with its whole interval, as a sentence; None if none was measured so."""
    good = [row for row in rows if row.kept and row.kept.ends[0] >= ENOUGH and row.verdict != "changed"]
    if not good:
        return None
    best = min(good, key=lambda row: row.bytes)
    return Text("certificate.smallest", form=form_name(best), size=format_file_size(best.bytes), share=ENOUGH)
