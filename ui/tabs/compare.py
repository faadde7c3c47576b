"""The Compare tab: the form above the answers. Answers, votes, scores and differences are drawn by compare.js."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from pydantic import Field

from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.errors import ConfigError
from trainer_core.evaluation.prompts import BUNDLED, HELD_OUT, PROMPT_SET_NAMES, load_prompts, read_bundled_prompts
from trainer_core.jobs import blind_voting
from trainer_core.jobs.lane_choices import MAX_LANES, PROMPTED, lanes_by_name, select_lanes, step_lane_name
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.events import Stage
from trainer_core.schema import StrictModel, parse_values
from ui.components.form import QUIET_OPTIONS, Form, bind_handler
from ui.components.html_compare import render_compare_more, render_lanes
from ui.components.sidebar import static_html
from ui.format import page_text
from ui.payloads.comparison import comparison_payload
from ui.payloads.imports import import_choices
from ui.payloads.run import is_comparable, run_option
from ui.server import path_policy
from ui.tabs.compare_actions import CompareActions, compare_endpoints
from ui.tabs.imports import build_imports

COMPARE_JS = "window.tunebench.initCompare(element, server);"
PAIR_JS = "(run, first, second) => window.tunebench.setVotePair({ run, first, second })"


class CompareForm(StrictModel):
    """The choices above the answers. `only`: the system prompt is for an extra lane of the base alone."""

    run: str
    lanes: tuple[str, ...] = ()
    prompt: str = ""
    side1: str = ""
    side2: str = ""
    source: str = Field(default=BUNDLED, title="Prompt set")
    follow: bool = False
    system: str = Field(default="", max_length=20_000, title="System prompt")
    only: bool = False
    sampling: Sampling = Sampling()


def build_compare_tab(supervisor: Supervisor, live: gr.HTML, tabs: gr.Tabs) -> None:
    newest = next((run_id for _, run_id in run_choices(supervisor.registry)), "")
    with gr.Column(elem_id="compare-form"):
        inputs, buttons = build_inputs(supervisor.registry, newest)
    problem = gr.HTML("", elem_id="compare-problem", elem_classes="problem")
    static_html(render_lanes(), elem_id="compare-lanes")
    with gr.Row(elem_id="sides"):
        inputs |= side_inputs(own_lane_names(supervisor.registry, newest))
    gr.HTML(
        html_template=render_compare_more(),
        js_on_load=COMPARE_JS,
        server_functions=compare_endpoints(supervisor),
        apply_default_css=False,
        elem_id="compare-view",
    )
    with gr.Accordion(page_text("compare_tab.sampling"), open=False, elem_id="sampling"), gr.Row(elem_classes="fields"):
        sampling = Form(Sampling)
    build_imports(supervisor, live)
    wire_handlers(supervisor, live, tabs, {**inputs, "sampling": sampling}, buttons, problem)


def build_inputs(registry: RunRegistry, run_id: str) -> tuple[dict[str, Any], dict[str, gr.Button]]:
    """Inputs by their names in CompareForm, and buttons by action."""
    inputs: dict[str, Any] = {}
    buttons: dict[str, gr.Button] = {}
    own, beside = own_lane_names(registry, run_id), lane_names(registry, run_id)
    with gr.Row():
        runs: dict[str, Any] = {"label": page_text("compare_tab.run"), "value": run_id or None, "scale": 2}
        inputs["run"] = gr.Dropdown(run_choices(registry), **runs, interactive=True, elem_id="run")
        several: dict[str, Any] = {"multiselect": True, "max_choices": MAX_LANES, "scale": 3, "interactive": True}
        models = page_text("compare_tab.models")
        inputs["lanes"] = gr.Dropdown(beside, value=own, label=models, **several, elem_id="lane-select")
        sets: dict[str, Any] = {"label": page_text("compare_tab.prompts"), "allow_custom_value": True, "scale": 2}
        inputs["source"] = gr.Dropdown(prompt_sets(), value=BUNDLED, **sets, interactive=True, elem_id="prompt-set")
    with gr.Row():
        box: dict[str, Any] = {"lines": 2, "max_lines": 8, "scale": 5, "min_width": 360, "interactive": True}
        prompt = page_text("compare_tab.prompt")
        inputs["prompt"] = gr.Textbox(read_bundled_prompts()[0], label=prompt, **box, elem_id="prompt")
        with gr.Column(scale=1, min_width=250, elem_id="ask-buttons"):
            # Disabled until `refresh` sets this page's run: until then the choices are those of the app's start.
            waiting: dict[str, Any] = {"interactive": False}
            buttons["generate"] = gr.Button(
                page_text("compare_tab.generate"), variant="primary", elem_id="generate", **waiting
            )
            buttons["cancel"] = gr.Button(page_text("common.stop"), visible=False, elem_id="cancel")
            small: dict[str, Any] = {"size": "sm", "min_width": 60}
            with gr.Row(elem_id="prompt-buttons"):
                buttons["previous"] = gr.Button(page_text("common.previous"), elem_id="previous-prompt", **small)
                buttons["next"] = gr.Button(page_text("common.next"), elem_id="next-prompt", **small)
                buttons["new_seed"] = gr.Button(
                    page_text("compare_tab.new_seed"), elem_id="new-seed", **small, **waiting
                )
            buttons["blind"] = gr.Button(
                page_text("compare_tab.blind_vote"), elem_id="blind-vote", size="md", **waiting
            )
    with gr.Accordion(page_text("compare_tab.conversation"), open=False, elem_id="conversation"):
        going_on = page_text("compare_tab.keep_conversation")
        inputs["follow"] = gr.Checkbox(False, label=going_on, interactive=True, elem_id="follow")
        system = page_text("compare_tab.system_prompt")
        inputs["system"] = gr.Textbox("", label=system, lines=2, interactive=True, elem_id="system")
        extra = page_text("compare_tab.prompted_base")
        inputs["only"] = gr.Checkbox(False, label=extra, interactive=True, elem_id="system-lane")
    return inputs, buttons


def prompt_sets() -> list[tuple[str, str]]:
    return [(page_text("compare_tab.bundled_prompts"), BUNDLED), (page_text("compare_tab.held_out_prompts"), HELD_OUT)]


def side_inputs(own: Sequence[str]) -> dict[str, gr.Dropdown]:
    """The two lanes of a blind vote, beside its count."""
    look: dict[str, Any] = {"interactive": True, "min_width": 150}
    return {
        "side1": gr.Dropdown(
            own, value=first_name(own), label=page_text("compare_tab.vote_on"), elem_id="side1", **look
        ),
        "side2": gr.Dropdown(own, value=last_name(own), label=page_text("compare_tab.versus"), elem_id="side2", **look),
    }


def wire_handlers(  # noqa: C901  (handlers, then wiring)
    supervisor: Supervisor, live: gr.HTML, tabs: gr.Tabs, inputs: dict[str, Any], buttons: dict[str, Any], problem: gr.HTML
) -> None:  # fmt: skip
    form_inputs = Form(CompareForm, None, (), **inputs)
    sampling, run, prompt = inputs["sampling"], inputs["run"], inputs["prompt"]
    line = [inputs["lanes"], inputs["side1"], inputs["side2"]]
    followed = gr.State("")

    def ask(form: CompareForm) -> None:
        ask_lanes(supervisor, form)

    def ask_again(form: CompareForm) -> Sampling:
        """Ask the same prompt with the next seed."""
        sampling = blind_voting.with_seed_offset(form.sampling, 1)
        ask_lanes(supervisor, form.model_copy(update={"sampling": sampling, "follow": False}))
        return sampling

    def vote(form: CompareForm) -> None:
        start_vote(supervisor, form)

    def open_run(event: gr.EventData, settings: Sampling) -> tuple[Any, ...]:
        """Load a run's lanes and ask the first sample prompt, unless these lanes have already answered."""
        run_id = event.run
        request = parse_values(OpenRunRequest, event._data, page_text("tabs.compare"))
        own = [*own_lane_names(supervisor.registry, run_id), *request.lane_names]
        comparison = supervisor.compare.compare_run(run_id, select_lanes(supervisor.registry, run_id, own))
        if not comparison.last_prompt and not comparison.open_question:
            comparison.ask(read_bundled_prompts()[0], settings)
        shown = gr.update(choices=run_choices(supervisor.registry), value=run_id)
        return (
            gr.update(selected="compare"),
            shown,
            *lane_updates(supervisor.registry, run_id, own),
            comparison.last_prompt or read_bundled_prompts()[0],
        )

    def choose_run(run_id: str | None) -> tuple[Any, ...]:
        return lane_updates(supervisor.registry, run_id) if run_id else (gr.skip(),) * 3

    def choose_lanes(form: CompareForm) -> tuple[Any, ...]:
        extra = [PROMPTED] if form.only and form.system.strip() else []
        return side_updates([*form.lanes, *extra], (form.side1, form.side2))

    def previous_prompt(form: CompareForm) -> str:
        return step_prompt(supervisor.registry, form, -1)

    def next_prompt(form: CompareForm) -> str:
        return step_prompt(supervisor.registry, form, 1)

    def stop() -> None:
        CompareActions(supervisor).stop()

    def refresh(run_id: str | None, names: list[str], before: str) -> tuple[Any, ...]:
        """Update the list of runs, the buttons, and the run that another page has loaded, or that was loaded before this page
        opened; `before` is the comparison this page knows."""
        payload, choices = comparison_payload(supervisor.registry), run_choices(supervisor.registry)
        answering_now = bool(payload and payload["answering"])
        known_runs = [value for _, value in choices]
        still = run_id if run_id in known_runs else next(iter(known_runs), None)
        loaded, now, lanes = supervisor.registry.comparison, "", names
        if loaded and loaded.run in known_runs:
            now = loaded.watcher.run_dir.name
            if now != before:
                still, lanes = loaded.run, [lane.name for lane in loaded.job.lanes if lane.name != PROMPTED]
        changed = still != run_id or lanes != names or not names
        beside = gr.update(choices=lane_names(supervisor.registry, still or ""))  # an import adds one
        rest = lane_updates(supervisor.registry, still, lanes) if still and changed else (beside, gr.skip(), gr.skip())
        # A value that is the page's own is not sent back: it may have been changed while this answer was under way.
        shown = gr.update(choices=choices) if still == run_id else gr.update(choices=choices, value=still)
        generate, usable = gr.update(visible=not answering_now, interactive=True), gr.update(interactive=True)
        return shown, *rest, generate, usable, usable, gr.update(visible=answering_now), now

    shown: dict[str, Any] = {"problem": problem, "show_progress": "hidden"}
    bind_handler(live.opencompare, open_run, gr.EventData, sampling, outputs=[tabs, run, *line, prompt], **shown)
    bind_handler([buttons["generate"].click, prompt.submit], ask, form_inputs, **shown)
    bind_handler(buttons["new_seed"].click, ask_again, form_inputs, outputs=[sampling], **shown)
    bind_handler(buttons["blind"].click, vote, form_inputs, **shown)
    bind_handler(buttons["cancel"].click, stop, **shown)
    bind_handler(
        buttons["previous"].click, previous_prompt, form_inputs, outputs=[prompt], problem=problem, **QUIET_OPTIONS
    )
    bind_handler(buttons["next"].click, next_prompt, form_inputs, outputs=[prompt], problem=problem, **QUIET_OPTIONS)
    bind_handler(run.input, choose_run, run, outputs=line, problem=problem, **QUIET_OPTIONS)
    changes = [inputs["lanes"].input, inputs["only"].input, inputs["system"].blur]
    bind_handler(changes, choose_lanes, form_inputs, outputs=line[1:], problem=problem, **QUIET_OPTIONS)
    outputs = [run, *line, *[buttons[name] for name in ("generate", "new_seed", "blind", "cancel")], followed]
    bind_handler(live.statechange, refresh, run, inputs["lanes"], followed, outputs=outputs, **QUIET_OPTIONS)
    votes_of = [run, inputs["side1"], inputs["side2"]]
    gr.on([one.change for one in votes_of], None, votes_of, None, js=PAIR_JS, api_visibility="private")


