"""The Start tab: model, data, length, all settings, and the start button."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from trainer_core.config.recipe import METHOD_CHAINS, METHODS, SAMPLE, Columns, Data, MethodChain, Recipe
from trainer_core.jobs.supervisor import Supervisor
from ui.components import html
from ui.components.form import ORDERED_OPTIONS, QUIET_OPTIONS, Form, bind_handler, edit_events, edit_triggers
from ui.components.html_start import render_sliders
from ui.components.sidebar import static_html
from ui.format import STAGE_LABELS, page_text
from ui.payloads import memory_fit
from ui.payloads.model_choices import QUICK
from ui.tabs.start_actions import PREVIEW, StartActions, StartView, data_choices

TO_ORIGIN = "() => document.getElementById('origin').scrollIntoView({block: 'center'})"


def build_start_tab(supervisor: Supervisor, live: gr.HTML, tabs: gr.Tabs, page: gr.Blocks) -> None:
    actions = StartActions(supervisor)
    origin = gr.HTML("", elem_id="origin")
    undo = gr.Button(page_text("start_tab.undo"), visible=False, size="sm", elem_id="undo")
    before = gr.State(None)
    stored = gr.BrowserState({}, storage_key="tunebench.start", secret="tunebench")
    with gr.Row(elem_id="start"):
        with gr.Column(scale=3, min_width=340):
            with gr.Column(elem_classes="card", elem_id="basics"):
                model = gr.Dropdown(
                    actions.offers.model_labels(supervisor),
                    value=actions.first.model,
                    label=page_text("start_tab.model"),
                    info=page_text("start_tab.model_help"),
                    allow_custom_value=True,
                    interactive=True,
                    elem_id="model",
                )
                pairs = gr.Dropdown(
                    data_choices(supervisor.workspace),
                    value=SAMPLE,
                    label=page_text("start_tab.data"),
                    info=page_text("start_tab.data_help"),
                    allow_custom_value=True,
                    interactive=True,
                    elem_id="data",
                )
                health = gr.HTML("", elem_id="health")
                chosen = gr.HTML("", elem_id="start-choices")
                method = gr.Radio(
                    method_choices(),
                    value=actions.first.method,
                    label=page_text("start_tab.method"),
                    interactive=True,
                    elem_id="method",
                )
                goal = gr.Radio(
                    actions.offers.goal_choices,
                    value=QUICK,
                    label=page_text("start_tab.training_length"),
                    interactive=True,
                    elem_id="goal",
                )
            with gr.Column(elem_classes="card", elem_id="fit"):
                static_html(render_sliders(memory_fit.SLIDERS))
                memory = gr.HTML("", elem_id="memory")
        with gr.Column(scale=2, min_width=300):
            plan = gr.HTML("", elem_id="plan")
            go = gr.Button(page_text("start_tab.train_and_compare"), variant="primary", size="lg", elem_id="go")
            problem = gr.HTML("", elem_id="start-problem", elem_classes="problem")
            static_html(html.render_note(page_text("start_tab.footnote")))
    with gr.Accordion(page_text("settings.title"), open=False, elem_id="settings-form"):
        recipe = build_settings_form(actions.first, model, pairs, method)

    elements = StartView(
        recipe=recipe, models=model, data_sets=pairs, facts=health, plan=plan, goal=goal, stored=stored,
        settings=chosen, memory=memory, train=go, origin=origin, undo=undo, before=before, tabs=tabs,
    )  # fmt: skip
    wire_handlers(actions, live, page, elements, problem)


def method_choices() -> list[tuple[str, MethodChain]]:
    return [(chain_label(chain), chain) for chain in METHOD_CHAINS]


def chain_label(chain: MethodChain) -> str:
    """`SFT, then DPO` or `SFT only`."""
    labels = [STAGE_LABELS[stage] for stage in chain.stages]
    if len(labels) == 1:
        return page_text("start_tab.method_alone", method=labels[0])
    first, second = labels
    return page_text("start_tab.method_chain", first=first, second=second)


def wire_handlers(actions: StartActions, live: gr.HTML, page: gr.Blocks, elements: StartView, problem: gr.HTML) -> None:
    """Args:
    elements: the element for each part of a view.
    """
    recipe, stored, goal = elements.recipe, elements.stored, elements.goal

    def shown(*names: str, **options: Any) -> dict[str, Any]:
        return {"outputs": {name: getattr(elements, name) for name in names}, "problem": problem, **options}

    restored = shown("recipe", *PREVIEW, **QUIET_OPTIONS)
    chosen = shown("recipe", *PREVIEW, **ORDERED_OPTIONS)
    edits = edit_triggers(recipe, but=(elements.models, elements.data_sets))
    bind_handler(page.load, actions.restore, stored, **restored)
    bind_handler(edits, actions.preview, recipe, **shown(*PREVIEW, **ORDERED_OPTIONS))
    bind_handler(elements.models.input, actions.choose_model, recipe, goal, **chosen)
    bind_handler(edit_events(elements.data_sets), actions.choose_data, recipe, stored, **chosen)
    bind_handler(goal.input, actions.choose_goal, recipe, goal, **chosen)
    started = shown("tabs", "origin", "undo", show_progress="hidden")
    bind_handler(elements.train.click, actions.start, recipe, **started)
    opened = shown("recipe", *PREVIEW, "origin", "undo", "tabs", **QUIET_OPTIONS)
    bind_handler(live.retry, actions.use_suggestion, gr.EventData, **opened)
    bind_handler(live.clone, actions.clone, gr.EventData, **opened)
    used = shown("tabs", "recipe", *PREVIEW, **QUIET_OPTIONS)
    bind_handler(live.usedata, actions.use_data, gr.EventData, recipe, **used)
    moved = {**restored, "outputs": {**restored["outputs"], "recipe": recipe.subset(memory_fit.SLIDER_SETTINGS)}}
    bind_handler(live.moveslider, actions.move_slider, gr.EventData, recipe, **moved)
    suggested = shown("recipe", *PREVIEW, "origin", "undo", "before", **QUIET_OPTIONS)
    bind_handler(live.suggest, actions.suggest, gr.EventData, recipe, **suggested).then(None, js=TO_ORIGIN)
    undone = shown("recipe", *PREVIEW, "origin", "undo", **QUIET_OPTIONS)
    bind_handler(elements.undo.click, actions.undo, elements.before, stored, **undone)
    refreshed = shown("models", "data_sets", "memory", "train", **QUIET_OPTIONS)
    bind_handler(live.statechange, actions.refresh, stored, **{**refreshed, "problem": None})


def build_settings_form(first: Recipe, model: gr.Dropdown, pairs: gr.Dropdown, method: gr.Radio) -> Form:
    """Inputs for all values of a recipe, the `first` at the start; three of them are outside."""
    made: dict[str, Form] = {}
    with gr.Tabs():
        with gr.Tab(page_text("settings.run"), elem_id="page-run"), gr.Row(elem_classes="fields"):
            run = Form(Recipe, first, ("model", "method", "data", "lora", *METHODS, "sampling"))
        with gr.Tab(page_text("settings.data"), elem_id="page-data"):
            rows = gr.Row(elem_classes="fields")
            with gr.Accordion(page_text("settings.columns"), open=False), gr.Row(elem_classes="fields"):
                columns = Form(Columns, first.data.columns)
            with rows:
                made["data"] = Form(Data, first.data, pairs=pairs, columns=columns)
        for name, title in {"lora": page_text("settings.lora"), **STAGE_LABELS}.items():
            part = getattr(first, name)
            with gr.Tab(title, elem_id=f"page-{name}"), gr.Row(elem_classes="fields"):
                made[name] = Form(type(part), part, patience=early_stopping_input)
    return Form(Recipe, None, ("sampling",), model=model, method=method, **made, **run.parts)


def early_stopping_input(**words: Any) -> Component:
    """Patience by one click; another number may be entered, and empty means off."""
    usual = [
        (page_text("settings.early_stopping_off"), ""),
        (page_text("settings.early_stopping_usual"), "3"),
        (page_text("settings.early_stopping_late"), "5"),
    ]
    return gr.Dropdown(usual, allow_custom_value=True, **words)
