"""The Train tab as HTML: its charts, the sample answers, and the folded parts."""

from __future__ import annotations

from trainer_core.config.recipe import METHODS
from trainer_core.methods.base import MetricChart
from trainer_core.texts import Text
from ui.components.html_charts import Chart, ChartSeries, render_chart, render_details, stage_lines
from ui.format import page_text


def stage_chart(stage: str, chart: MetricChart) -> Chart:
    """A method's chart: one metric in training and on held-out rows, or several metrics in training."""
    names = [(f"{stage}.{key}", key.capitalize()) for key in chart.keys]
    kinds = ("main", "second")
    several = tuple(ChartSeries(series, name, kind) for (series, name), kind in zip(names, kinds, strict=False))
    lines = several if len(names) > 1 else stage_lines(stage, chart.keys[0])
    return Chart(lines, chart.title, chart.says, chart.level, chart.level_name, reading=chart.reading)


CHARTS = [stage_chart(stage, chart) for stage, method in METHODS.items() for chart in method.charts]
DETAIL_CHARTS = (
    Chart((ChartSeries("detail.rate"),), Text("page.charts.learning_rate"), Text("page.charts.learning_rate_says")),
    Chart((ChartSeries("detail.norm"),), Text("page.charts.gradient_norm"), Text("page.charts.gradient_norm_says")),
    Chart(
        (ChartSeries("detail.speed"),),
        Text("page.charts.tokens_per_second"),
        Text("page.charts.tokens_per_second_says"),
    ),
    Chart(
        (ChartSeries("detail.seconds"),),
        Text("page.charts.seconds_per_step"),
        Text("page.charts.seconds_per_step_says"),
    ),
)
HARDWARE_CHARTS = (
    Chart((ChartSeries("hardware.memory"),), Text("page.charts.memory_in_use"), Text("page.charts.memory_in_use_says")),
    Chart((ChartSeries("hardware.busy"),), Text("page.charts.load"), Text("page.charts.load_says"), optional=True),
    Chart(
        (ChartSeries("hardware.celsius"),),
        Text("page.charts.temperature"),
        Text("page.charts.temperature_says"),
        optional=True,
    ),
    Chart((ChartSeries("hardware.watts"),), Text("page.charts.power"), Text("page.charts.power_says"), optional=True),
)


def render_train_tab() -> str:
    """The Train tab; its empty state shows until there is a run."""
    return f"""
<div id="train-empty" class="empty"><h2>{page_text("train_tab.no_run")}</h2>
  <p>{page_text("train_tab.no_run_help")}</p></div>
<div id="train-run" hidden>
  <header class="row head"><h2 id="train-name"></h2><span id="train-left" class="quiet"></span></header>
  <ol class="stages" id="stages" aria-label="{page_text("train_tab.stages")}"></ol>
  <div id="verdict"></div>
  <p class="sr" role="status" aria-live="polite" id="doctor-status"></p>
  <section class="verdict doctor" id="doctor" aria-label="{page_text("train_tab.doctor")}" hidden></section>
  <p class="reference-check" id="reference-check" hidden></p>
  <div class="charts-and-samples" id="charts-and-samples"><div class="charts" id="charts">{"".join(map(render_chart, CHARTS))}
    <p class="quiet later" id="later" hidden></p></div>
  {render_samples_card()}</div>
  <p class="quiet" id="rows"></p>
  <div class="details">
    {render_details("detail-charts", page_text("charts.details"), DETAIL_CHARTS)}
    {render_details("hardware-charts", page_text("charts.hardware"), HARDWARE_CHARTS)}
    <details id="notes" hidden><summary>{page_text("train_tab.notes")}</summary><ul></ul></details>
    <details id="settings"><summary>{page_text("train_tab.settings")}</summary><div class="groups"></div></details>
    <details id="log"><summary>{page_text("train_tab.log")}</summary><pre tabindex="0" role="region"
      aria-label="{page_text("train_tab.last_lines")}"></pre></details>
  </div>
  <fieldset id="notifications"><legend>{page_text("train_tab.notifications")}</legend>
    <label><input type="checkbox" name="notify"> {page_text("train_tab.notify")}</label>
    <label><input type="checkbox" name="sound"> {page_text("train_tab.play_sound")}</label></fieldset>
</div>
"""


def render_samples_card() -> str:
    return f"""<section class="card" id="samples" aria-labelledby="samples-head" hidden>
  <header class="row head"><h3 id="samples-head">{page_text("samples.title")}</h3><b id="samples-step"></b></header>
  <input type="range" id="samples-slider" min="0" step="1" aria-label="{page_text("samples.step")}">
  <p class="quiet small" id="samples-note"></p>
  <div id="samples-answers"></div>
  <p class="buttons" id="samples-buttons"></p>
  <p class="sr" role="status" aria-live="polite" id="samples-status"></p>
</section>"""
