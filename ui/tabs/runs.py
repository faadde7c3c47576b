"""The Runs tab: every run of the workspace, drawn by runs.js, and the user's actions on it."""

from __future__ import annotations

import gradio as gr

from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import metadata, trash
from trainer_core.runs.metadata import RunMetadata
from trainer_core.schema import parse_values
from trainer_core.system import file_manager
from ui.components.form import QUIET_OPTIONS, bind_handler
from ui.components.html_runs import render_runs_tab
from ui.components.sidebar import static_html
from ui.payloads.run_settings import run_metadata


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

    bind_handler(live.openfolder, open_folder, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.editrun, edit_run, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.trashrun, move_to_trash, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.restore, restore, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.emptytrash, empty_trash, problem=problem, **QUIET_OPTIONS)
