"""The rail on the left: device, run, pause and stop, recent runs. What is live in it is drawn by page.js."""

from __future__ import annotations

import gradio as gr

from trainer_core.errors import BusyError
from trainer_core.supervisor import Supervisor
from ui import cards, views
from ui.form import QUIET, on


def build(supervisor: Supervisor, bus: gr.HTML) -> None:  # noqa: C901  (layout, then handlers, then wiring)
    with gr.Sidebar(width=272, elem_id="rail"):
        fixed(cards.BRAND)
        fixed(cards.DEVICE)
        fixed(cards.RUN)
        with gr.Row(elem_id="run-buttons"):
            pause = gr.Button("Pause", size="md", interactive=False, elem_id="pause", min_width=80)
            stop = gr.Button("Stop run", size="md", interactive=False, elem_id="stop", min_width=80)
        with gr.Column(visible=False, elem_id="stop-ask") as ask:
            fixed('<p class="strong">Stop after this step?</p>')
            yes = gr.Button("Stop and keep adapter", variant="stop", size="md", elem_id="stop-yes")
            no = gr.Button("Keep going", size="md", elem_id="stop-no")
        problem = gr.HTML("", elem_id="stop-problem", elem_classes="problem")
        fixed(cards.RECENT)

    def asking(wanted: bool) -> tuple[dict, dict]:
        return gr.update(visible=not wanted), gr.update(visible=wanted)

    def open_question() -> tuple[dict, dict]:
        return asking(True)

    def keep_going() -> tuple[dict, dict]:
        return asking(False)

    def stop_run() -> tuple[dict, dict]:
        if not supervisor.active:
            raise BusyError("No run is going, so there is nothing to stop.")
        supervisor.stop(supervisor.active.id)
        return asking(False)

    def pause_run() -> None:
        if not supervisor.active:
            raise BusyError("No run is going, so there is nothing to pause.")
        supervisor.pause(supervisor.active.id)

    def resume_run(event: gr.EventData) -> None:
        supervisor.resume(event.run)

    def prolong_run(event: gr.EventData) -> None:
        supervisor.prolong(event.run)

    def refresh() -> tuple[dict, dict, dict]:
        active = supervisor.active
        if not active:
            return gr.update(interactive=False), gr.update(interactive=False, visible=True), gr.update(visible=False)
        free = gr.update(interactive=not views.leaving(supervisor, active))
        return free, free, gr.skip()

    on(stop.click, open_question, outputs=[stop, ask], **QUIET)
    on(no.click, keep_going, outputs=[stop, ask], **QUIET)
    on(yes.click, stop_run, outputs=[stop, ask], problem=problem, **QUIET)
    on(pause.click, pause_run, problem=problem, **QUIET)
    on(bus.resume, resume_run, gr.EventData, problem=problem, **QUIET)
    on(bus.prolong, prolong_run, gr.EventData, problem=problem, **QUIET)
    on(bus.statechange, refresh, outputs=[pause, stop, ask], **QUIET)


def fixed(html: str, **options: object) -> gr.HTML:
    """HTML of our own, without a value, so that Gradio never draws it anew."""
    return gr.HTML(html_template=html, apply_default_css=False, **options)  # type: ignore[arg-type]
