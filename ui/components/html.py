"""HTML around the tabs; `html_start.py` and the others have one tab each, and nothing else writes HTML. External text
goes through `escape`; page.js fills in live values."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import zip_longest

from launcher.version import read_version

BRAND = f"""
<h1 class="brand"><svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="9.2"/>
<path d="M12 2.8a9.2 9.2 0 0 1 0 18.4z"/></svg>Tunebench <small id="version">{read_version()}</small></h1>
"""
DEVICE = """
<section class="card" aria-label="Device">
  <p class="eyebrow" id="device-kind"></p>
  <p class="strong" id="device-name">…</p>
  <div class="bar thick" id="device-meter" role="meter" aria-label="Memory in use"
    aria-valuemin="0" aria-valuemax="100" aria-valuenow="0"
    ><i class="ours" id="device-ours"></i><i class="others" id="device-others"></i></div>
  <p class="row"><span id="device-free"></span><span class="quiet" id="device-facts"></span></p>
  <p class="row quiet legend" id="device-split" hidden><span><i class="dot ours"></i>Tunebench <b></b></span>
    <span><i class="dot others"></i>Others <b></b></span></p>
  <p class="hint" id="device-problem" hidden></p>
</section>
"""
RUN = """
<section class="card" aria-label="Run">
  <p class="row"><span class="badge" id="run-badge" role="status" aria-live="polite">Idle</span><span id="run-left"></span></p>
  <div class="bar" id="run-bar" role="progressbar" aria-label="Run"
    aria-valuemin="0" aria-valuemax="100" aria-valuenow="0"><i></i></div>
  <p id="run-step" class="quiet">No run yet.</p>
  <p class="hint" id="app-error" hidden></p>
</section>
"""
KILL_QUESTION = """
<p class="strong">Kill this run now?</p>
<p class="quiet">Checkpoints are kept. Resume continues from the latest one and repeats the steps after it.</p>
"""
RECENT_RUNS = """
<section aria-labelledby="recent-head"><h2 class="eyebrow" id="recent-head">Recent runs</h2>
<ul class="recent" id="recent"><li class="quiet">None yet</li></ul></section>
"""
SIGN_OUT_FORM = """
<form method="post" action="/tunebench/leave"><button type="submit" class="link" id="sign-out"
  title="Every signed-in browser will need a new link. Training continues.">Sign out everywhere</button></form>
"""
BANNER = """
<div id="lost-connection" class="banner" role="alert" hidden>Lost contact with Tunebench, retrying…
If you closed the terminal, start Tunebench again. Training continues, and this page reconnects.</div>
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
