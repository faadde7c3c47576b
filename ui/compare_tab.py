"""The Compare tab: what is asked of which lanes. Answers, votes, scores and the closer look are drawn by compare.js."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from trainer_core import ballot, lineup, prompt_sets
from trainer_core.config import Sampling, Strict, parse
from trainer_core.demo import prompts
from trainer_core.errors import ConfigError
from trainer_core.events import Stage
from trainer_core.supervisor import Supervisor
from ui import cards, compared, views
from ui.booth import Booth
from ui.data_tab import answering
from ui.form import QUIET, Form, on

COMPARE_JS = "window.tunebench.beginCompare(element, server);"
SETS = [("Bundled prompts", prompt_sets.BUNDLED), ("Held-out prompts of the run", prompt_sets.HELD_OUT)]


def build(supervisor: Supervisor, bus: gr.HTML, tabs: gr.Tabs) -> None:  # noqa: C901  (layout, then handlers, then wiring)
    samples, wishes = prompts(), Booth(supervisor).wishes
    first_run = next((run_id for _, run_id in run_choices(supervisor)), None)
    beside = list(lineup.choices(supervisor, first_run)) if first_run else []
    standard = own_lanes(supervisor, first_run)
    with gr.Column(elem_id="compare-form"):
        with gr.Row():
            run = gr.Dropdown(
                run_choices(supervisor), value=first_run, label="Run", interactive=True, elem_id="run", scale=2
            )
            lanes = gr.Dropdown(
                beside,
                value=standard,
                label="Lanes",
                multiselect=True,
                max_choices=lineup.MOST,
                interactive=True,
                elem_id="lane-choice",
                scale=3,
            )
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
                again = gr.Button("New seed", elem_id="again", size="sm", min_width=60)
        with gr.Row(elem_id="blind-row"):
            sides = [
                gr.Dropdown(standard, value=value, label=label, interactive=True, elem_id=place, min_width=150)
                for label, value, place in (("Vote on", first(standard), "side1"), ("against", last(standard), "side2"))
            ]
            source = gr.Dropdown(
                SETS,
                value=prompt_sets.BUNDLED,
                label="Prompt set or path of a file",
                allow_custom_value=True,
                interactive=True,
                elem_id="pset",
                min_width=220,
            )
            blind = gr.Button("Blind vote (B)", elem_id="blind", min_width=150)
        with gr.Accordion("System prompt and conversation", open=False, elem_id="talk"):
            follow = gr.Checkbox(
                False, label="Go on with the conversation: every lane remembers what it said", interactive=True, elem_id="follow"
            )  # fmt: skip
            system = gr.Textbox("", label="System prompt", lines=2, interactive=True, elem_id="system")
            extra = gr.Checkbox(
                False, label="Only for an extra lane: the base with this prompt", interactive=True, elem_id="system-lane"
            )  # fmt: skip
    problem = gr.HTML("", elem_id="compare-problem", elem_classes="problem")
    gr.HTML(
        html_template=cards.LANES,
        js_on_load=COMPARE_JS,
        server_functions=[answering(wish) for wish in wishes],
        apply_default_css=False,
        elem_id="compare-view",
    )
    with gr.Accordion("Sampling", open=False, elem_id="sampling"), gr.Row(elem_classes="fields"):
        sampling = Form(Sampling)

    def ask(
        run_id: str | None, names: list[str], text: str, settings: Sampling, going_on: bool, said: str, only: bool
    ) -> None:
        if not text.strip():
            raise ConfigError("The prompt is empty. Type one, or press Next for a sample prompt.")
        chosen = lineup.lanes(supervisor, known(run_id), names, said if only else "")
        ballot.leave(supervisor)
        comparison = supervisor.compare_run(known(run_id), chosen)
        comparison.ask(text, settings, going_on, "" if only else said)

    def ask_again(
        run_id: str | None, names: list[str], text: str, settings: Sampling, going_on: bool, said: str, only: bool
    ) -> Sampling:
        """The same prompt with the next seed."""
        fresh = ballot.reseeded(settings, 1)
        ask(run_id, names, text, fresh, False, said, only)
        return fresh

    def vote(
        run_id: str | None, names: list[str], one: str, other: str, prompt_set: str, settings: Sampling, said: str, only: bool
    ) -> None:  # fmt: skip
        chosen = lineup.lanes(supervisor, known(run_id), names, said if only else "")
        between = ballot.contest(known(run_id), [lane.name for lane in chosen], one, other)
        ballot.ask(supervisor, between, prompt_set, settings, chosen)

    def open_run(event: gr.EventData, settings: Sampling) -> tuple[Any, ...]:
        """Load a run's lanes and ask the first sample prompt, unless these lanes have answered already."""
        run_id = event.run
        then = parse(Then, event._data, "Compare")
        own = [*own_lanes(supervisor, run_id), *then.lanes]
        comparison = supervisor.compare_run(run_id, lineup.lanes(supervisor, run_id, own))
        if not comparison.asked and not comparison.round:
            comparison.ask(samples[0], settings)
        return (
            gr.update(selected="compare"),
            gr.update(choices=run_choices(supervisor), value=run_id),
            *line_up(run_id, own),
            comparison.asked or samples[0],
        )

    def line_up(run_id: str, chosen: Sequence[str]) -> tuple[Any, ...]:
        """The lanes to choose from, and the two sides among those chosen."""
        beside = list(lineup.choices(supervisor, run_id))
        kept = [name for name in chosen if name in beside] or own_lanes(supervisor, run_id)
        return gr.update(choices=beside, value=kept), *side_updates(kept)

    def take_run(run_id: str | None) -> tuple[Any, ...]:
        return line_up(run_id, ()) if run_id else (gr.skip(),) * 3

    def take_lanes(names: list[str], said: str, only: bool) -> tuple[Any, ...]:
        return side_updates([*names, *([lineup.PROMPTED] if only and said.strip() else [])])

    def step(text: str, run_id: str | None, prompt_set: str, by: int) -> str:
        shown = [one.text for one in prompt_sets.load(supervisor.run_dir(run_id), prompt_set)] if run_id else samples
        return shown[(shown.index(text) + by) % len(shown)] if text in shown else shown[0]

    def previous(text: str, run_id: str | None, prompt_set: str) -> str:
        return step(text, run_id, prompt_set, -1)

    def following(text: str, run_id: str | None, prompt_set: str) -> str:
        return step(text, run_id, prompt_set, 1)

    def stop() -> None:
        Booth(supervisor).stop()

    def refresh(run_id: str | None, names: list[str]) -> tuple[Any, ...]:
        told = compared.comparison(supervisor)
        answering_now = bool(told and told["answering"])
        choices = run_choices(supervisor)
        known_runs = [value for _, value in choices]
        chosen = run_id if run_id in known_runs else next(iter(known_runs), None)
        same = chosen == run_id and bool(names)
        rest = (gr.skip(),) * 3 if same or not chosen else line_up(chosen, ())
        buttons = gr.update(visible=not answering_now), gr.update(visible=answering_now)
        return gr.update(choices=choices, value=chosen), *rest, *buttons

    line = [lanes, *sides]
    asked: list[Any] = [run, lanes, prompt, sampling, follow, system, extra]
    shown: dict[str, Any] = {"problem": problem, "show_progress": "hidden"}
    on(bus.opencompare, open_run, gr.EventData, sampling, outputs=[tabs, run, *line, prompt], **shown)
    on([generate.click, prompt.submit], ask, *asked, **shown)
    on(again.click, ask_again, *asked, outputs=[sampling], **shown)
    on(blind.click, vote, run, lanes, *sides, source, sampling, system, extra, **shown)
    on(cancel.click, stop, **shown)
    on(back.click, previous, prompt, run, source, outputs=[prompt], problem=problem, **QUIET)
    on(onward.click, following, prompt, run, source, outputs=[prompt], problem=problem, **QUIET)
    on(run.input, take_run, run, outputs=line, problem=problem, **QUIET)
    on([lanes.change, extra.change, system.blur], take_lanes, lanes, system, extra, outputs=sides, **QUIET)
    on(bus.statechange, refresh, run, lanes, outputs=[run, *line, generate, cancel], **QUIET)


