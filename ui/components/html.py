"""HTML around the tabs; `html_start.py` and the others have one tab each, and nothing else writes HTML. External text
goes through `escape`; page.js fills in live values."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import zip_longest

from launcher.version import read_version
from ui.format import page_text

BRAND = f"""
<h1 class="brand"><svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="9.2"/>
<path d="M12 2.8a9.2 9.2 0 0 1 0 18.4z"/></svg>Tunebench <small id="version">{read_version()}</small></h1>
"""


def render_device() -> str:
    return f"""
<section class="card" aria-label="{page_text("sidebar.device")}">
  <p class="eyebrow" id="device-kind"></p>
  <p class="strong" id="device-name">…</p>
  <div class="bar thick" id="device-meter" role="meter" aria-label="{page_text("sidebar.memory_in_use")}"
    aria-valuemin="0" aria-valuemax="100" aria-valuenow="0"
    ><i class="ours" id="device-ours"></i><i class="others" id="device-others"></i></div>
  <p class="row"><span id="device-free"></span><span class="quiet" id="device-facts"></span></p>
  <p class="row quiet legend" id="device-split" hidden><span><i class="dot ours"></i>Tunebench <b></b></span>
    <span><i class="dot others"></i>{page_text("sidebar.others")} <b></b></span></p>
  <p class="hint" id="device-problem" hidden></p>
</section>
"""


def render_run_card() -> str:
    run = page_text("sidebar.run")
    return f"""
<section class="card" aria-label="{run}">
  <p class="row"><span class="badge" id="run-badge" role="status" aria-live="polite">{page_text("sidebar.idle")}</span
    ><span id="run-left"></span></p>
  <div class="bar" id="run-bar" role="progressbar" aria-label="{run}"
    aria-valuemin="0" aria-valuemax="100" aria-valuenow="0"><i></i></div>
  <p id="run-step" class="quiet">{page_text("sidebar.no_run_yet")}</p>
  <p class="hint" id="app-error" hidden></p>
</section>
"""


def render_kill_question() -> str:
    return f"""
<p class="strong">{page_text("sidebar.kill_question")}</p>
<p class="quiet">{page_text("sidebar.what_kill_keeps")}</p>
"""


def render_recent_runs() -> str:
    return f"""
<section aria-labelledby="recent-head"><h2 class="eyebrow" id="recent-head">{page_text("sidebar.recent_runs")}</h2>
<ul class="recent" id="recent"><li class="quiet">{page_text("sidebar.no_recent_run")}</li></ul></section>
"""


def render_sign_out_form() -> str:
    return f"""
<form method="post" action="/tunebench/leave"><button type="submit" class="link" id="sign-out"
  title="{page_text("sidebar.sign_out_effect")}">{page_text("sidebar.sign_out")}</button></form>
"""


def render_banner() -> str:
    return f"""
<div id="lost-connection" class="banner" role="alert" hidden>{page_text("sidebar.lost_connection")}
{page_text("sidebar.lost_connection_help")}</div>
"""


def render_problem(text: str, places: Sequence[str] = ()) -> str:
    """An error, one line per invalid field, announced at once; form_errors.js marks the inputs in `places`."""
    lines = [line for line in text.splitlines() if line.strip()]
    rows = "".join(
        f'<li data-field="{escape(place or "")}">{escape(line)}</li>'
        for line, place in zip_longest(lines, places[: len(lines)])
    )
    return f'<div class="verdict bad" role="alert"><ul>{rows}</ul></div>'


def render_note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'
