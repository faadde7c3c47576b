"""The sidebar: device, run, pause and stop, recent runs. page.js draws its live values."""

from __future__ import annotations

import gradio as gr

from launcher import info
from trainer_core.errors import BusyError
from trainer_core.jobs.supervisor import Supervisor
from ui.components.form import QUIET_OPTIONS, bind_handler
from ui.components.html import (
    BRAND,
    render_device,
    render_kill_question,
    render_recent_runs,
    render_run_card,
    render_sign_out_form,
)
from ui.format import page_text
from ui.payloads import run


def build_sidebar(supervisor: Supervisor, live: gr.HTML) -> None:  # noqa: C901  (layout, then handlers, then wiring)
    with gr.Sidebar(width=272, elem_id="sidebar"):
        static_html(BRAND)
        static_html(render_device())
        static_html(render_run_card())
        with gr.Row(elem_id="run-buttons"):
            pause = gr.Button(page_text("sidebar.pause"), size="md", interactive=False, elem_id="pause", min_width=80)
            stop = gr.Button(page_text("sidebar.stop"), size="md", interactive=False, elem_id="stop", min_width=80)
        with gr.Column(visible=False, elem_id="stop-question") as stop_question:
            static_html(f'<p class="strong">{page_text("sidebar.stop_question")}</p>')
            stop_confirm = gr.Button(
                page_text("sidebar.confirm_stop"), variant="stop", size="md", elem_id="stop-confirm"
            )
            stop_cancel = gr.Button(page_text("sidebar.cancel_stop"), size="md", elem_id="stop-cancel")
        kill = gr.Button(page_text("sidebar.kill"), visible=False, size="md", elem_id="kill")
        with gr.Column(visible=False, elem_id="kill-question") as kill_question:
            static_html(render_kill_question())
            kill_confirm = gr.Button(
                page_text("sidebar.confirm_kill"), variant="stop", size="md", elem_id="kill-confirm"
            )
            kill_cancel = gr.Button(page_text("sidebar.cancel_kill"), size="md", elem_id="kill-cancel")
        problem = gr.HTML("", elem_id="stop-problem", elem_classes="problem")
        static_html(render_recent_runs())
        static_html(render_sign_out_form())
        problem_report = gr.Button(page_text("sidebar.report_problem"), size="md", elem_id="report-problem")
        block = gr.Textbox(
            label=page_text("sidebar.problem_report"),
            visible=False,
            interactive=False,
            lines=8,
            max_lines=16,
            buttons=["copy"],
            elem_id="problem-report",
        )

    def show_question(visible: bool) -> tuple[dict, dict]:
        return gr.update(visible=not visible), gr.update(visible=visible)

    def ask_stop() -> tuple[dict, dict]:
        return show_question(True)

    def keep_going() -> tuple[dict, dict]:
        return show_question(False)

    def require_active() -> str:
        if not supervisor.registry.active_run:
            raise BusyError("sidebar.no_run")
        return supervisor.registry.active_run.id

    def stop_run() -> tuple[dict, dict]:
        supervisor.control.stop(require_active())
        return show_question(False)

    def pause_run() -> None:
        supervisor.control.pause(require_active())

    def ask_kill() -> dict:
        return gr.update(visible=True)

    def wait() -> dict:
        return gr.update(visible=False)

    def kill_run() -> dict:
        supervisor.control.kill(require_active())
        return wait()

    def resume_run(event: gr.EventData) -> None:
        supervisor.control.resume(event.run)

    def extend_run(event: gr.EventData) -> None:
        supervisor.control.extend(event.run)

    def write_report() -> tuple[dict, dict]:
        text = info.system_report(info.InfoSources(supervisor.workspace.root))
        return gr.update(value=text, visible=True), gr.update(value=page_text("sidebar.report_again"))

    def refresh() -> tuple[dict, dict, dict, dict, dict]:
        active, hidden = supervisor.registry.active_run, gr.update(visible=False)
        if not active:
            return gr.update(interactive=False), gr.update(interactive=False, visible=True), hidden, hidden, hidden
        pending = run.pending_request(supervisor.registry.run_dir(active.id), active)
        free = gr.update(interactive=not pending)
        may_kill = pending != "end" and bool(pending or active.stalled)
        return free, free, gr.skip(), gr.update(visible=may_kill), gr.skip() if may_kill else hidden

    bind_handler(stop.click, ask_stop, outputs=[stop, stop_question], **QUIET_OPTIONS)
    bind_handler(stop_cancel.click, keep_going, outputs=[stop, stop_question], **QUIET_OPTIONS)
    bind_handler(stop_confirm.click, stop_run, outputs=[stop, stop_question], problem=problem, **QUIET_OPTIONS)
    bind_handler(pause.click, pause_run, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.resume, resume_run, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(live.extend, extend_run, gr.EventData, problem=problem, **QUIET_OPTIONS)
    bind_handler(kill.click, ask_kill, outputs=[kill_question], **QUIET_OPTIONS)
    bind_handler(kill_cancel.click, wait, outputs=[kill_question], **QUIET_OPTIONS)
    bind_handler(kill_confirm.click, kill_run, outputs=[kill_question], problem=problem, **QUIET_OPTIONS)
    bind_handler(problem_report.click, write_report, outputs=[block, problem_report])
    bind_handler(live.statechange, refresh, outputs=[pause, stop, stop_question, kill, kill_question], **QUIET_OPTIONS)


def static_html(html: str, **options: object) -> gr.HTML:
    """Static HTML without a value, so that Gradio never redraws it."""
    return gr.HTML(html_template=html, apply_default_css=False, **options)  # type: ignore[arg-type]
