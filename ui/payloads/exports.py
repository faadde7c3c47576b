"""Exports in plain values: what can leave a run, in which forms and sizes, and what each export does or did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer_core.config.export_targets import EXPORT_TARGETS, OFFERED_TARGETS, needs_quantiser
from trainer_core.config.jobs import ExportJob
from trainer_core.errors import UserError
from trainer_core.evaluation.certificate_chart import form_name, render_kept_chart, smallest_form
from trainer_core.evaluation.certificate_text import base_lines
from trainer_core.evaluation.score_table import KEPT_FORMAT, format_measure
from trainer_core.jobs.export_control import ExportControl, is_resumable
from trainer_core.jobs.lane_choices import lanes_by_name
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.planning import export_cost
from trainer_core.planning.presets import architecture_for_model, load_catalogue
from trainer_core.planning.serving_lines import serving_lines
from trainer_core.runs.events import Phase
from trainer_core.runs.export_events import AnswerComparison, CertificateRow, ExportFinished
from trainer_core.runs.run_folder import slugify_name
from trainer_core.runs.run_state import RunState
from trainer_core.system.format import format_clock, format_file_size
from trainer_core.system.llama_quantiser import find_quantiser
from trainer_core.texts import NO_TEXT, Text
from ui.format import page_text
from ui.payloads.run_settings import display_name

MAX_SHOWN = 6
"""Newest exports on the page."""
BASE_BITS = 16.0
BADGES = {
    Phase.DONE: Text("page.export_states.done"),
    Phase.FAILED: Text("page.export_states.failed"),
    Phase.STOPPED: Text("page.export_states.stopped"),
    Phase.PAUSED: Text("page.export_states.stopped"),
}
WORKING = Text("page.export_states.working")
TONES = {Phase.DONE: "good", Phase.FAILED: "bad", Phase.STOPPED: "plain"}
VERDICT_TONES = {"same": "good", "ties": "good", "changed": "warn", "unchecked": "plain"}


def export_options(supervisor: Supervisor, run_id: str) -> dict[str, Any]:
    """The lanes of a run that have an adapter, the forms with their sizes, and where they would go. `problem`: why not."""
    try:
        return build_options(supervisor, run_id)
    except UserError as error:
        return {"problem": str(error)}


def build_options(supervisor: Supervisor, run_id: str) -> dict[str, Any]:
    lanes = [lane for lane in lanes_by_name(supervisor.registry, run_id).values() if lane.adapter]
    own = [lane.name for lane in supervisor.registry.run_lanes(run_id) if lane.adapter]
    out = supervisor.workspace.exports
    sizes, quantiser = target_sizes(supervisor, run_id), find_quantiser()
    return {
        "lanes": [lane.name for lane in lanes],
        "lane": own[-1] if own else "",
        "name": slugify_name(display_name(supervisor.registry.run_dir(run_id))) or "model",
        "out": str(out),
        "free": format_file_size(export_cost.free_bytes(out)),
        "targets": [
            {
                "key": key,
                "label": str(EXPORT_TARGETS[key].label),
                "size": format_file_size(sizes[key]) if key in sizes else "",
                "missing": needs_quantiser(key) and not quantiser,
            }
            for key in OFFERED_TARGETS
        ],
    }


def target_sizes(supervisor: Supervisor, run_id: str) -> dict[str, int]:
    """Bytes of each form, from the shape of the base; empty for a base of unknown shape."""
    model, _ = supervisor.registry.run_base(run_id)
    shape = architecture_for_model(model, supervisor.workspace, load_catalogue())
    if shape is None:
        return {}
    adapters = [Path(lane.adapter) for lane in supervisor.registry.run_lanes(run_id) if lane.adapter]
    adapter = export_cost.folder_bytes(adapters[-1]) if adapters else 0
    weights = round(shape.parameter_count * BASE_BITS / 8)
    return dict(export_cost.export_cost(OFFERED_TARGETS, weights, BASE_BITS, adapter).parts)


def exports_payload(exports: ExportControl) -> list[dict[str, Any]]:
    """The newest exports, newest first."""
    return [safe_row(exports, state) for state in exports.export_states[:MAX_SHOWN]]


def safe_row(exports: ExportControl, state: RunState) -> dict[str, Any]:
    """The row of an export; if its run.json cannot be read, the reason."""
    try:
        return export_row(state, exports.export_job(state.id), exports.registry.workspace.runs)
    except UserError as error:
        lost = {
            "folder": "",
            "chart": "",
            "lane": "",
            "part": "",
            "left": "",
            "share": 0,
            "forms": [],
            "notes": [],
            "programs": [],
            "serving": [],
            "active": False,
        }
        shown = {"badge": str(BADGES[Phase.FAILED]), "tone": "bad", "resumable": False, "error": str(error)}
        return {"id": state.id, "name": state.id, **lost, **shown}


def export_row(state: RunState, job: ExportJob, runs: Path) -> dict[str, Any]:
    at = state.exporting if state.phase.is_active else None
    return {
        "id": state.id,
        "name": job.name,
        "folder": str(job.folder),
        "lane": job.lane.name,
        "active": state.phase.is_active,
        "badge": str(BADGES.get(state.phase, WORKING)),
        "tone": "busy" if state.phase.is_active else TONES.get(state.phase, "plain"),
        "part": page_text("exports.step", part=str(at.part), number=at.number, parts=at.parts) if at else "",
        "share": round(at.done / at.total, 2) if at else 0,
        "left": page_text("exports.left", time=format_clock(at.seconds_left)) if at and at.seconds_left else "",
        "error": str(state.error or (state.detail if state.phase is Phase.PAUSED else NO_TEXT)),
        "resumable": is_resumable(state),
        "forms": [form_row(form) for form in state.exported.forms] if state.exported else [],
        "notes": export_notes(state.exported) if state.exported else [],
        "chart": render_kept_chart(state.exported.forms) if state.exported else "",
        "programs": [str(one.said or one.problem) for one in state.registered.values()],
        "serving": [str(line) for line in serving_lines(job, runs / job.run)] if state.exported else [],
    }


def export_notes(exported: ExportFinished) -> list[str]:
    smallest = smallest_form(exported.forms)
    return [*([str(smallest)] if smallest else []), *base_lines(exported.bases)]


def form_row(form: CertificateRow) -> dict[str, Any]:
    """One form of the certificate, as the page shows it."""
    kl = form.served_divergence
    return {
        "form": form_name(form),
        "size": format_file_size(form.bytes),
        "answers": format_answers(form.served_answers),
        "kl": "–" if kl is None else f"{kl:.2g}",
        "kept": format_measure(form.kept, KEPT_FORMAT) or "–",
        "verdict": str(Text(f"verdicts.{form.verdict}")),
        "tone": VERDICT_TONES[form.verdict],
        "problem": str(form.problem) if form.problem else "",
    }


def format_answers(answers: AnswerComparison | None) -> str:
    return page_text("exports.of", equal=answers.equal, count=answers.count) if answers else "–"
