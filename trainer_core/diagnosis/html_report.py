"""A run on one page: what it did, its curves, the doctor's findings, scores, settings and versions.

The page is one HTML file without scripts and without references to anything outside it, so it can be mailed, kept and printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
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
from trainer_core.runs.events import Evaluation, Phase, SampleAnswers, Stage, TrainStep
from trainer_core.runs.metadata import RunMetadata
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system import untrusted_files
from trainer_core.system.durable import write_atomically
from trainer_core.system.format import format_setting
from trainer_core.texts import Text

Points = list[tuple[float, float]]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 220, 52, 24, 10
MAX_CHART_POINTS = 400
"""Points of a line; more cannot be seen at this width."""
STAGES = {stage: method.title for stage, method in METHODS.items()}
ENDS = {
    Phase.DONE: Text("report.done"), Phase.STOPPED: Text("report.stopped"),
    Phase.FAILED: Text("report.failed"), Phase.PAUSED: Text("report.paused"),
}  # fmt: skip
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
    name: Text | str
    points: Points


@dataclass(frozen=True)
class ReportData:
    """All that a report shows. scores: empty if the lanes were never scored."""

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
    """Write the report of a run, into its folder if no other file is named. Returns the file.

    Raises:
        UserError: see `load_report_data`; or the file cannot be written.
    """
    file = to or run_dir / "report.html"
    write_atomically(file, render_run_report(load_report_data(run_dir)))
    return file


def load_report_data(run_dir: Path) -> ReportData:
    """Everything that the report shows.

    Raises:
        ConfigError: the folder is not a training run.
    """
    file = run_folder.read_run(run_dir)
    job = run_folder.train_job_of(file)
    if job is None:
        raise ConfigError("report.no_training", run=untrusted_files.printable_id(run_dir))
    view = read_run_state(run_dir)
    scores = find_scores(run_dir)
    findings = doctor.diagnose(view, job.recipe, scores)
    return ReportData(file, job.recipe, view, metadata.read_metadata(run_dir), findings, scores)


def find_scores(run_dir: Path) -> tuple[LaneScore, ...]:
    """The scores in the run's folder, or those of the newest comparison with an adapter of this run."""
    with suppress(FileNotFoundError, DataError):  # a report without damaged scores is better than no report
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
        render_header(run), render_findings(run), render_charts(run.view), render_samples(run.view),
        render_scores(run.scores), render_notices(run.view), render_settings(run), render_versions(run),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{to_html(Text('report.title', name=run.run_name))}</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{''.join(filter(None, parts))}\n</main></body></html>\n"
    )


def to_html(text: Text | str) -> str:
    return escape(str(text))


def render_section(title: Text, body: str) -> str:
    """Nothing if the body is empty."""
    return f"<h2>{to_html(title)}</h2>{body}" if body else ""


def render_header(run: ReportData) -> str:
    view, rows, file = run.view, run.view.prepared, run.file
    summary = [ENDS.get(view.phase, Text("report.running"))]
    if last := view.last_step:
        summary.append(Text("report.last_step", stage=STAGES[last.stage], step=last.step, total=last.total))
    if rows:
        summary.append(Text("report.rows", chats=rows.chats, pairs=rows.pairs, held_out=rows.held_out))
    started = Text("report.started", run=file.id, time=file.created[:16].replace("T", " "), device=file.device)
    error = f'<p class="finding">{to_html(view.error)}</p>' if view.error else ""
    return (
        f'<h1>{to_html(run.run_name)}</h1><p class="quiet">{to_html(started)}</p>{render_paragraph(run.about.note)}'
        f"{render_paragraph(*summary)}{error}{render_reference_check(view)}"
    )


def render_paragraph(*sentences: Text | str) -> str:
    text = " ".join(map(str, sentences))
    return f"<p>{escape(text)}</p>" if text else ""


def render_reference_check(view: RunState) -> str:
    """The check at step 0, where there is one."""
    if (proof := view.proof) is None:
        return ""
    verdict = Text("report.proof_holds") if proof.holds else Text("report.proof_fails")
    loss = Text("report.proof_loss", loss=proof.loss)
    if proof.margin is not None:  # + 0 makes 0 of -0
        loss = Text("report.proof_margin", margin=proof.margin + 0, loss=proof.loss)
    return render_paragraph(verdict, loss)


def render_findings(run: ReportData) -> str:
    body = "".join(map(render_finding, run.findings)) or render_paragraph(Text("report.no_findings"))
    return render_section(Text("report.doctor"), body)


def render_finding(finding: Finding) -> str:
    title = Text("report.finding", title=finding.title, stage=STAGES[finding.stage], step=finding.step)
    evidence = "".join(f"<li>{to_html(fact)}</li>" for fact in finding.evidence)
    offer, source = Text("report.offer", offer=finding.offer.text), Text("report.source", source=finding.source)
    return (
        f'<section class="finding"><h3>{to_html(title)}</h3>{render_paragraph(finding.says)}<ul>{evidence}</ul>'
        f'{render_paragraph(offer)}<p class="quiet">{to_html(source)}</p></section>'
    )


def render_charts(view: RunState) -> str:
    figures = [
        render_line_chart(chart.title, chart_lines(view, stage, chart.keys), chart.level)
        for stage, method in METHODS.items()
        for chart in method.charts
    ]
    drawn = "".join(figures)
    return render_section(Text("report.curves"), drawn and f'<div class="charts">{drawn}</div>')