def ask_lanes(supervisor: Supervisor, form: CompareForm) -> None:
    """Ask all chosen lanes by name.

    Raises:
        BusyError: a run holds the device.
        ConfigError: no run or prompt, or a lane is gone.
    """
    if not form.prompt.strip():
        raise ConfigError("compare_tab.empty_prompt")
    chosen = chosen_lanes(supervisor.registry, form)
    blind_voting.end_voting(supervisor.registry)
    comparison = supervisor.compare.compare_run(form.run, chosen)
    comparison.ask(form.prompt, form.sampling, form.follow, "" if form.only else form.system)


def start_vote(supervisor: Supervisor, form: CompareForm) -> None:
    """Ask the first question of a blind vote; errors as in `jobs/blind_voting.py`."""
    chosen = chosen_lanes(supervisor.registry, form)
    path_policy.check_source(supervisor.workspace, form.source, PROMPT_SET_NAMES)
    between = blind_voting.lane_pair(form.run, [lane.name for lane in chosen], form.side1, form.side2)
    blind_voting.start_question(supervisor.compare, between, form.source, form.sampling, chosen)


def chosen_lanes(registry: RunRegistry, form: CompareForm) -> tuple[Lane, ...]:
    if not form.run:
        raise ConfigError("compare_tab.no_run")
    return select_lanes(registry, form.run, form.lanes, form.system if form.only else "")


