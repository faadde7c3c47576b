"""The Train tab. All of it is drawn by page.js from the live channel, so it is the same after a reload and in every tab."""

from __future__ import annotations

import gradio as gr

from trainer_core.jobs.supervisor import Supervisor
from ui.components import html
from ui.components.form import QUIET, on
from ui.components.sidebar import fixed


def build(supervisor: Supervisor, bus: gr.HTML) -> None:
    problem = gr.HTML("", elem_id="train-problem", elem_classes="problem")
    fixed(html.train(), elem_id="train")

    def keep(event: gr.EventData) -> None:
        """An earlier step becomes the adapter of its stage."""
        supervisor.keep(event.run, event.stage, event.step)

    on(bus.keepstep, keep, gr.EventData, problem=problem, **QUIET)
