"""The Train tab as HTML: its charts, the sample answers, and the folded parts."""

from __future__ import annotations

from trainer_core.config.recipe import METHODS
from trainer_core.methods.base import MetricChart
from trainer_core.texts import page_text
from ui.components.html_charts import Chart, ChartSeries, render_chart, render_details, stage_lines


def stage_chart(stage: str, chart: MetricChart) -> Chart:
    """A method's chart: one metric in training and on held-out rows, or several metrics in training."""
    names = [(f"{stage}.{key}", key.capitalize()) for key in chart.keys]
    kinds = ("main", "second")
    several = tuple(ChartSeries(series, name, kind) for (series, name), kind in zip(names, kinds, strict=False))
    lines = several if len(names) > 1 else stage_lines(stage, chart.keys[0])
    return Chart(lines, chart.title, chart.says, chart.level, chart.level_name, reading=chart.reading)


CHARTS = [stage_chart(stage, chart) for stage, method in METHODS.items() for chart in method.charts]
DETAIL_CHARTS = (
    Chart(
        (ChartSeries("detail.rate"),),
        "Learning rate",
        "Step size: rises during the warm-up, then falls with the schedule.",
    ),
    Chart(
        (ChartSeries("detail.norm"),),
        "Gradient norm",
        "Gradient size per step. Above the max gradient norm it is scaled down.",
    ),
    Chart((ChartSeries("detail.speed"),), "Tokens per second", "Throughput."),
    Chart((ChartSeries("detail.seconds"),), "Seconds per step", "The first step is slower: it also compiles."),
)
HARDWARE_CHARTS = (
    Chart(
        (ChartSeries("hardware.memory"),),
        "Memory in use, GB",
        "GPU memory, or RAM if the processor trains.",
    ),
    Chart((ChartSeries("hardware.busy"),), "Load, %", "How busy the GPU or the processor is.", optional=True),
    Chart((ChartSeries("hardware.celsius"),), "Temperature, °C", "Above 85 °C most GPUs slow down.", optional=True),
    Chart((ChartSeries("hardware.watts"),), "Power, W", "What the GPU draws.", optional=True),
)
SAMPLES_CARD = """<section class="card" id="samples" aria-labelledby="samples-head" hidden>
  <header class="row head"><h3 id="samples-head">Sample answers</h3><b id="samples-step"></b></header>
  <input type="range" id="samples-slider" min="0" step="1" aria-label="Step whose answers are shown">
  <p class="quiet small" id="samples-note"></p>
  <div id="samples-answers"></div>
  <p class="buttons" id="samples-buttons"></p>
  <p class="sr" role="status" aria-live="polite" id="samples-status"></p>
</section>"""


def render_train_tab() -> str:
    """The Train tab; its empty state shows until there is a run."""
    return f"""
<div id="train-empty" class="empty"><h2>{page_text("train_tab.no_run")}</h2>
  <p>Press <b>Train and compare</b> on Start. Training continues if you close this tab or Tunebench itself.</p></div>
<div id="train-run" hidden>
  <header class="row head"><h2 id="train-name"></h2><span id="train-left" class="quiet"></span></header>
  <ol class="stages" id="stages" aria-label="Stages"></ol>
  <div id="verdict"></div>
  <p class="sr" role="status" aria-live="polite" id="doctor-status"></p>
  <section class="verdict doctor" id="doctor" aria-label="Doctor" hidden></section>
  <p class="reference-check" id="reference-check" hidden></p>
  <div class="charts-and-samples" id="charts-and-samples"><div class="charts" id="charts">{"".join(map(render_chart, CHARTS))}
    <p class="quiet later" id="later" hidden></p></div>
  {SAMPLES_CARD}</div>
  <p class="quiet" id="rows"></p>
  <div class="details">
    {render_details("detail-charts", "Learning rate, gradient and speed", DETAIL_CHARTS)}
    {render_details("hardware-charts", "Memory, load, temperature and power", HARDWARE_CHARTS)}
    <details id="notes" hidden><summary>Decisions and notes</summary><ul></ul></details>
    <details id="settings"><summary>Settings used</summary><div class="groups"></div></details>
    <details id="log"><summary>Log</summary><pre tabindex="0" role="region" aria-label="Last lines of the log"></pre></details>
  </div>
  <fieldset id="notifications"><legend>When a run ends</legend>
    <label><input type="checkbox" name="notify"> Notify me</label>
    <label><input type="checkbox" name="sound"> Play a sound</label></fieldset>
</div>
"""