def known(run_id: str | None) -> str:
    """The chosen run.

    Raises:
        ConfigError: there is none.
    """
    if not run_id:
        raise ConfigError("No run is chosen. Train one on Start, or pick one above.")
    return run_id


def first(names: Sequence[str]) -> str | None:
    return names[0] if names else None


def last(names: Sequence[str]) -> str | None:
    return names[-1] if names else None


def side_updates(names: Sequence[str]) -> tuple[Any, Any]:
    """The two lanes to be voted on: most often the base and what was trained last."""
    return gr.update(choices=list(names), value=first(names)), gr.update(choices=list(names), value=last(names))


def own_lanes(supervisor: Supervisor, run_id: str | None) -> list[str]:
    return [lane.name for lane in supervisor.lanes(run_id)] if run_id else []


class Then(Strict):
    """Which run to open, and an earlier step of it beside its adapters."""

    run: str
    stage: Stage | None = None
    step: int = 0

    @property
    def lanes(self) -> list[str]:
        """The name of the lane of that step."""
        return [lineup.step_name(self.stage, self.step)] if self.stage else []


def run_choices(supervisor: Supervisor) -> list[tuple[str, str]]:
    """Runs with an adapter, newest first."""
    return [(views.choice(supervisor, view), view.id) for view in supervisor.views if views.comparable(view)]
