"""A run on one page that needs nothing else: what it did, its curves, what the doctor found, scores, settings and versions.

The page is one HTML file without script and without a reference to anything outside it, so it can be mailed, kept and printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trainer_core.config.jobs import CompareJob
from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.diagnosis import doctor
from trainer_core.diagnosis.finding import Finding
from trainer_core.diagnosis.series import thin_points
from trainer_core.errors import ConfigError, DataError, UserError
from trainer_core.evaluation import score_table
from trainer_core.runs import metadata, run_folder
from trainer_core.runs.compare_events import LaneScore, ScoresReady
from trainer_core.runs.events import Evaluation, Phase, Stage, TrainStep
from trainer_core.runs.metadata import RunMetadata
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system import untrusted_files
from trainer_core.system.durable import write_atomically
from trainer_core.system.format import format_setting

Points = list[tuple[float, float]]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 220, 52, 24, 10
MAX_CHART_POINTS = 400
"""Points of a line; more would not be seen at this width."""
STAGES = {stage: method.title for stage, method in METHODS.items()}
PHASE_TEXTS = {Phase.DONE: "finished", Phase.STOPPED: "was stopped", Phase.FAILED: "failed", Phase.PAUSED: "is paused"}
STYLE = """
:root { color-scheme: light dark; --ink: #16202c; --quiet: #52607a; --paper: #fff; --edge: #dbe2ea; --one: #0f766e; --two: #a04a05; --soft: #f3f6f9 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf5; --quiet: #a3b3c9; --paper: #0d131c; --edge: #2a3646; --one: #2dd4bf; --two: #fbbf24; --soft: #131b26 } }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 1100px; padding: 28px 20px 60px }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 19px; margin: 34px 0 10px } h3 { font-size: 15px; margin: 0 0 4px }
.quiet { color: var(--quiet) } .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 22px }
figure { margin: 0 } figcaption { font-weight: 700 } svg { width: 100%; height: auto; display: block }
svg text { font-size: 12px; fill: var(--quiet) } .grid { stroke: var(--edge) } .mark { stroke: var(--quiet); stroke-dasharray: 4 4 }
path { fill: none; stroke-width: 1.8; stroke-linejoin: round } .l0 { stroke: var(--one) } .l1 { stroke: var(--two); stroke-dasharray: 6 3 }
.finding { border-left: 4px solid var(--two); background: var(--soft); padding: 12px 16px; margin: 0 0 12px } .finding p { margin: 4px 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } th, td { text-align: left; padding: 4px 18px 4px 0; border-bottom: 1px solid var(--edge); font-weight: 400; vertical-align: top; overflow-wrap: anywhere }
thead th, tbody th { color: var(--quiet) } .groups { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 22px } .wide { overflow-x: auto }
"""  # noqa: E501  (a style sheet)


@dataclass(frozen=True)
class ReportLine:
    name: str
    points: Points


@dataclass(frozen=True)
class ReportData:
    """All that a report says. scores: empty where the lanes were never scored."""

    file: run_folder.RunFile
    recipe: Recipe
    view: RunState
    about: RunMetadata
    findings: tuple[Finding, ...]
    scores: tuple[LaneScore, ...]

    @property
    def run_name(self) -> str:
        return self.about.name or self.recipe.name or f"{Path(self.recipe.model).name} {self.recipe.method}"


def save_report(run_dir: Path, to: Path | None = None) -> Path:
    """Write the report of a run; into its folder, if no other place is named. Returns the file.

    Raises:
        UserError: see `told`; or the file cannot be written.
    """
    file = to or run_dir / "report.html"
    write_atomically(file, render_run_report(load_report_data(run_dir)))
    return file


def load_report_data(run_dir: Path) -> ReportData:
    """Read what there is to tell.

    Raises:
        ConfigError: the folder is no training run.
    """
    file = run_folder.read_run(run_dir)
    job = run_folder.train_job_of(file)
    if job is None:
        raise ConfigError(f"{untrusted_files.printable_id(run_dir)} is no training run, so there is nothing to report.")
    view = read_run_state(run_dir)
    scores = find_scores(run_dir)
    findings = doctor.diagnose(view, job.recipe, scores)
    return ReportData(file, job.recipe, view, metadata.read_metadata(run_dir), findings, scores)


def find_scores(run_dir: Path) -> tuple[LaneScore, ...]:
    """The scores in the run's folder, or the newest of a comparison in which an adapter of this run took part; or nothing."""
    with suppress(FileNotFoundError, DataError):  # damaged ones are not worth losing the report for
        return score_table.read_score_file(run_dir / "scores.json").scores
    for folder in run_folder.list_runs(Workspace.for_run(run_dir).compare):
        try:
            job = run_folder.read_run(folder).job
        except UserError:
            continue
        adapters = [Path(lane.adapter) for lane in job.lanes if lane.adapter] if isinstance(job, CompareJob) else []
        if any(path.is_relative_to(run_dir) for path in adapters) and (scores := read_run_state(folder).scores):
            return scores
    return ()


