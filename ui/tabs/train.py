"""The Train tab. page.js draws all of it from the live channel, so it is the same after a reload and in every tab."""

from __future__ import annotations

import gradio as gr

from trainer_core.jobs.supervisor import Supervisor
from ui.components.form import QUIET_OPTIONS, bind_handler
from ui.components.html_train import render_train_tab
from ui.components.sidebar import static_html


def build_train_tab(supervisor: Supervisor, live: gr.HTML) -> None:
    problem = gr.HTML("", elem_id="train-problem", elem_classes="problem")
    static_html(render_train_tab(), elem_id="train")

    def use_step(event: gr.EventData) -> None:
        """Make an earlier step the adapter of its stage."""
        supervisor.control.use_checkpoint(event.run, event.stage, event.step)

    bind_handler(live.usestep, use_step, gr.EventData, problem=problem, **QUIET_OPTIONS)
