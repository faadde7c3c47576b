"""The only file that writes HTML. Whatever comes from outside goes through `escape`; what lives is filled in by page.js."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from typing import Any

from launcher.version import read_version
from trainer_core.planning.forecast import Forecast
from trainer_core.planning.memory_model import MemoryPart, certain_bytes
from trainer_core.system.hardware import GIB, format_gb
from ui.format import setting_label

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
  <p class="row"><span class="pill" id="run-pill" role="status" aria-live="polite">Idle</span><span id="run-left"></span></p>
  <div class="bar" id="run-bar" role="progressbar" aria-label="Run"
    aria-valuemin="0" aria-valuemax="100" aria-valuenow="0"><i></i></div>
  <p id="run-step" class="quiet">No run yet.</p>
  <p class="hint" id="trouble" hidden></p>
</section>
"""

KILL_QUESTION = """
<p class="strong">End it in mid-step?</p>
<p class="quiet">Its processes are ended. Checkpoints stay; Resume goes on from the newest and makes the steps since again.</p>
"""

RECENT_RUNS = """
<section aria-labelledby="recent-head"><h2 class="eyebrow" id="recent-head">Recent runs</h2>
<ul class="recent" id="recent"><li class="quiet">None yet</li></ul></section>
"""

SIGN_OUT_FORM = """
<form method="post" action="/tunebench/leave"><button type="submit" class="link" id="sign-out"
  title="Every browser that is signed in needs a new link; a training goes on">Sign out everywhere</button></form>
"""

BANNER = """
<div id="lost" class="banner" role="alert" hidden>No answer from Tunebench for some seconds. If you closed the terminal,
start it again; a running training continues, and this page finds it.</div>
"""


@dataclass(frozen=True)
class ChartSeries:
    """One line of a chart. kind: main, second, or held for rows that are not trained on."""

    series: str
    name: str = ""
    kind: str = "main"


@dataclass(frozen=True)
class Chart:
    """One chart: its lines, what it is called, and what a reader should know. `line` is a value worth a dashed line."""

    lines: tuple[ChartSeries, ...]
    title: str
    sentence: str
    line: float | None = None
    line_name: str = ""
    optional: bool = False
    """Not shown where the machine does not say."""


def stage_lines(stage: str, name: str) -> tuple[ChartSeries, ...]:
    return ChartSeries(f"{stage}.{name}", "Training"), ChartSeries(f"{stage}.held.{name}", "Held out", "held")


CHARTS = (
    Chart(
        stage_lines("sft", "loss"),
        "SFT loss",
        "How surprised the model still is by the good answers, in nats per token. Lower is better.",
    ),
    Chart(
        stage_lines("dpo", "loss"),
        "DPO loss",
        "Starts where policy and reference are equal and falls as the chosen answers pull ahead.",
        0.6931,
        "ln 2",
    ),
    Chart(
        stage_lines("dpo", "margin"),
        "Reward margin",
        "Above 0 the model has moved towards the chosen answers and away from the rejected ones.",
        0.0,
        "start",
    ),
    Chart(
        stage_lines("dpo", "accuracy"),
        "Reward accuracy",
        "The share of pairs whose chosen answer gained more than the rejected one. 0.5 is a coin toss.",
        0.5,
        "coin toss",
    ),
    Chart(
        (ChartSeries("dpo.chosen", "Chosen"), ChartSeries("dpo.rejected", "Rejected", "second")),
        "Log-probabilities",
        "How likely whole answers are, in nats. The rejected ones should fall, the chosen ones hardly.",
    ),
)
DETAIL_CHARTS = (
    Chart(
        (ChartSeries("deep.rate"),),
        "Learning rate",
        "How far a step may go: up in the warm-up, then down by the schedule.",
    ),
    Chart(
        (ChartSeries("deep.norm"),),
        "Gradient norm",
        "How strongly the batch pulls. Above the gradient clip it is shortened.",
    ),
    Chart((ChartSeries("deep.speed"),), "Tokens per second", "How fast the data goes through."),
    Chart((ChartSeries("deep.seconds"),), "Seconds per step", "The first step is slow: it also compiles."),
)
HARDWARE_CHARTS = (
    Chart(
        (ChartSeries("machine.memory"),),
        "Memory in use, GB",
        "Of the card, or of the computer where the processor trains.",
    ),
    Chart((ChartSeries("machine.busy"),), "Load, %", "How busy the card or the processor is.", optional=True),
    Chart((ChartSeries("machine.celsius"),), "Temperature, °C", "Above 85 °C most cards slow down.", optional=True),
    Chart((ChartSeries("machine.watts"),), "Power, W", "What the card draws.", optional=True),
)


