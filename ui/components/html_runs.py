"""The Runs tab as HTML."""

from __future__ import annotations

from trainer_core.texts import Text
from ui.components.html_charts import Chart, ChartSeries, render_chart
from ui.format import page_text

OVERLAY = Chart((ChartSeries("overlay"),), Text("page.runs_tab.selected_runs"), Text("page.runs_tab.select_runs"))


def render_runs_tab() -> str:
    return f"""
<section class="card" id="exports" aria-labelledby="exports-head" hidden>
<h2 id="exports-head">{page_text("exports.title")}</h2><div id="export-list"></div>
<p class="quiet small">{page_text("exports.what")}</p></section>
<div id="runs-tools" class="row" hidden>
<label>{page_text("runs_tab.search")} <input type="search" id="runs-find" placeholder="{page_text("runs_tab.search_in")}"></label>
<span id="runs-count" class="quiet" role="status"></span></div>
<section id="overlay" aria-label="{page_text("runs_tab.selected_runs")}" hidden>
<p class="row"><label>{page_text("runs_tab.curve")} <select id="overlay-curve"></select></label>
<button type="button" class="button small" id="overlay-clear">{page_text("runs_tab.clear_selection")}</button></p>
{render_chart(OVERLAY)}<p id="overlay-names" class="lines quiet"></p>
<div class="tablewrap" tabindex="0" role="region" aria-label="{page_text("runs_tab.different_settings")}">
<table id="overlay-differ"></table></div></section>
<div class="card tablewrap" tabindex="0" role="region" aria-label="{page_text("runs_tab.runs")}">{render_table()}
<p class="empty" id="runs-empty">{page_text("runs_tab.no_run")}</p></div>
<p id="runs-status" class="sr" role="status" aria-live="polite"></p>
<details id="trash" hidden><summary>{page_text("runs_tab.trash")}</summary><ul></ul><p class="buttons"></p></details>
{render_storage()}"""


def render_storage() -> str:
    """What takes space; storage.js fills it when it is opened."""
    return f"""<details id="storage"><summary>{page_text("storage.title")}</summary>
<p class="warn" id="storage-problem" role="alert"></p><p class="warn" id="storage-interrupted"></p>
<div id="storage-move" hidden><div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100"><i></i></div>
<p class="row"><span class="quiet part"></span>
<button type="button" class="button small" id="storage-stop">{page_text("storage.stop")}</button></p></div>
<p id="storage-said" role="status"></p>
<div id="storage-places"></div><div id="storage-groups"></div></details>
"""


def render_table() -> str:
    """The table of runs; runs.js adds the rows."""
    return f"""<table id="runs">
<caption class="sr">{page_text("runs_tab.order")}</caption><thead><tr>
<th scope="col"><span class="sr">{page_text("runs_tab.overlay_curves")}</span></th>
<th scope="col">{page_text("runs_tab.state")}</th>
<th scope="col">{page_text("runs_tab.run")}</th>
<th scope="col" class="minor">{page_text("runs_tab.data")}</th>
<th scope="col" class="num minor">{page_text("runs_tab.steps")}</th>
<th scope="col" class="num lesser">{page_text("runs_tab.loss")}</th>
<th scope="col" class="num lesser">{page_text("runs_tab.accuracy")}</th>
<th scope="col" class="num minor">{page_text("runs_tab.size")}</th>
<th scope="col" class="minor">{page_text("runs_tab.started")}</th>
<th scope="col"><span class="sr">{page_text("runs_tab.actions")}</span></th></tr></thead><tbody></tbody></table>"""
