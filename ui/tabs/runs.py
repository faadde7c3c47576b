"""The Runs tab: every run of the workspace, drawn by runs.js, and the user's actions on it."""

from __future__ import annotations

import gradio as gr
from pydantic import Field

from trainer_core.config.jobs import Lane
from trainer_core.jobs.export_control import ExportRequest
from trainer_core.jobs.lane_choices import MAX_NAME_LENGTH, select_lanes
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import metadata, trash
from trainer_core.runs.metadata import RunMetadata
from trainer_core.schema import StrictModel, parse_values
from trainer_core.system import file_manager
from trainer_core.system.project import expand_home
from ui.components.form import QUIET_OPTIONS, bind_handler
from ui.components.html_runs import render_runs_tab
from ui.components.sidebar import static_html
from ui.format import page_text
from ui.payloads.run_settings import run_metadata
from ui.server import path_policy


class ExportForm(StrictModel):
    """What the page asks to export."""

    run: str
    lane: str
    targets: tuple[str, ...] = Field(min_length=1)
    out: str = Field(min_length=1)
    name: str = Field(min_length=1)
    repo: str = ""
    strength: float | None = None
    """As set with Compare's slider; with `other`, a lane, and its share of the blend. None: the lane's own."""
    other: str = ""
    share: float = 0.0


def start_export(supervisor: Supervisor, form: ExportForm) -> str:
    """Start an export and return its id.

    Raises:
        ConfigError: the lane is gone, a form is unknown, or no folder can have that name.
        DiskError: a user on another computer may not write there.
    """
    path_policy.check_export_folder(supervisor.workspace, form.out)
    if "hub" in form.targets:
        path_policy.check_upload()
    lane = choose_lane(supervisor, form)
    return supervisor.exports.start(
        ExportRequest(form.run, lane, form.targets, expand_home(form.out), form.name, form.repo)
    )


def choose_lane(supervisor: Supervisor, form: ExportForm) -> Lane:
    """The lane of the form, as it was set in Compare."""
    lane, *others = select_lanes(supervisor.registry, form.run, list(filter(None, [form.lane, form.other])))
    if form.strength is None:
        return lane
    name = f"{lane.name} at {form.strength:.0%}"[:MAX_NAME_LENGTH]
    mixed = {"other": others[0].adapter, "share": form.share} if others else {}
    return parse_values(Lane, lane.model_dump() | {"name": name, "strength": form.strength} | mixed, "lane")


def build_runs_tab(supervisor: Supervisor, live: gr.HTML) -> None:
    problem = gr.HTML("", elem_id="runs-problem", elem_classes="problem")

    static_html(render_runs_tab(), elem_id="runs-view")

    def edit_run(event: gr.EventData) -> None:
        """Change a name, note or pin; omitted values stay."""
        run_dir = supervisor.registry.run_dir(event.run)
        values = {**run_metadata(run_dir).model_dump(), **event.about}
        metadata.write_metadata(run_dir, parse_values(RunMetadata, values, ""))

    def move_to_trash(event: gr.EventData) -> None:
        supervisor.control.move_to_trash(event.run)

    def restore(event: gr.EventData) -> None:
        trash.restore_run(supervisor.workspace, event.run)
        supervisor.registry.refresh()

    def empty_trash() -> None:
        trash.empty_trash(supervisor.workspace)

    def open_folder(event: gr.EventData) -> None:
        file_manager.open_folder(supervisor.registry.run_dir(event.run))  # by id, so that no other folder can be named

    def export_run(event: gr.EventData) -> None:
        start_export(supervisor, parse_values(ExportForm, event._data, page_text("exports.title")))

    def stop_export(event: gr.EventData) -> None:
        supervisor.exports.stop(event.export)

    def resume_export(event: gr.EventData) -> None:
        supervisor.exports.resume(event.export)

    def open_export(event: gr.EventData) -> None:
        file_manager.open_folder(supervisor.exports.export_job(event.export).folder)

    bind_handler(live.exportrun, export_run, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.stopexport, stop_export, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.resumeexport, resume_export, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.openexport, open_export, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.openfolder, open_folder, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.editrun, edit_run, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.trashrun, move_to_trash, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.restore, restore, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.emptytrash, empty_trash, problem=problem, **QUIET_OPTIONS)