def render_chart(spec: Chart) -> str:
    line = "" if spec.line is None else f' data-line="{spec.line}" data-line-name="{escape(spec.line_name)}"'
    lines = escape(json.dumps([[one.series, one.name, one.kind] for one in spec.lines]))
    title, sentence = escape(spec.title), escape(spec.sentence)
    return f"""
<figure class="card chart" data-series="{spec.lines[0].series}" data-lines="{lines}" data-says="{sentence}"
  data-optional="{"yes" if spec.optional else "no"}"{line}>
  <figcaption class="row"><h3>{title}</h3><span class="row"><span class="value">–</span>
    <details class="menu"><summary aria-label="More about {title}">⋯</summary><div>
      <button type="button" data-do="in">Zoom in</button><button type="button" data-do="out">Zoom out</button>
      <button type="button" data-do="table">Show as table</button><button type="button" data-do="csv">Download CSV</button>
      <button type="button" data-do="png">Download PNG</button></div></details></span></figcaption>
  <div class="plot" role="img" aria-label="{title}: no steps yet"></div>
  <div class="numbers" tabindex="0" role="region" aria-label="{title} as a table" hidden></div>
  <p class="quiet says">{sentence}</p>{render_legend(spec)}
</figure>"""


def render_legend(spec: Chart) -> str:
    """Names for the lines, told apart by shape as well as by colour; a held-out line only shows once it has points."""
    if len(spec.lines) < 2:
        return ""
    names = "".join(f'<span class="{one.kind}"><i></i>{escape(one.name)}</span>' for one in spec.lines)
    return f'<p class="lines quiet" aria-hidden="true">{names}</p>'


def render_details(name: str, title: str, charts: Sequence[Chart]) -> str:
    """Charts for those who want them; their points are only sent while they are open."""
    drawn = "".join(map(render_chart, charts))
    return f'<details id="{name}"><summary>{escape(title)}</summary><div class="charts">{drawn}</div></details>'


SAMPLES_CARD = """<section class="card" id="strip" aria-labelledby="strip-head" hidden>
  <header class="row head"><h3 id="strip-head">Sample answers</h3><b id="strip-when"></b></header>
  <input type="range" id="strip-at" min="0" step="1" aria-label="Step whose answers are shown">
  <p class="quiet small" id="strip-says"></p>
  <div id="strip-answers"></div>
  <p class="buttons" id="strip-deeds"></p>
  <p class="sr" role="status" aria-live="polite" id="strip-said"></p>
</section>"""


def render_train_tab() -> str:
    """The Train tab: empty until a run is there."""
    return f"""
<div id="train-empty" class="empty"><h2>No run yet</h2>
  <p>Press <b>Train and compare</b> on Start. Training goes on if you close this tab or Tunebench itself.</p></div>
<div id="train-run" hidden>
  <header class="row head"><h2 id="train-name"></h2><span id="train-left" class="quiet"></span></header>
  <ol class="stages" id="stages" aria-label="Stages"></ol>
  <div id="verdict"></div>
  <p class="sr" role="status" aria-live="polite" id="doctor-said"></p>
  <section class="verdict doctor" id="doctor" aria-label="Doctor" hidden></section>
  <p class="proof" id="proof" hidden></p>
  <div class="look" id="look"><div class="charts" id="charts">{"".join(map(render_chart, CHARTS))}
    <p class="quiet later" id="later" hidden></p></div>
  {SAMPLES_CARD}</div>
  <p class="quiet" id="rows"></p>
  <div class="folds">
    {render_details("deep", "Learning rate, gradient and speed", DETAIL_CHARTS)}
    {render_details("machine", "Memory, load, temperature and power", HARDWARE_CHARTS)}
    <details id="notes" hidden><summary>What was changed or left out</summary><ul></ul></details>
    <details id="settings"><summary>Settings used</summary><div class="groups"></div></details>
    <details id="log"><summary>Log</summary><pre tabindex="0" role="region" aria-label="Last lines of the log"></pre></details>
  </div>
  <fieldset id="at-end"><legend>When a run ends</legend>
    <label><input type="checkbox" name="notify"> Notify me</label>
    <label><input type="checkbox" name="sound"> Play a sound</label></fieldset>
</div>
"""