def chart_lines(view: RunState, stage: Stage, keys: tuple[str, ...]) -> list[ReportLine]:
    """One metric in training and on held-out rows, or several metrics in training."""
    if len(keys) > 1:
        return [ReportLine(key.capitalize(), metric_curve(view.points, stage, key)) for key in keys]
    return [
        ReportLine(Text("report.training"), metric_curve(view.points, stage, keys[0])),
        ReportLine(Text("report.held_out"), metric_curve(view.evaluated, stage, keys[0])),
    ]


def metric_curve(measured: Iterable[TrainStep | Evaluation], stage: Stage, key: str) -> Points:
    return finite_points(
        (one.step, one.loss if key == "loss" else one.metrics.get(key)) for one in measured if one.stage == stage
    )


def finite_points(points: Iterable[tuple[float, float | None]]) -> Points:
    return [(step, value) for step, value in points if value is not None and isfinite(value)]


def render_line_chart(title: str, lines: Sequence[ReportLine], mark: float | None = None) -> str:
    """A chart with a summary for screen readers; nothing if no line has two points."""
    drawn = [line for line in lines if len(line.points) > 1]
    if not drawn:
        return ""
    names = ", ".join(f"{line.name} {stroke}" for line, stroke in zip(drawn, ("—", "- -"), strict=False))
    ends = [(line.name, line.points[0][1], line.points[-1][1]) for line in drawn]
    spoken = "; ".join(str(Text("report.line", name=name, start=start, end=end)) for name, start, end in ends)
    label = f'role="img" aria-label="{escape(title)}: {escape(spoken)}"'
    return (
        f'<figure><figcaption>{escape(title)} <span class="quiet">{escape(names)}</span></figcaption>'
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
    steps = to_html(Text("report.steps", steps=last))
    return "".join(parts) + f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{steps}</text>'


def render_chart_grid(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    )


def render_samples(view: RunState) -> str:
    """The sample answers of the base and of each stage's last step, side by side."""
    points = list({(said.stage, said.step == 0): said for said in view.sampled}.values())  # the latest of each
    if not points:
        return ""
    answers = zip_longest(*([sample.answer for sample in said.samples] for said in points), fillvalue="")
    rows = [[sample.prompt, *said] for sample, said in zip(points[0].samples, answers, strict=False)]
    title, titles = Text("report.samples"), [Text("report.prompt"), *map(sample_title, points)]
    return render_section(title, render_html_table(titles, rows, title))


def sample_title(said: SampleAnswers) -> Text:
    return Text("report.sample_step", stage=STAGES[said.stage], step=said.step) if said.step else Text("report.base")


def render_scores(scores: Sequence[LaneScore]) -> str:
    if not scores:
        return ""
    title, rows = Text("report.scores"), score_table.format_score_rows(scores)
    table = render_html_table(["", *(score.lane for score in scores)], rows, title)
    warnings = "".join(f"<p class='bad'>{to_html(line)}</p>" for line in score_table.forgetting_warnings(scores))
    legend = to_html(score_table.score_legend(ScoresReady(tuple(scores))))
    return render_section(title, f"{table}{warnings}<p class='quiet'>{legend}</p>")


def render_notices(view: RunState) -> str:
    changes = [
        Text("report.change", what=one.what, asked=one.asked, used=one.used, why=one.why) for one in view.changes
    ]
    lines: list[Text | str] = [*changes, *view.notes]
    items = "".join(f"<li>{to_html(line)}</li>" for line in lines)
    return render_section(Text("report.changes"), items and f"<ul>{items}</ul>")


def render_settings(run: ReportData) -> str:
    recipe = run.recipe
    groups = render_group(Text("report.run"), recipe)
    groups += render_group(Text("report.data"), recipe.data) + render_group(Text("report.lora"), recipe.lora)
    groups += "".join(render_group(STAGES[stage], recipe.stage_settings(stage)) for stage in recipe.method.stages)
    return render_section(Text("report.settings"), f'<div class="groups">{groups}</div>')


def render_group(title: Text | str, part: BaseModel) -> str:
    return f"<section><h3>{to_html(title)}</h3>{render_name_value_table(label_settings(part))}</section>"


def label_settings(part: BaseModel) -> list[tuple[str, str]]:
    fields = [(field.title or name, getattr(part, name)) for name, field in type(part).model_fields.items()]
    return [
        (label, format_report_value(value))
        for label, value in fields
        if not isinstance(value, BaseModel) and format_report_value(value)
    ]


def format_report_value(value: Any) -> str:
    """A setting in words; nothing if it is not set. Only the name of a path: a report may be shown to others."""
    match value:
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(format_report_value, value))
        case str() if Path(value).is_absolute():
            return Path(value).name
    return format_setting(value)


def render_versions(run: ReportData) -> str:
    versions = run.file.versions
    return render_section(Text("report.versions"), render_name_value_table(list(versions.items())) if versions else "")


def render_name_value_table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f"<table><tbody>{body}</tbody></table>"


def render_html_table(titles: Sequence[Text | str], rows: Sequence[Sequence[str]], name: Text) -> str:
    top = "".join(f'<th scope="col">{to_html(title)}</th>' for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    whole = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{to_html(name)}">{whole}</div>'
