"""The Compare tab: one prompt, every lane of a run answering side by side. The answers' text is drawn by page.js."""

from __future__ import annotations

from typing import Any

import gradio as gr

from trainer_core.config import Sampling
from trainer_core.demo import prompts
from trainer_core.errors import ConfigError
from trainer_core.events import Phase
from trainer_core.requests import Cancel
from trainer_core.supervisor import Supervisor
from ui import cards, views
from ui.form import QUIET, Form, on
from ui.rail import fixed


def build(supervisor: Supervisor, bus: gr.HTML, tabs: gr.Tabs) -> None:  # noqa: C901  (layout, then handlers, then wiring)
    samples = prompts()
    with gr.Column(elem_id="compare-form"):
        run = gr.Dropdown(run_choices(supervisor), label="Run", interactive=True, elem_id="run")
        with gr.Row():
            prompt = gr.Textbox(
                samples[0], label="Prompt", lines=2, max_lines=8, interactive=True, elem_id="prompt", scale=5
            )
            with gr.Column(scale=1, min_width=210, elem_id="ask-buttons"):
                generate = gr.Button("Generate", variant="primary", elem_id="gen")
                cancel = gr.Button("Stop", visible=False, elem_id="cancel")
                with gr.Row(elem_id="steppers"):
                    back = gr.Button("‹ Previous", elem_id="prev", size="sm", min_width=60)
                    onward = gr.Button("Next ›", elem_id="next", size="sm", min_width=60)
    problem = gr.HTML("", elem_id="compare-problem", elem_classes="problem")
    fixed(cards.LANES, elem_id="compare-view")
    with gr.Accordion("Sampling", open=False, elem_id="sampling"), gr.Row(elem_classes="fields"):
        sampling = Form(Sampling)

    def ask(run_id: str | None, text: str, settings: Sampling) -> None:
        if not run_id:
            raise ConfigError("No run is chosen. Train one on Start, or pick one above.")
        if not text.strip():
            raise ConfigError("The prompt is empty. Type one, or press Next for a sample prompt.")
        supervisor.compare_run(run_id).ask(text, settings)

    def open_run(event: gr.EventData, settings: Sampling) -> tuple[Any, ...]:
        """Load a run's lanes and ask the first sample prompt, unless these lanes have answered already."""
        run_id = event.run
        comparison = supervisor.compare_run(run_id)
        if not comparison.asked:
            comparison.ask(samples[0], settings)
        return (
            gr.update(selected="compare"),
            gr.update(choices=run_choices(supervisor), value=run_id),
            comparison.asked or samples[0],
        )

    def step(text: str, by: int) -> str:
        return samples[(samples.index(text) + by) % len(samples)] if text in samples else samples[0]

    def previous(text: str) -> str:
        return step(text, -1)

    def following(text: str) -> str:
        return step(text, 1)

    def stop() -> None:
        if supervisor.comparison:
            supervisor.comparison.send(Cancel())

    def refresh(run_id: str | None) -> tuple[Any, ...]:
        answering = supervisor.comparison is not None and supervisor.comparison.view.phase is Phase.ANSWERING
        choices = run_choices(supervisor)
        known = {value for _, value in choices}
        chosen = run_id if run_id in known else (choices[0][1] if choices else None)
        return gr.update(choices=choices, value=chosen), gr.update(visible=not answering), gr.update(visible=answering)

    on(
        bus.opencompare,
        open_run,
        gr.EventData,
        sampling,
        outputs=[tabs, run, prompt],
        problem=problem,
        show_progress="hidden",
    )
    on([generate.click, prompt.submit], ask, run, prompt, sampling, problem=problem, show_progress="hidden")
    on(cancel.click, stop, problem=problem, show_progress="hidden")
    on(back.click, previous, prompt, outputs=[prompt], **QUIET)
    on(onward.click, following, prompt, outputs=[prompt], **QUIET)
    on(bus.statechange, refresh, run, outputs=[run, generate, cancel], **QUIET)


def run_choices(supervisor: Supervisor) -> list[tuple[str, str]]:
    """Runs with an adapter, newest first."""
    return [(views.choice(supervisor, view), view.id) for view in supervisor.views if views.comparable(view)]