DATA = """
<section class="card" id="data-source" aria-label="Where the data is">
  <div id="data-drop"><b>Drop a data file here</b>
    <span class="quiet">JSONL, JSON, CSV, TSV or Parquet, also with .gz</span>
    <label class="button small" tabindex="0" id="data-choose">Choose a file<input type="file" id="data-file"
      class="sr" tabindex="-1" aria-label="Data file"></label></div>
  <form id="data-form"><label for="data-path">Or the path of a file or folder, or the name of a Hugging Face data set</label>
    <span class="row"><input id="data-path" autocomplete="off" spellcheck="false"
      placeholder="/home/me/pairs.jsonl or owner/name"><button class="button" id="data-check">Check</button></span></form>
  <p class="quiet" id="data-samples">Included: <button class="link" data-path="sample">sample pairs</button> ·
    <button class="link" data-path="sample chats">sample chats</button>
    <span id="data-current" hidden>· On Start: <button class="link" data-look></button></span></p>
</section>
<div id="data-problem" class="verdict bad" role="alert" hidden></div>
<form id="data-parts" class="card" hidden></form>
<div id="data-progress" role="status" hidden><div class="bar"><i></i></div><p class="row"><span></span>
  <button class="button small" id="data-stop">Stop</button></p></div>
<div id="data-found" hidden>
  <header class="row head"><div><h2 id="data-name"></h2><p class="quiet" id="data-shape"></p></div>
    <button class="button" id="data-use">Use this data</button></header>
  <div id="data-blocked" class="verdict bad" hidden></div>
  <p id="data-numbers" class="numbers"></p>
  <div id="data-steps" hidden></div>
  <section class="card" id="data-columns" aria-labelledby="data-columns-head"></section>
  <section class="card" id="data-rows" aria-labelledby="data-rows-head"></section>
  <section class="card" id="data-lengths" aria-labelledby="data-lengths-head" hidden></section>
  <section id="data-health" aria-labelledby="data-health-head"></section>
</div>
"""

LANES = """
<div id="compare-none" class="empty" hidden><h2>Nothing to compare yet</h2>
  <p>A run leaves adapters, which answer here beside the base and each other.</p>
  <p><button type="button" class="button" id="compare-start">Go to Start</button></p></div>
<div id="compare-failed" class="verdict bad" role="alert" hidden><p></p>
  <button type="button" class="button small" id="compare-reload">Load again</button></div>
<div id="compare-status" class="status" role="status" aria-live="polite"></div>
<div id="compare-wrong" class="verdict bad" role="alert" hidden></div>
<section id="vote-question" class="card" aria-label="Question of the blind vote" hidden>
  <header class="row"><h2 id="vote-number"></h2><span>
    <button type="button" class="button small" id="vote-again">New seed (R)</button>
    <button type="button" class="button small" id="vote-end">End blind vote (B)</button></span></header>
  <div id="vote-prompt"></div></section>
<div id="lanes" class="lanes"></div>
<div id="vote-bar" role="group" aria-label="Your vote" hidden>
  <button type="button" class="button vote" id="vote-a" data-choice="left">← A is better</button>
  <button type="button" class="button vote" id="vote-tie" data-choice="tie">↓ Tie</button>
  <button type="button" class="button vote" id="vote-b" data-choice="right">B is better →</button>
  <button type="button" class="button vote" id="vote-bad" data-choice="bad">Both bad (X)</button>
  <button type="button" class="button vote" id="vote-skip" data-choice="skip">Skip (S)</button>
  <button type="button" class="button vote" id="vote-next">Next (N)</button>
  <p id="vote-said" class="status" role="status" aria-live="polite"></p>
  <button type="button" class="button small" id="vote-reload" hidden>Load again</button></div>
<form id="vote-better" hidden><label for="vote-text">Both are bad. Write a better answer, and it becomes a training pair:</label>
  <textarea id="vote-text" rows="3"></textarea><button class="button small">Keep this answer</button></form>
<div id="votes-wrong" class="verdict bad" role="alert" hidden></div>
"""

