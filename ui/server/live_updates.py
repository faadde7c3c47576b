"""The live channel: sends the page once a second what it does not have yet.

A page sends a cursor: whose points it has and how many, how much of each answer, and a checksum of each part
it has drawn. It receives only what is new, so that an idle second costs almost nothing and a reload one full answer.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import Any

import gradio as gr
import orjson
from pydantic import Field
from starlette.responses import Response

from trainer_core.diagnosis import html_report
from trainer_core.diagnosis.series import thin_points
from trainer_core.errors import ConfigError
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import run_folder
from trainer_core.runs.events import Stage
from trainer_core.runs.run_state import RunState
from trainer_core.schema import StrictModel, parse_values
from trainer_core.system import project, untrusted_files
from trainer_core.system.redact import redact_text
from ui.payloads import comparison, exports, findings, run_list, samples, storage
from ui.payloads.curves import (
    CURVES,
    DETAIL_SERIES,
    MAX_POINTS,
    SERIES,
    all_curves,
    best_steps,
    drawn_value,
    held_out_curves,
    thin_curve,
)
from ui.payloads.run import (
    button_state,
    device_payload,
    hardware_payload,
    memory_meter,
    progress_payload,
    recent_runs,
    run_payload,
)
from ui.payloads.run_facts import facts_payload
from ui.server.storage_requests import storage_functions

LIVE_JS = (project.PROJECT / "assets" / "web" / "live.js").read_text(encoding="utf-8")
MAX_ROW_POINTS = 20
"""Up to this many new points are sent by step, which takes a third of the space."""
QUICK_PARTS = ("progress", "active_progress", "meter")
"""Parts that may change every second."""
LOG_LINES = 60


class Cursor(StrictModel):
    """What one page has and wants."""

    show: str = ""
    """The run on the page; empty: the active one, or else the newest."""
    run: str = ""
    """Run of the points it has; omitted if `whole` implies it."""
    points: int = Field(default=0, ge=0)
    ask: str = ""
    chars: dict[str, int] = {}
    marks: dict[str, int] = {}
    whole: int | None = None
    """Checksum over all parts but the quick ones, from the last answer; sent instead of their marks."""
    quick: tuple[int, ...] = ()
    """Marks of the quick parts, in order; sent with `whole`."""
    tab: str = ""
    log: bool = False
    detail: int = -1
    """Points of the detail curves that the page has; -1: not shown."""
    chosen: tuple[str, ...] = ()
    """Runs in the overlay."""
    pair: comparison.CompareChoice = comparison.CompareChoice()
    """The page's choice for the tally, used if nothing takes precedence, see `payloads/comparison.py`."""
    hardware: float = -1.0
    """Time of the last hardware reading that the page has; -1: not shown."""


def build_live_channel(supervisor: Supervisor) -> gr.HTML:
    """An invisible element whose script polls and updates the page."""
    rows = run_list.RunRows(supervisor.registry)
    threading.Thread(target=rows, name="rows", daemon=True).start()  # reads all runs before the Runs tab is opened

    def poll(cursor: Any = None) -> Response:
        try:
            held = parse_values(Cursor, cursor or {}, "cursor")
        except ConfigError as error:  # no page of ours
            return Response(str(error), 400)
        # a Response, because Gradio would search every number for conversions: 30 ms for 10,000 points
        answer = encode_answer(strip_unchanged(page_update(supervisor, held, rows), held))
        return Response(answer, media_type="application/json")

    def render_report(run_id: str) -> str:
        return html_report.render_run_report(html_report.load_report_data(supervisor.registry.run_dir(run_id)))

    def export_options(run_id: str) -> dict[str, Any]:
        return exports.export_options(supervisor, run_id)

    return gr.HTML(
        html_template="<span></span>",
        js_on_load=LIVE_JS,
        server_functions=[poll, render_report, export_options, *storage_functions(supervisor)],
        elem_id="live",
    )


def encode_answer(answer: dict[str, Any]) -> bytes:
    """An answer as JSON; unsupported values are replaced, so that one of them does not lose the whole answer."""
    try:
        return orjson.dumps(answer)
    except TypeError:
        return orjson.dumps(json_safe(answer))


def json_safe(value: Any) -> Any:
    match value:
        case str():
            return untrusted_files.replace_surrogates(value)
        case int() if abs(value) > untrusted_files.MAX_INTEGER:
            return None
        case dict():
            return {untrusted_files.replace_surrogates(str(key)): json_safe(one) for key, one in value.items()}
        case list() | tuple():
            return [json_safe(one) for one in value]
        case int() | float() | None:
            return value
    return untrusted_files.replace_surrogates(str(value))


