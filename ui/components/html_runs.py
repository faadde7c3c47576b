"""The Runs tab as HTML."""

from __future__ import annotations

from ui.components.html_charts import Chart, ChartSeries, render_chart

OVERLAY = Chart((ChartSeries("overlay"),), "Selected runs", "Select runs in the table to overlay their curves.")
RUNS = f"""
<div id="runs-tools" class="row" hidden>
<label>Search <input type="search" id="runs-find" placeholder="name, model, data or note"></label>
<span id="runs-count" class="quiet" role="status"></span></div>
<section id="overlay" aria-label="Selected runs" hidden><p class="row"><label>Curve <select id="overlay-curve"></select></label>
<button type="button" class="button small" id="overlay-clear">Clear selection</button></p>
{render_chart(OVERLAY)}<p id="overlay-names" class="lines quiet"></p>
<div class="tablewrap" tabindex="0" role="region" aria-label="Settings that differ">
<table id="overlay-differ"></table></div></section>
<div class="card tablewrap" tabindex="0" role="region" aria-label="Runs"><table id="runs">
<caption class="sr">All runs, pinned ones first, then newest first</caption><thead><tr>
<th scope="col"><span class="sr">Overlay curves</span></th><th scope="col">State</th><th scope="col">Run</th>
<th scope="col" class="minor">Data</th><th scope="col" class="num minor">Steps</th>
<th scope="col" class="num lesser">Loss</th><th scope="col" class="num lesser">Accuracy</th>
<th scope="col" class="num minor">Size</th><th scope="col" class="minor">Started</th>
<th scope="col"><span class="sr">Actions</span></th></tr></thead><tbody></tbody></table>
<p class="empty" id="runs-empty">No run yet. Start your first one on the Start tab.</p></div>
<p id="runs-status" class="sr" role="status" aria-live="polite"></p>
<details id="trash" hidden><summary>Trash</summary><ul></ul><p class="buttons"></p></details>
"""