COMPARE_MORE = """
<div id="compare-more">
  <section class="card" id="tally" aria-labelledby="tally-head" hidden><header class="row"><h2 id="tally-head"></h2>
    <button type="button" class="button small" id="vote-undo">Undo (U)</button></header>
    <p id="tally-none" hidden></p><p id="tally-numbers"></p><div id="tally-span" role="img" hidden><i></i><b></b></div>
    <p id="tally-odds"></p><p id="tally-verdict" class="strong"></p>
    <table id="tally-kinds" hidden><caption class="sr">Votes by kind of prompt</caption><thead></thead><tbody></tbody></table>
    <ul id="tally-checks" class="quiet"></ul>
    <p class="buttons"><button type="button" class="button" id="topairs"></button>
    <button type="button" class="button small" id="dlvotes">Download votes (JSONL)</button></p>
    <p id="pairs-said" role="status"></p></section>
  <section class="card" id="closer" aria-labelledby="closer-head" hidden><h2 id="closer-head">Look closer</h2>
    <p class="row"><label>Lane <select id="near"></select></label><label>against <select id="far"></select></label></p>
    <p><label><input type="checkbox" id="diff"> Highlight words that differ</label></p>
    <p class="buttons"><button type="button" class="button small" id="heat-near">Heat map of the first answer</button>
    <button type="button" class="button small" id="heat-far">Heat map of the second answer</button></p>
    <p id="heat-legend" class="quiet"></p></section>
  <section class="card" id="scored" aria-labelledby="scored-head">
    <header class="row"><h2 id="scored-head">Scores without voting</h2>
    <span><button type="button" class="button small" id="score-go">Score these lanes</button>
    <button type="button" class="button small" id="score-stop" hidden>Stop</button></span></header>
    <p id="score-hint" class="quiet">On the pairs the run held out, on its own answers, and on general questions that show what
      was forgotten. Takes a few minutes.</p>
    <div id="score-progress" role="status" hidden><div class="bar"><i></i></div><p></p></div>
    <div id="score-wrap" hidden><div class="measures" id="score-first"></div>
    <details id="score-all"><summary>All figures</summary><div class="measures" id="score-rest"></div></details></div>
    <div id="score-warnings"></div><p id="score-legend" class="quiet small"></p></section>
  <details class="card" id="judge"><summary>A model as judge</summary><form id="judge-form">
    <p class="quiet">It reads both answers twice, with the sides swapped, and is shown beside your votes, never counted among
      them. Prompts and answers go to the address below; the key is read from that variable of this computer.</p>
    <label>Judge <select id="judge-lane"></select></label>
    <label class="far">URL <input id="judge-url" placeholder="http://127.0.0.1:11434/v1"></label>
    <label class="far">Model <input id="judge-model"></label>
    <label class="far">Variable with its key <input id="judge-variable" value="OPENAI_API_KEY"></label>
    <label>Prompts <select id="judge-set"><option value="bundled">Bundled</option>
      <option value="held-out">Held out</option></select></label>
    <label>Answers to judge <input id="judge-cases" inputmode="numeric" value="20"></label>
    <p class="buttons"><button class="button small" id="judge-go">Judge the two lanes of Look closer</button>
    <button type="button" class="button small" id="judge-stop" hidden>Stop</button></p></form>
    <p id="judge-said" role="status"></p><ul id="judge-found"></ul></details>
</div>
"""