class PartMaker:
    """Makes each part of an answer on its own: one that fails is empty, and `error` says why."""

    error = ""

    def __call__(self, make: Callable[[], Any], instead: Any = None) -> Any:
        try:
            return make()
        except Exception:
            self.error = redact_text(traceback.format_exc())
            return instead


def page_update(supervisor: Supervisor, cursor: Cursor, rows: run_list.RunRows | None = None) -> dict[str, Any]:
    """The parts this page does not have yet."""
    view, build = find_shown_run(supervisor.registry, cursor.show), PartMaker()
    parts = all_parts(supervisor, view, cursor, build)
    if cursor.tab == "runs":
        parts |= runs_tab_parts(supervisor, cursor, rows or run_list.RunRows(supervisor.registry), build)
    if build.error and not parts["buttons"]["error"]:
        parts["buttons"] = parts["buttons"] | {"error": build.error}
    summed = {name: run_list.part_checksum(part) for name, part in parts.items()}
    whole = run_list.part_checksum([pair for pair in sorted(summed.items()) if pair[0] not in QUICK_PARTS])
    if cursor.whole is None:
        held = cursor.marks
    elif cursor.whole == whole:
        held = {**summed, **dict.fromkeys(QUICK_PARTS, 0), **dict(zip(QUICK_PARTS, cursor.quick, strict=False))}
        cursor = cursor.model_copy(update={"run": view.id if view else ""})  # the checksum covers the run's id
    else:
        return {"stale": True}  # the page asks again with all its marks
    return {
        "parts": {
            name: {"mark": mark, "value": parts[name]} for name, mark in summed.items() if held.get(name) != mark
        },
        "whole": whole,
        **build(lambda: new_curves(view, cursor), {}),
        **build(lambda: detail_curves(view, cursor), {}),
        **build(lambda: hardware_payload(supervisor, cursor.hardware), {}),
        **build(lambda: new_answers(supervisor.registry, cursor), {}),
    }


def strip_unchanged(update: dict[str, Any], cursor: Cursor) -> dict[str, Any]:
    """Drop what the page sent itself: an idle second should cost only a few bytes."""
    same = ["from"]
    whole = cursor.whole is not None and update.get("whole") == cursor.whole
    if (whole or update.get("run") == cursor.run) and update.get("from") == cursor.points:
        same.append("run")  # a page that reads "run" drops its curves
    if update.get("points") == cursor.points:
        same.append("points")
    if update.get("ask") == cursor.ask and not any(update.get("text", {}).values()):
        same += ["ask", "text"]
    if whole:
        same.append("whole")
    if "detail" in update:
        update = update | {"detail": detail_rows(update["detail"], cursor)}
    kept = {name: value for name, value in update.items() if name not in same and value not in ({}, [])}
    return series_as_rows(kept) if len(kept.get("series", {})) > 1 else kept


def detail_rows(detail: dict[str, Any], cursor: Cursor) -> Any:
    """A few detail points that directly follow the page's, as rows of values; their positions follow from the cursor."""
    if detail["from"] != cursor.detail or detail["points"] - detail["from"] > MAX_ROW_POINTS:
        return detail
    return list(zip(*([value for _, value in points] for points in detail["series"].values()), strict=True))


def series_as_rows(update: dict[str, Any]) -> dict[str, Any]:
    """A few new points by step: stage → [step, a value per curve]; many stay by curve."""
    if max(map(len, update["series"].values())) > MAX_ROW_POINTS:
        return update
    rows: dict[Stage, dict[int, dict[str, float]]] = {}
    for name, points in update["series"].items():
        for step, value in points:
            rows.setdefault(SERIES[name][0], {}).setdefault(step, {})[name] = value
    if sum(map(len, rows.values())) > MAX_ROW_POINTS:
        return update
    steps = {
        stage: [[step, *(found.get(name) for name in CURVES[stage])] for step, found in by_step.items()]
        for stage, by_step in rows.items()
    }
    return {name: value for name, value in update.items() if name != "series"} | {"steps": steps}


def find_shown_run(registry: RunRegistry, run_id: str) -> RunState | None:
    return next((view for view in registry.run_states if view.id == run_id), registry.current_run)


EMPTY_PARTS: dict[str, Any] = {
    "device": {"name": "", "kind": "", "problem": ""},
    "meter": {"used": 0, "ours": 0, "free": "", "facts": ""},
    "recent": [],
    "buttons": {
        "busy": "",
        "leaving": "",
        "stalled": False,
        "compare": "",
        "runs": 0,
        "comparable": False,
        "free_memory": [],
        "vote_sets": 0,
        "error": "",
    },
    "held_out": {},
    "findings": [],
    "best": {},
}
"""Replacement for a part that failed, if the page needs more than None."""