def render_run_report(run: ReportData) -> str:
    """The whole page."""
    parts = [
        render_header(run),
        render_findings(run),
        render_charts(run.view),
        render_samples(run.view),
        render_scores(run.scores),
        render_notices(run.view),
        render_settings(run),
        render_versions(run),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(run.run_name)} · Tunebench report</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{''.join(filter(None, parts))}\n</main></body></html>\n"
    )


def render_header(run: ReportData) -> str:
    view, made = run.view, run.view.prepared
    last = (
        f" after {STAGES[view.last_step.stage]} step {view.last_step.step} of {view.last_step.total}"
        if view.last_step
        else ""
    )
    state = f"The run {PHASE_TEXTS.get(view.phase, 'is going')}{last}."
    rows = f" {made.chats:,} examples, {made.pairs:,} pairs, {made.held_out:,} held out." if made else ""
    when = escape(run.file.created[:16].replace("T", " "))
    error = f'<p class="finding">{escape(str(view.error))}</p>' if view.error else ""
    return (
        f'<h1>{escape(run.run_name)}</h1><p class="quiet">{escape(run.file.id)} · started {when} UTC '
        f"· {escape(run.file.device)}</p>"
        f"{render_paragraph(run.about.note)}{render_paragraph(state + rows)}{error}"
        f"{render_paragraph(render_reference_check(view))}"
    )


def render_paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def render_reference_check(view: RunState) -> str:
    """The step-0 proof of DPO in one line, where there is one."""
    if view.proof is None:
        return ""
    verdict = "holds" if view.proof.holds else "DOES NOT HOLD"
    margin = "" if view.proof.margin is None else f"margin {view.proof.margin + 0:.4f} (must be 0), "
    return f"Step 0 proof {verdict}: {margin}loss {view.proof.loss:.4f}."


def render_findings(run: ReportData) -> str:
    body = "".join(map(render_finding, run.findings)) or "<p>Nothing that a curve can tell is wrong.</p>"
    return f"<h2>Doctor</h2>{body}"


def render_finding(one: Finding) -> str:
    evidence = "".join(f"<li>{escape(line)}</li>" for line in one.evidence)
    return (
        f'<section class="finding"><h3>{escape(one.title)} ({STAGES[one.stage]} step {one.step})</h3><p>{escape(one.says)}</p>'
        f"<ul>{evidence}</ul><p>Try: {escape(str(one.offer.text))}</p>"
        f'<p class="quiet">Threshold: {escape(one.source)}</p></section>'
    )


def render_charts(view: RunState) -> str:
    figures = [
        render_line_chart(chart.title, chart_lines(view, stage, chart.keys), chart.level)
        for stage, method in METHODS.items()
        for chart in method.charts
    ]
    drawn = "".join(filter(None, figures))
    return f'<h2>Curves</h2><div class="charts">{drawn}</div>' if drawn else ""


def chart_lines(view: RunState, stage: Stage, keys: tuple[str, ...]) -> list[ReportLine]:
    """One metric in training and on held-out rows, or several metrics in training."""
    if len(keys) > 1:
        return [ReportLine(key.capitalize(), metric_curve(view.points, stage, key)) for key in keys]
    curves = metric_curve(view.points, stage, keys[0]), metric_curve(view.evaluated, stage, keys[0])
    return [ReportLine("Training", curves[0]), ReportLine("Held out", curves[1])]


def metric_curve(measured: Iterable[TrainStep | Evaluation], stage: Stage, key: str) -> Points:
    return finite_points(
        (one.step, one.loss if key == "loss" else one.metrics.get(key)) for one in measured if one.stage == stage
    )


def finite_points(points: Iterable[tuple[float, float | None]]) -> Points:
    return [(step, value) for step, value in points if value is not None and isfinite(value)]