OVERLAY = Chart(
    (ChartSeries("overlay"),), "Chosen runs over each other", "Choose runs in the table to see their curves together."
)
RUNS = f"""
<div id="runs-tools" class="row" hidden>
<label>Find <input type="search" id="runs-find" placeholder="name, model, data or note"></label>
<span id="runs-count" class="quiet" role="status"></span></div>
<section id="overlay" aria-label="Chosen runs" hidden><p class="row"><label>Curve <select id="overlay-curve"></select></label>
<button type="button" class="button small" id="overlay-clear">Choose none</button></p>
{render_chart(OVERLAY)}<p id="overlay-names" class="lines quiet"></p>
<div class="tablewrap" tabindex="0" role="region" aria-label="Settings that differ">
<table id="overlay-differ"></table></div></section>
<div class="card tablewrap" tabindex="0" role="region" aria-label="Runs"><table id="runs">
<caption class="sr">All runs, pinned ones first, then newest first</caption><thead><tr>
<th scope="col"><span class="sr">Draw over each other</span></th><th scope="col">State</th><th scope="col">Run</th>
<th scope="col" class="minor">Data</th><th scope="col" class="num minor">Steps</th>
<th scope="col" class="num lesser">Loss</th><th scope="col" class="num lesser">Accuracy</th>
<th scope="col" class="num minor">Size</th><th scope="col" class="minor">Started</th>
<th scope="col"><span class="sr">What can be done</span></th></tr></thead><tbody></tbody></table>
<p class="empty" id="runs-empty">No run yet. The first one is one click away, on Start.</p></div>
<p id="runs-said" class="sr" role="status" aria-live="polite"></p>
<details id="trash" hidden><summary>Trash</summary><ul></ul><p class="buttons"></p></details>
"""


def render_problem(text: str, places: Sequence[str] = ()) -> str:
    """What went wrong, one line for each wrong field, announced at once; form_errors.js marks the inputs of `places`."""
    lines = [line for line in text.splitlines() if line.strip()]
    rows = "".join(
        f'<li data-field="{escape(place or "")}">{escape(line)}</li>'
        for line, place in zip_longest(lines, places[: len(lines)])
    )
    return f'<div class="verdict bad" role="alert"><ul>{rows}</ul></div>'


@dataclass(frozen=True)
class PlanLine:
    """One line of "What will happen": a stage, what it does, and how long it may take."""

    stage: str
    what: str
    takes: str = ""


def render_plan(lines: Sequence[PlanLine], notes: Sequence[str] = ()) -> str:
    """The steps before they happen."""
    rows = "".join(
        f'<li class="{escape(line.stage.lower())}"><b>{escape(line.stage)}</b><span>{escape(line.what)}</span>'
        f'<span class="quiet">{escape(line.takes)}</span></li>'
        for line in lines
    )
    more = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return (
        f'<section class="card plan"><h2>What will happen</h2><ol>{rows}</ol><ul class="reasons">{more}</ul></section>'
    )


def render_data_facts(facts: Sequence[str], notes: Sequence[str]) -> str:
    """What is in the data, and what was left out of it."""
    good = "".join(f'<li class="ok">{escape(fact)}</li>' for fact in facts)
    more = "".join(f'<li class="warn">{escape(note)}</li>' for note in notes)
    return f'<ul class="checked">{good}{more}</ul><button class="link" data-look>Look at the rows and their health</button>'


def render_start_choices(values: str) -> str:
    """What Start has chosen, as JSON for the Data tab to read."""
    return f'<span data-chosen="{escape(values)}"></span>'


def render_note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def render_origin(
    of: str, changes: Sequence[str], more: str = "Train and compare starts a new run; the old one stays."
) -> str:
    """Where the form's settings are from, and what is different in them."""
    rows = "".join(f"<li>{escape(change)}</li>" for change in changes)
    said = escape(more) + ("" if changes else " Nothing is changed.")
    return (
        f'<div class="verdict origin" role="status"><h3>{escape(of)}</h3><ul>{rows}</ul>'
        f'<p class="quiet small">{said}</p></div>'
    )


FIT_MARKS = {"fits": ("✓", "Fits"), "tight": ("◐", "Tight"), "too big": ("✗", "Will not fit")}
FIT_TONES = {"fits": "good", "tight": "busy", "too big": "bad"}


def render_sliders(levers: Sequence[Any]) -> str:
    """The head of the memory card: one slider for each lever; memory_sliders.js sets them and says where they were put."""
    rows = "".join(
        f'<label data-key="{escape(one.key)}"><span class="row">{escape(one.title)}<output></output></span>'
        f'<input type="range" min="0" max="{len(one.notches) - 1}" step="1" data-notches="{escape(json.dumps(one.notches))}">'
        "</label>"
        for one in levers
    )
    return f'<h2>Will it fit?</h2><div id="levers" role="group" aria-label="What moves the memory">{rows}</div>'