def all_parts(supervisor: Supervisor, view: RunState | None, cursor: Cursor, build: PartMaker) -> dict[str, Any]:
    """All parts of the page; the long ones only while visible.

    active, active_progress: of the active run, or else the newest, if the page shows another one.
    """
    at_work = supervisor.registry.current_run
    if at_work and view and at_work.id == view.id:
        at_work = None
    makers: dict[str, Callable[[], Any]] = {
        "device": lambda: device_payload(supervisor),
        "meter": lambda: memory_meter(supervisor),
        "recent": lambda: recent_runs(supervisor.registry),
        "buttons": lambda: button_state(supervisor),
        "run": lambda: run_payload(supervisor.registry, view),
        "progress": lambda: progress_payload(view),
        "active": lambda: run_payload(supervisor.registry, at_work),
        "active_progress": lambda: progress_payload(at_work),
        "held_out": lambda: held_out_curves(view),
        "findings": lambda: findings.findings_payload(supervisor.registry, view),
        "samples": lambda: samples.samples_payload(supervisor.registry, view),
        "best": lambda: best_steps(view),
        "facts": lambda: facts_payload(supervisor.registry, view),
    }
    parts = {name: build(make, EMPTY_PARTS.get(name)) for name, make in makers.items()}
    parts |= build(lambda: comparison.compare_parts(supervisor.registry, cursor.pair), {})
    if cursor.log and view:
        parts["log"] = build(lambda: run_folder.read_log_tail(supervisor.registry.run_dir(view.id), LOG_LINES), [])
    return parts


def runs_tab_parts(supervisor: Supervisor, cursor: Cursor, rows: run_list.RunRows, build: PartMaker) -> dict[str, Any]:
    """The Runs tab: rows of finished runs, separate from those of an active run, which change every second."""
    registry = supervisor.registry
    over, active = build(rows, ([], []))
    return {
        "exports": build(lambda: exports.exports_payload(supervisor.exports), []),
        "storage": build(lambda: storage.move_payload(supervisor.storage), {}),
        "runs": over,
        "active_runs": active,
        "trash": build(lambda: run_list.trash_payload(registry.workspace), {"runs": [], "size": ""}),
        "overlay": build(
            lambda: run_list.overlay_payload(registry, cursor.chosen, all_curves),
            {"runs": [], "titles": {}, "differences": []},
        ),
    }


def new_curves(view: RunState | None, cursor: Cursor) -> dict[str, Any]:
    """The new points of every curve. `from` 0: drop all earlier points."""
    if view is None:
        return {"run": "", "from": 0, "points": 0, "series": {}}
    begin = cursor.points if cursor.run == view.id and cursor.points <= len(view.points) else 0
    new = view.points[begin:]
    series = {name: thin_curve(new, stage, read, MAX_POINTS) for name, (stage, read) in SERIES.items()}
    return {
        "run": view.id,
        "from": begin,
        "points": len(view.points),
        "series": {name: points for name, points in series.items() if points},
    }


def detail_curves(view: RunState | None, cursor: Cursor) -> dict[str, Any]:
    """The new points of the detail curves, counted over all stages."""
    if view is None or cursor.detail < 0:
        return {}
    begin = cursor.detail if cursor.run == view.id and cursor.detail <= len(view.points) else 0
    new = view.points[begin:]
    read = {
        name: thin_points([(begin + at, drawn_value(read(step) or 0)) for at, step in enumerate(new, 1)], MAX_POINTS)
        for name, read in DETAIL_SERIES.items()
    }
    return {"detail": {"from": begin, "points": len(view.points), "series": read if new else {}}}


def new_answers(registry: RunRegistry, cursor: Cursor) -> dict[str, Any]:
    """Text of the lanes beyond what the page has. Offsets count UTF-16 units, as browsers do."""
    registry.refresh_comparison()
    current = registry.comparison
    answers = current.current_answers if current else None
    if current is None or answers is None:
        return {"ask": "", "text": {}}
    question = current.open_question
    ask = question.ask if question else current.ask_id
    shown = (
        {"A": question.left_lane, "B": question.right_lane} if question else {lane: lane for lane in answers.answers}
    )
    held = cursor.chars if cursor.ask == ask else {}
    return {
        "ask": ask,
        "text": {name: text_after(answers.answers.get(lane, ""), held.get(name, 0)) for name, lane in shown.items()},
    }


def text_after(text: str, units: int) -> str:
    return text.encode("utf-16-le", "surrogatepass")[2 * units :].decode("utf-16-le", "replace")
