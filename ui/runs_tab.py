"""The Runs tab: every run of the workspace, drawn by runs.js, and what a person does with them."""

from __future__ import annotations

import gradio as gr

from trainer_core import desktop, shelf
from trainer_core.config import parse
from trainer_core.shelf import About
from trainer_core.supervisor import Supervisor
from ui import cards
from ui.facts import about_of
from ui.form import QUIET, on
from ui.rail import fixed


def build(supervisor: Supervisor, bus: gr.HTML) -> None:
    problem = gr.HTML("", elem_id="runs-problem", elem_classes="problem")

    fixed(cards.RUNS, elem_id="runs-view")

    def write(event: gr.EventData) -> None:
        """A name, a note or a pin; what is not said stays."""
        run_dir = supervisor.run_dir(event.run)
        values = {**about_of(run_dir).model_dump(), **event.about}
        shelf.write_about(run_dir, parse(About, values, ""))

    def throw_away(event: gr.EventData) -> None:
        supervisor.throw_away(event.run)

    def restore(event: gr.EventData) -> None:
        shelf.restore(supervisor.workspace, event.run)
        supervisor.look()

    def empty() -> None:
        shelf.empty(supervisor.workspace)

    def open_folder(event: gr.EventData) -> None:
        desktop.open_folder(supervisor.run_dir(event.run))  # by its id, so that no other folder can be asked for

    on(bus.openfolder, open_folder, gr.EventData, problem=problem, **QUIET)
    on(bus.about, write, gr.EventData, problem=problem, **QUIET)
    on(bus.throwaway, throw_away, gr.EventData, problem=problem, **QUIET)
    on(bus.restore, restore, gr.EventData, problem=problem, **QUIET)
    on(bus.emptytrash, empty, problem=problem, **QUIET)
