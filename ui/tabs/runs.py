"""The Runs tab: every run of the workspace, drawn by runs.js, and what a person does with them."""

from __future__ import annotations

import gradio as gr

from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs import metadata, trash
from trainer_core.runs.metadata import About
from trainer_core.schema import parse
from trainer_core.system import file_manager
from ui.components import html
from ui.components.form import QUIET, on
from ui.components.sidebar import fixed
from ui.payloads.run_settings import about_of


def build(supervisor: Supervisor, bus: gr.HTML) -> None:
    problem = gr.HTML("", elem_id="runs-problem", elem_classes="problem")

    fixed(html.RUNS, elem_id="runs-view")

    def write(event: gr.EventData) -> None:
        """A name, a note or a pin; what is not said stays."""
        run_dir = supervisor.run_dir(event.run)
        values = {**about_of(run_dir).model_dump(), **event.about}
        metadata.write_about(run_dir, parse(About, values, ""))

    def throw_away(event: gr.EventData) -> None:
        supervisor.throw_away(event.run)

    def restore(event: gr.EventData) -> None:
        trash.restore(supervisor.workspace, event.run)
        supervisor.look()

    def empty() -> None:
        trash.empty(supervisor.workspace)

    def open_folder(event: gr.EventData) -> None:
        file_manager.open_folder(supervisor.run_dir(event.run))  # by its id, so that no other folder can be asked for

    on(bus.openfolder, open_folder, gr.EventData, problem=problem, **QUIET)
    on(bus.about, write, gr.EventData, problem=problem, **QUIET)
    on(bus.throwaway, throw_away, gr.EventData, problem=problem, **QUIET)
    on(bus.restore, restore, gr.EventData, problem=problem, **QUIET)
    on(bus.emptytrash, empty, problem=problem, **QUIET)