def render_memory(plan: Forecast, levers: dict[str, int], way: tuple[str, str]) -> str:
    """Whether it fits: the verdict, the bar by part with its legend, who holds the rest, what edits cost, and the reasons."""
    mark, word = FIT_MARKS[plan.verdict.level]
    most = max(plan.free, plan.peak.upper, 1)
    parts = largest_parts(plan.peak.parts)
    rest = f'<i class="spread" style="flex-basis:{50 * (plan.peak.upper - plan.peak.lower) / most:.2f}%"></i>'
    bar = "".join(render_segment(part, most, at) for at, part in enumerate(parts)) + rest
    said = (
        f"{plan.peak_stage.upper()} takes {format_gb(plan.peak.lower)} to "
        f"{format_gb(plan.peak.upper)} of {format_gb(plan.free)}"
    )
    model, words = way
    button = f'<button type="button" class="button small" data-suggest="{escape(model)}">{escape(words)}</button>'
    lines = [plan.holders, plan.too_big, *plan.notes]
    return f"""<section class="memory" aria-label="Memory" data-levers="{escape(json.dumps(levers))}">
<p class="fit"><span class="pill" data-tone="{FIT_TONES[plan.verdict.level]}">{mark} {word}</span>
  <span>{escape(plan.verdict.sentence.partition(": ")[2])}</span></p>
<div class="stack" role="img" aria-label="{escape(said)}">{bar}<b style="left:{100 * plan.free / most:.2f}%"></b></div>
<ul class="parts">{"".join(render_legend_entry(part, at) for at, part in enumerate(parts))}</ul>
{"".join(f'<p class="hint">{escape(line)}</p>' for line in lines if line)}
{render_costs(plan)}{button if words else ""}{render_reasons(plan)}</section>"""


def largest_parts(parts: Sequence[MemoryPart]) -> list[MemoryPart]:
    """The largest first, seven at most, so that each has a colour of its own; what would read 0.0 GB is in the rest."""
    large = sorted((part for part in parts if part.upper >= 0.05 * GIB), key=lambda part: -part.upper)[:7]
    small = [part for part in parts if part not in large]
    rest = MemoryPart("Other", sum(part.lower for part in small), sum(part.upper for part in small))
    return [*large, *([rest] if small else [])]


def render_segment(part: MemoryPart, most: int, at: int) -> str:
    return f'<i class="p{at % 8}" style="flex-basis:{50 * (part.lower + part.upper) / most:.2f}%"></i>'


def render_legend_entry(part: MemoryPart, at: int) -> str:
    amount = (
        format_gb(part.upper)
        if part.upper - part.lower < 0.05 * GIB
        else f"{part.lower / GIB:.1f} to {format_gb(part.upper)}"
    )
    return f'<li><i class="p{at % 8}"></i>{escape(part.name)} <b>{amount}</b></li>'


def render_costs(plan: Forecast) -> str:
    """What is set otherwise than the data and the memory ask for, where that moves memory."""
    rows = "".join(
        f"<li><b>{escape(setting_label(one.key))}:</b> {escape(one.sentence)}</li>" for one in plan.costly_changes
    )
    return f'<ul class="edits">{rows}</ul>' if rows else ""


def render_reasons(plan: Forecast) -> str:
    """Main memory, disk, and every value with its reason; folded."""
    rows = "".join(
        f"<dt>{escape(setting_label(one.key))}: {escape(one.value)}</dt><dd>{escape(one.sentence)}</dd>"
        for one in plan.values
    )
    host = f" Main memory: up to {format_gb(sum(part.upper for part in plan.peak.host))} of {format_gb(plan.host_free)} free."
    disk = f"Disk: up to {format_gb(certain_bytes(plan.disk))} of {format_gb(plan.disk_free)} free; "
    disk += ", ".join(f"{part.name.lower()} {format_gb(part.upper)}" for part in plan.disk) + "."
    return f"""<details><summary>Disk, main memory, and why these values</summary>
<p>{disk}{host if plan.peak.host else ""}</p><dl>{rows}</dl></details>"""


def render_unknown_memory(sentence: str, levers: dict[str, int]) -> str:
    return (
        f'<section class="memory" aria-label="Memory" data-levers="{escape(json.dumps(levers))}">'
        f'<p class="quiet">{escape(sentence)}</p></section>'
    )