def render_line_chart(title: str, lines: Sequence[ReportLine], mark: float | None = None) -> str:
    """A picture with a spoken summary, or nothing where there are no two points."""
    drawn = [line for line in lines if len(line.points) > 1]
    if not drawn:
        return ""
    names = ", ".join(f"{line.name} {stroke}" for line, stroke in zip(drawn, ("—", "- -"), strict=False))
    spoken = "; ".join(f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in drawn)
    label = f'role="img" aria-label="{escape(title)}: {spoken}"'
    return (
        f'<figure><figcaption>{escape(title)} <span class="quiet">{names}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" {label}>{render_chart_svg(drawn, mark)}</svg></figure>'
    )


def render_chart_svg(lines: Sequence[ReportLine], mark: float | None) -> str:
    """Grid, lines and the value worth knowing, on one scale."""
    values = [value for line in lines for _, value in line.points] + ([] if mark is None else [mark])
    low, high, last = min(values), max(values), max(line.points[-1][0] for line in lines)
    high = high if high > low else low + 1

    def x(step: float) -> float:
        return LEFT + (step - 1) / max(last - 1, 1) * (WIDTH - LEFT - 8)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [render_chart_grid(y(value), f"{value:.3g}") for value in (low, (low + high) / 2, high)]
    if mark is not None:
        parts.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>')
    for at, line in enumerate(lines):
        path = "L".join(f"{x(step):.1f},{y(value):.1f}" for step, value in thin_points(line.points, MAX_CHART_POINTS))
        parts.append(f'<path class="l{at}" d="M{path}"/>')
    return "".join(parts) + f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{last:g} steps</text>'


def render_chart_grid(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def render_samples(view: RunState) -> str:
    """The sample answers of the base and of each stage's last step, side by side."""
    newest = {(one.stage, one.step == 0): one for one in view.sampled}  # a later one takes an earlier one's place
    if not newest:
        return ""
    said = list(newest.values())
    titles = ["Base" if one.step == 0 else f"{STAGES[one.stage]} step {one.step}" for one in said]
    rows = [[first.prompt, *(one.samples[at].answer for one in said)] for at, first in enumerate(said[0].samples)]
    return f"<h2>Sample answers</h2>{render_html_table(['Prompt', *titles], rows, 'Sample answers')}"


def render_scores(found: Sequence[LaneScore]) -> str:
    if not found:
        return ""
    rows = render_html_table(["", *[one.lane for one in found]], score_table.format_score_rows(found))
    forgotten = "".join(f"<p class='bad'>{escape(line)}</p>" for line in score_table.forgetting_warnings(found))
    return f"<h2>Scores</h2>{rows}{forgotten}<p class='quiet'>{escape(score_table.score_legend(ScoresReady(tuple(found))))}</p>"


def render_notices(view: RunState) -> str:
    changes = [f"{one.what}: {one.asked} → {one.used}. {one.why}" for one in view.changes]
    items = "".join(f"<li>{escape(line)}</li>" for line in [*changes, *map(str, view.notes)])
    return f"<h2>Changed or left out</h2><ul>{items}</ul>" if items else ""


def render_settings(run: ReportData) -> str:
    recipe = run.recipe
    parts: list[tuple[str, BaseModel]] = [("Run", recipe), ("Data", recipe.data), ("LoRA", recipe.lora)]
    parts += [(STAGES[stage], recipe.stage_settings(stage)) for stage in recipe.method.stages]
    groups = "".join(
        f"<section><h3>{title}</h3>{render_name_value_table(label_settings(part))}</section>" for title, part in parts
    )
    return f'<h2>Settings</h2><div class="groups">{groups}</div>'


def label_settings(part: BaseModel) -> list[tuple[str, str]]:
    fields = [(field.title or name, getattr(part, name)) for name, field in type(part).model_fields.items()]
    return [
        (label, format_report_value(value))
        for label, value in fields
        if not isinstance(value, BaseModel) and format_report_value(value)
    ]


def format_report_value(value: Any) -> str:
    """A setting in words; nothing for one that is not set. Of a path only the end: a report may be shown to others."""
    match value:
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(format_report_value, value))
        case str() if Path(value).is_absolute():
            return Path(value).name
    return format_setting(value)


def render_versions(run: ReportData) -> str:
    return f"<h2>Made with</h2>{render_name_value_table(list(run.file.versions.items()))}" if run.file.versions else ""


def render_name_value_table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f"<table><tbody>{body}</tbody></table>"


def render_html_table(titles: Sequence[str], rows: Sequence[Sequence[str]], name: str = "Scores") -> str:
    top = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    whole = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(name)}">{whole}</div>'
