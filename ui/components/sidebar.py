"""The sidebar: device, run, pause and stop, recent runs. page.js draws what is live in it."""

from __future__ import annotations

import gradio as gr

from launcher import info
from trainer_core.errors import BusyError
from trainer_core.jobs.supervisor import Supervisor
from ui.components.form import QUIET_OPTIONS, bind_handler
from ui.components.html import BRAND, DEVICE, KILL_QUESTION, RECENT_RUNS, RUN, SIGN_OUT_FORM
from ui.payloads import run


def build_sidebar(supervisor: Supervisor, bus: gr.HTML) -> None:  # noqa: C901  (layout, then handlers, then wiring)
    with gr.Sidebar(width=272, elem_id="rail"):
        static_html(BRAND)
        static_html(DEVICE)
        static_html(RUN)
        with gr.Row(elem_id="run-buttons"):
            pause = gr.Button("Pause", size="md", interactive=False, elem_id="pause", min_width=80)
            stop = gr.Button("Stop run", size="md", interactive=False, elem_id="stop", min_width=80)
        with gr.Column(visible=False, elem_id="stop-ask") as ask:
            static_html('<p class="strong">Stop after this step?</p>')
            yes = gr.Button("Stop and keep adapter", variant="stop", size="md", elem_id="stop-yes")
            no = gr.Button("Keep going", size="md", elem_id="stop-no")
        end = gr.Button("End now", visible=False, size="md", elem_id="end")
        with gr.Column(visible=False, elem_id="end-ask") as end_ask:
            static_html(KILL_QUESTION)
            end_yes = gr.Button("End it in mid-step", variant="stop", size="md", elem_id="end-yes")
            end_no = gr.Button("Wait for it", size="md", elem_id="end-no")
        problem = gr.HTML("", elem_id="stop-problem", elem_classes="problem")
        static_html(RECENT_RUNS)
        static_html(SIGN_OUT_FORM)
        problem_report = gr.Button("Report a problem", size="md", elem_id="report-problem")
        block = gr.Textbox(
            label="To paste where you ask for help",
            visible=False,
            interactive=False,
            lines=8,
            max_lines=16,
            buttons=["copy"],
            elem_id="problem-report",
        )

    def asking(wanted: bool) -> tuple[dict, dict]:
        return gr.update(visible=not wanted), gr.update(visible=wanted)

    def open_question() -> tuple[dict, dict]:
        return asking(True)

    def keep_going() -> tuple[dict, dict]:
        return asking(False)

    def going() -> str:
        if not supervisor.registry.active_run:
            raise BusyError("sidebar.no_run")
        return supervisor.registry.active_run.id

    def stop_run() -> tuple[dict, dict]:
        supervisor.control.stop(going())
        return asking(False)

    def pause_run() -> None:
        supervisor.control.pause(going())

    def open_end() -> dict:
        return gr.update(visible=True)

    def wait() -> dict:
        return gr.update(visible=False)

    def end_run() -> dict:
        supervisor.control.kill(going())
        return wait()

    def resume_run(event: gr.EventData) -> None:
        supervisor.control.resume(event.run)

    def prolong_run(event: gr.EventData) -> None:
        supervisor.control.extend(event.run)

    def write_report() -> tuple[dict, dict]:
        text = info.system_report(info.InfoSources(supervisor.workspace.root))
        return gr.update(value=text, visible=True), gr.update(value="Write the report again")

    def refresh() -> tuple[dict, dict, dict, dict, dict]:
        active, hidden = supervisor.registry.active_run, gr.update(visible=False)
        if not active:
            return gr.update(interactive=False), gr.update(interactive=False, visible=True), hidden, hidden, hidden
        wish = run.pending_request(supervisor.registry.run_dir(active.id), active)
        free = gr.update(interactive=not wish)
        may_end = wish != "end" and bool(wish or active.stalled)
        return free, free, gr.skip(), gr.update(visible=may_end), gr.skip() if may_end else hidden

    bind_handler(stop.click, open_question, outputs=[stop, ask], **QUIET_OPTIONS)
    bind_handler(no.click, keep_going, outputs=[stop, ask], **QUIET_OPTIONS)
    bind_handler(yes.click, stop_run, outputs=[stop, ask], problem=problem, **QUIET_OPTIONS)
    bind_handler(pause.click, pause_run, problem=problem, **QUIET_OPTIONS)
    bind_handler(bus.resume, resume_run, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(bus.prolong, prolong_run, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(end.click, open_end, outputs=[end_ask], **QUIET_OPTIONS)
    bind_handler(end_no.click, wait, outputs=[end_ask], **QUIET_OPTIONS)
    bind_handler(end_yes.click, end_run, outputs=[end_ask], problem=problem, **QUIET_OPTIONS)
    bind_handler(problem_report.click, write_report, outputs=[block, problem_report])
    bind_handler(bus.statechange, refresh, outputs=[pause, stop, ask, end, end_ask], **QUIET_OPTIONS)


def static_html(html: str, **options: object) -> gr.HTML:
    """HTML of our own, without a value, so that Gradio never draws it anew."""
    return gr.HTML(html_template=html, apply_default_css=False, **options)  # type: ignore[arg-type]
