"""Charts as HTML, drawn by chart.js: figures with their lines, a sentence each, and a menu."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from trainer_core.texts import Text
from ui.format import page_text

MENU = (
    ("in", Text("page.charts.zoom_in")),
    ("out", Text("page.charts.zoom_out")),
    ("table", Text("page.charts.show_table")),
    ("csv", Text("page.charts.download_csv")),
    ("png", Text("page.charts.download_png")),
)
"""What chart.js can do with a chart."""


@dataclass(frozen=True)
class ChartSeries:
    """One line of a chart. kind: main, second, or held (held-out rows)."""

    series: str
    name: str | Text = ""
    kind: str = "main"


@dataclass(frozen=True)
class Chart:
    """One chart: its lines, title and explanation. `line` is a value marked with a dashed line."""

    lines: tuple[ChartSeries, ...]
    title: str | Text
    sentence: str | Text
    line: float | None = None
    line_name: str = ""
    optional: bool = False
    """Hidden if the machine does not report it."""
    reading: str = ""
    """How the latest numbers are worded; see CAPTIONS in train.js."""


def stage_lines(stage: str, name: str) -> tuple[ChartSeries, ...]:
    return (
        ChartSeries(f"{stage}.{name}", Text("page.charts.training")),
        ChartSeries(f"{stage}.held.{name}", Text("page.charts.held_out"), "held"),
    )


def render_chart(spec: Chart) -> str:
    line = "" if spec.line is None else f' data-line="{spec.line}" data-line-name="{escape(spec.line_name)}"'
    lines = escape(json.dumps([[one.series, str(one.name), one.kind] for one in spec.lines]))
    title, sentence = escape(str(spec.title)), escape(str(spec.sentence))
    menu = "".join(f'<button type="button" data-do="{do}">{name}</button>' for do, name in MENU)
    return f"""
<figure class="card chart" data-series="{spec.lines[0].series}" data-lines="{lines}" data-caption="{sentence}"
  data-reading="{spec.reading}"   data-optional="{"yes" if spec.optional else "no"}"{line}>
  <figcaption class="row"><h3>{title}</h3><span class="row"><span class="value">–</span>
    <details class="menu"><summary aria-label="{page_text("charts.options", title=title)}">⋯</summary>
      <div>{menu}</div></details></span></figcaption>
  <div class="plot" role="img" aria-label="{page_text("charts.no_steps", title=title)}"></div>
  <div class="numbers" tabindex="0" role="region" aria-label="{page_text("charts.as_table", title=title)}" hidden></div>
  <p class="quiet caption">{sentence}</p>{render_legend(spec)}
</figure>"""


def render_legend(spec: Chart) -> str:
    """A legend that differs by shape as well as colour; a held-out line only appears once it has points."""
    if len(spec.lines) < 2:
        return ""
    names = "".join(f'<span class="{one.kind}"><i></i>{escape(str(one.name))}</span>' for one in spec.lines)
    return f'<p class="lines quiet" aria-hidden="true">{names}</p>'


def render_details(name: str, title: str, charts: Sequence[Chart]) -> str:
    """Optional charts, folded; their points are only sent while they are open."""
    drawn = "".join(map(render_chart, charts))
    return f'<details id="{name}"><summary>{escape(title)}</summary><div class="charts">{drawn}</div></details>'
