"""Which form to take, as a picture: the share of the trained margin that each keeps, over its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from trainer_core.evaluation.score_table import KEPT_FORMAT, format_measure
from trainer_core.runs.export_events import CertificateRow
from trainer_core.system.format import format_mb
from trainer_core.texts import Text

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 18, 34
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
    """A dot with its interval for each form; empty where fewer than two were measured."""
    measured = sorted((row for row in rows if row.kept), key=lambda row: row.bytes)
    if len(measured) < 2:
        return ""
    ends = [end for row in measured if row.kept for end in row.kept.ends]
    low, high = min(*ends, MOST), max(*ends, MOST)
    room = max(0.1 * (high - low), 0.005)
    low, high, widest = low - room, high + room, max(row.bytes for row in measured)

    def x(size: float) -> float:
        return LEFT + size / (1.08 * widest) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return TOP + (high - share) / (high - low) * (HEIGHT - TOP - BOTTOM)

    spoken = "; ".join(
        f"{form_name(row)}, {format_mb(row.bytes)}: {format_measure(row.kept, KEPT_FORMAT)}" for row in measured
    )
    parts = [render_line(LEFT, WIDTH - RIGHT, y(MOST), y(MOST)), render_label(LEFT - 6, y(MOST) + 4, "100 %", "end")]
    parts += [render_line(LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM, HEIGHT - BOTTOM)]
    for number, row in enumerate(measured):
        parts.append(render_point(row, x(row.bytes), y, above=number % 2 == 0))
    parts.append(
        render_label(WIDTH - RIGHT, HEIGHT - 8, str(Text("certificate.chart_size", size=format_mb(widest))), "end")
    )
    title = escape(f"{Text('certificate.chart')}: {spoken}")
    return (
        f'<svg class="kept-chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
    )


def render_point(row: CertificateRow, x: float, y: Callable[[float], float], above: bool) -> str:
    """y: the place of a share."""
    assert row.kept
    bottom, top = map(y, row.kept.ends)
    label_y = max(top - 6, 12) if above else min(bottom + 16, HEIGHT - BOTTOM - 4)
    return (
        f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
        f'<circle cx="{x:.1f}" cy="{y(row.kept.value):.1f}" r="4"/>'
        f"{render_label(x, label_y, form_name(row), 'middle')}"
    )


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
    return Text("certificate.smallest", form=form_name(best), size=format_mb(best.bytes), share=ENOUGH)