def step_prompt(registry: RunRegistry, form: CompareForm, by: int) -> str:
    """The next or previous prompt of the set."""
    path_policy.check_source(registry.workspace, form.source, PROMPT_SET_NAMES)
    found = load_prompts(registry.run_dir(form.run), form.source) if form.run else []
    shown = [one.text for one in found] or read_bundled_prompts()
    return shown[(shown.index(form.prompt) + by) % len(shown)] if form.prompt in shown else shown[0]


def lane_updates(registry: RunRegistry, run_id: str, chosen: Sequence[str] = ()) -> tuple[Any, ...]:
    """The chosen lanes, or a run's own; all lanes that can be added; and the two sides of a vote: those of the newest vote, else
    the base and the last adapter of the run."""
    beside, own = lane_names(registry, run_id), own_lane_names(registry, run_id)
    lanes = [name for name in chosen if name in beside] or own
    voted = registry.comparison.contest if registry.comparison else None
    before = (voted.first, voted.second) if voted and voted.run == run_id else (own[0], own[-1]) if own else ()
    return gr.update(choices=beside, value=lanes), *side_updates(lanes, before)


def side_updates(names: Sequence[str], before: Sequence[str] = ()) -> tuple[Any, Any]:
    """The two lanes to vote on: those of `before` if present, else the first and the last."""
    one, other = (
        before if set(before) <= set(names) and len(set(before)) == 2 else (first_name(names), last_name(names))
    )
    return gr.update(choices=list(names), value=one), gr.update(choices=list(names), value=other)


def first_name(names: Sequence[str]) -> str | None:
    return names[0] if names else None


def last_name(names: Sequence[str]) -> str | None:
    return names[-1] if names else None


def lane_names(registry: RunRegistry, run_id: str) -> list[str]:
    return list(lanes_by_name(registry, run_id)) if run_id else []


def own_lane_names(registry: RunRegistry, run_id: str) -> list[str]:
    return [lane.name for lane in registry.run_lanes(run_id)] if run_id else []


class OpenRunRequest(StrictModel):
    """A run to open, and optionally an earlier step to compare with its adapters."""

    run: str
    stage: Stage | None = None
    step: int = 0

    @property
    def lane_names(self) -> list[str]:
        return [step_lane_name(self.stage, self.step)] if self.stage else []


def run_choices(registry: RunRegistry) -> list[tuple[str, str]]:
    """Runs with an adapter, then imports, newest first."""
    runs = (view for view in registry.run_states if is_comparable(view))
    return [*((run_option(registry.run_dir(view.id), view), view.id) for view in runs), *import_choices(registry)]
