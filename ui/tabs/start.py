"""The Start tab: model, data, how long, every setting, and the one button."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from pydantic import Field

from trainer_core import data
from trainer_core.config.recipe import SAMPLE, STARTER, Columns, Data, MethodChain, Recipe, RemedyName, Template
from trainer_core.data.schema.detect import Kind
from trainer_core.errors import ConfigError, ModelError, UserError
from trainer_core.evaluation import preference_data
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.base import Training
from trainer_core.methods.steps import count_steps, warmup_text
from trainer_core.models import resolve
from trainer_core.models.resolve import find_tokenizer
from trainer_core.planning import run_time
from trainer_core.planning.forecast import Forecast
from trainer_core.runs.events import Stage
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import StrictModel, parse_values
from ui.components import html
from ui.components.form import ORDERED_OPTIONS, QUIET_OPTIONS, Form, bind_handler, edit_events, edit_triggers
from ui.components.sidebar import static_html
from ui.format import STAGE_LABELS, format_number, join_names, model_name
from ui.payloads import findings, memory_fit
from ui.payloads.model_choices import BALANCED, QUICK, ModelChoices, free_gib
from ui.payloads.run_settings import display_name, past_runs
from ui.server import path_policy
from ui.tabs.data import SAMPLE_CHATS, SAMPLE_FILES

METHOD_CHOICES = [
    ("SFT, then DPO", MethodChain.SFT_DPO.value),
    ("SFT only", MethodChain.SFT.value),
    ("DPO only", MethodChain.DPO.value),
]
SAMPLE_CHOICES = [("Sample pairs: short, warm, direct answers (included)", SAMPLE)]
FOOTNOTE = (
    "Learns the good answers (SFT), then to prefer them (DPO), then opens Compare. All on "
    "this computer; nothing is uploaded."
)

HIDDEN: dict[str, Any] = gr.update(visible=False)
TO_ORIGIN = "() => document.getElementById('origin').scrollIntoView({block: 'center'})"


def build_start_tab(supervisor: Supervisor, bus: gr.HTML, tabs: gr.Tabs, page: gr.Blocks) -> None:  # noqa: C901  (layout, then handlers, then wiring)
    offers = ModelChoices(partial(free_gib, supervisor))
    origin = gr.HTML("", elem_id="origin")
    undo = gr.Button("Back to the settings before", visible=False, size="sm", elem_id="undo")
    before = gr.State(None)
    first = offers.recipe_for(STARTER, QUICK)
    stored = gr.BrowserState({}, storage_key="tunebench.start", secret="tunebench")
    with gr.Row(elem_id="start"):
        with gr.Column(scale=3, min_width=340):
            with gr.Column(elem_classes="card", elem_id="basics"):
                model = gr.Dropdown(
                    offers.model_labels(supervisor),
                    value=first.model,
                    label="Model",
                    info="The starter is included, others are downloaded; or type a folder or hub id.",
                    allow_custom_value=True,
                    interactive=True,
                    elem_id="model",
                )
                pairs = gr.Dropdown(
                    data_choices(supervisor.workspace),
                    value=SAMPLE,
                    label="Data",
                    info="Pairs of a better and a worse answer; conversations for SFT alone. Type a path, or use the Data tab.",
                    allow_custom_value=True,
                    interactive=True,
                    elem_id="data",
                )
                health = gr.HTML("", elem_id="health")
                chosen = gr.HTML("", elem_id="chosen")
                method = gr.Radio(
                    METHOD_CHOICES, value=MethodChain.SFT_DPO, label="Method", interactive=True, elem_id="method"
                )
                goal = gr.Radio(offers.goal_choices, value=QUICK, label="How long", interactive=True, elem_id="goal")
            with gr.Column(elem_classes="card", elem_id="fit"):
                static_html(html.render_sliders(memory_fit.SLIDERS))
                memory = gr.HTML("", elem_id="memory")
        with gr.Column(scale=2, min_width=300):
            plan = gr.HTML("", elem_id="plan")
            go = gr.Button("Train and compare", variant="primary", size="lg", elem_id="go")
            problem = gr.HTML("", elem_id="start-problem", elem_classes="problem")
            static_html(html.render_note(FOOTNOTE))
    with gr.Accordion("All settings", open=False, elem_id="settings-form"):
        recipe = build_settings_form(first, model, pairs, method)

    def checked_counts(wanted: Recipe, tokenizer: Path | None = None) -> data.RowCounts:
        path_policy.check_model_access(supervisor.workspace, wanted.model)
        for source in data_sources(wanted):
            path_policy.check_source(supervisor.workspace, source, SAMPLE_FILES)
        return count_data_rows(wanted, tokenizer)

    def tokenized_counts(wanted: Recipe) -> data.RowCounts:
        return checked_counts(wanted, find_tokenizer(wanted.model, supervisor.workspace))

    def preview(wanted: Recipe) -> tuple[Any, ...]:
        check_model_input(supervisor.workspace, wanted.model)
        supervisor.spawner.preload_for(wanted.model)
        found = checked_counts(wanted, find_tokenizer(wanted.model, supervisor.workspace))
        known = run_time.estimate_speeds(
            past_runs(supervisor.registry),
            wanted,
            memory_fit.model_architecture(supervisor.workspace, offers.catalogue, wanted),
            memory_fit.target_machine(supervisor),
            supervisor.device.machine.cpu.cores,
        )
        seconds = run_time.stage_seconds(known, wanted, found)
        takes = {stage: run_time.approximate_duration(one) for stage, one in seconds.items()}
        said = run_time.describe_run_time(run_time.run_seconds(supervisor.workspace, wanted, seconds), known)
        lines = html.render_plan(
            plan_lines(wanted, found, takes), [*filter(None, [said]), *offers.explain(wanted, stage_rows(found))]
        )
        kept = wanted.model_dump(mode="json")
        seen = html.render_data_facts(describe_data(found), found.notes), lines, goal_update(wanted, found, known), kept
        return *seen, html.render_start_choices(preview_settings(wanted)), *memory_update(wanted)

    def goal_update(wanted: Recipe, found: data.RowCounts, known: Mapping[Stage, run_time.StageSpeed]) -> Any:
        """The goals with the time that each would take."""
        choices = []
        for title, name in offers.goal_choices:
            longer = offers.with_goal_length(wanted, name, stage_rows(found))
            seconds = run_time.run_seconds(supervisor.workspace, longer, run_time.stage_seconds(known, longer, found))
            choices.append((f"{title} · {run_time.approximate_duration(seconds)}" if seconds else title, name))
        return gr.update(choices=choices, value=offers.matching_goal(wanted, stage_rows(found)))

    def memory_update(wanted: Recipe) -> tuple[str, Any]:
        """The memory card, and what the button is called then."""
        found = checked_counts(wanted, find_tokenizer(wanted.model, supervisor.workspace))
        told, at = (
            memory_fit.build_forecast(supervisor, offers.catalogue, wanted, found),
            memory_fit.slider_values(wanted),
        )
        if isinstance(told, str):
            return html.render_unknown_memory(told, at), train_button(supervisor.registry, "unknown")
        way = memory_fit.suggest_fix(supervisor, offers.catalogue, told, wanted, found)
        edited = memory_fit.mark_user_edits(
            told, offers.with_model_settings(wanted, offers.matching_goal(wanted, stage_rows(found)) or BALANCED)
        )
        return html.render_memory(edited, at, way), train_button(supervisor.registry, told.verdict.level)

    def slide(event: gr.EventData, wanted: Recipe) -> tuple[Any, ...]:
        moved = memory_fit.move_slider(wanted, event.key, event.value)
        return *(str(memory_fit.setting_value(moved, key)) for key in memory_fit.SLIDER_SETTINGS), *preview(moved)

    def suggest(event: gr.EventData, wanted: Recipe) -> tuple[Any, ...]:
        """The settings for this data and memory, or a smaller model with its own: said change by change, with a way back."""
        if event.model:
            suited = offers.with_model_settings(wanted.model_copy(update={"model": event.model}), BALANCED)
        else:
            found = checked_counts(wanted, find_tokenizer(wanted.model, supervisor.workspace))
            told = memory_fit.build_forecast(supervisor, offers.catalogue, wanted, found)
            suited = told.suggested if isinstance(told, Forecast) and told.suggested else wanted
        named = (
            f"The settings of {model_name(suited.model)}" if event.model else "The settings for this data and memory"
        )
        said = html.render_origin(named, findings.setting_differences(wanted, suited), "Nothing has been started.")
        return suited, *preview(suited), said, gr.update(visible=True), wanted.model_dump(mode="json")

    def go_back(kept: dict[str, Any] | None, current: dict[str, Any]) -> tuple[Any, ...]:
        """The settings before the last suggestion; those of now where the app was started anew since."""
        wanted = restore_recipe(kept or current) or first
        return wanted, *preview(wanted), "", HIDDEN

    def restore(kept: dict[str, Any]) -> tuple[Any, ...]:
        wanted = restore_recipe(kept) or first
        return wanted, *preview(wanted)

    def take_model(wanted: Recipe, name: str | None) -> tuple[Any, ...]:
        """Another model brings the settings that suit it."""
        suited = offers.with_model_settings(wanted, name or BALANCED)
        return suited, *preview(suited)

    def take_goal(wanted: Recipe, name: str) -> tuple[Any, ...]:
        longer = offers.with_goal_length(wanted, name, stage_rows(tokenized_counts(wanted)))
        return longer, *preview(longer)

    def keep_goal(before: Recipe, wanted: Recipe) -> Recipe:
        """A run on other data than before: the length of its goal is that for the new rows."""
        try:
            goal = offers.matching_goal(before, stage_rows(tokenized_counts(before)))
        except UserError:  # the data before is not there any more
            goal = offers.matching_goal(before)
        return offers.with_goal_length(wanted, goal, stage_rows(tokenized_counts(wanted))) if goal else wanted

    def take_pairs(wanted: Recipe, kept: dict[str, Any]) -> tuple[Any, ...]:
        fitted = keep_goal(restore_recipe(kept) or first, wanted)
        return fitted, *preview(fitted)

    def take_data(event: gr.EventData, wanted: Recipe) -> tuple[Any, ...]:
        """Data as it was checked under Data, with its columns and steps."""
        used = parse_values(UsedData, event._data, "Data").apply_to(wanted)
        used = keep_goal(wanted, used)
        return gr.update(selected="start"), used, *preview(used)

    def start(wanted: Recipe) -> Any:
        supervisor.control.start(wanted, offers.explain(wanted, stage_rows(tokenized_counts(wanted))))
        return gr.update(selected="train"), "", HIDDEN

    def take_offer(event: gr.EventData) -> tuple[Any, ...]:
        """What the doctor, or a failed run, proposes: that run's recipe with the change."""
        wanted, changes = findings.apply_suggestion(supervisor.registry, event.run, event.key)
        named = f"The settings of {display_name(supervisor.registry.run_dir(event.run))}"
        return wanted, *preview(wanted), html.render_origin(named, changes), HIDDEN, gr.update(selected="start")

    def clone(event: gr.EventData) -> tuple[Any, ...]:
        """A run's recipe once more, ready to be changed."""
        wanted = supervisor.registry.run_recipe(event.run)
        named = f"The settings of {display_name(supervisor.registry.run_dir(event.run))}"
        return wanted, *preview(wanted), html.render_origin(named, ()), HIDDEN, gr.update(selected="start")

    def refresh(kept: dict[str, Any]) -> tuple[Any, ...]:
        """A run began or ended, or memory of the card was taken or given back."""
        choices = (
            gr.update(choices=offers.model_labels(supervisor)),
            gr.update(choices=data_choices(supervisor.workspace)),
        )
        return *choices, *memory_update(restore_recipe(kept) or first)

    seen = [health, plan, goal, stored, chosen, memory, go]
    bind_handler(page.load, restore, stored, outputs=[recipe, *seen], problem=problem, **QUIET_OPTIONS)
    bind_handler(
        edit_triggers(recipe, but=(model, pairs)), preview, recipe, outputs=seen, problem=problem, **ORDERED_OPTIONS
    )
    bind_handler(model.input, take_model, recipe, goal, outputs=[recipe, *seen], problem=problem, **ORDERED_OPTIONS)
    bind_handler(
        edit_events(pairs), take_pairs, recipe, stored, outputs=[recipe, *seen], problem=problem, **ORDERED_OPTIONS
    )
    bind_handler(goal.input, take_goal, recipe, goal, outputs=[recipe, *seen], problem=problem, **ORDERED_OPTIONS)
    bind_handler(go.click, start, recipe, outputs=[tabs, origin, undo], problem=problem, show_progress="hidden")
    elsewhere = {"outputs": [recipe, *seen, origin, undo, tabs], "problem": problem, **QUIET_OPTIONS}
    bind_handler(bus.retry, take_offer, gr.EventData, **elsewhere)
    bind_handler(bus.clone, clone, gr.EventData, **elsewhere)
    bind_handler(
        bus.usedata, take_data, gr.EventData, recipe, outputs=[tabs, recipe, *seen], problem=problem, **QUIET_OPTIONS
    )
    moved = [recipe.parts[part].parts[name] for part, name in (key.split(".") for key in memory_fit.SLIDER_SETTINGS)]  # type: ignore[union-attr]
    bind_handler(bus.lever, slide, gr.EventData, recipe, outputs=[*moved, *seen], problem=problem, **QUIET_OPTIONS)
    said = {"outputs": [recipe, *seen, origin, undo, before], "problem": problem, **QUIET_OPTIONS}
    bind_handler(bus.suggest, suggest, gr.EventData, recipe, **said).then(None, js=TO_ORIGIN)
    bind_handler(
        undo.click, go_back, before, stored, outputs=[recipe, *seen, origin, undo], problem=problem, **QUIET_OPTIONS
    )
    bind_handler(bus.statechange, refresh, stored, outputs=[model, pairs, memory, go], **QUIET_OPTIONS)


def check_model_input(workspace: Workspace, name: str) -> None:
    """Look at the name as far as that goes without a network.

    Raises:
        ConfigError: there can be no model of that name, or not for who asks; the key lets the page mark its input.
    """
    try:
        path_policy.check_model_access(workspace, name)
        resolve.check_model_name(name)
    except ModelError as error:
        raise ConfigError(str(error), ("model",)) from error


def train_button(registry: RunRegistry, level: str) -> Any:
    """The one button: what it does now, and "Try anyway" where the plan says that it will not fit."""
    busy = registry.active_run is not None
    words, variant = ("Try anyway", "secondary") if level == "too big" else ("Train and compare", "primary")
    return gr.update(interactive=not busy, value="Running…" if busy else words, variant=variant)


def data_choices(workspace: Workspace) -> list[tuple[str, str]]:
    """The sample and every data set made of votes."""
    return [
        *SAMPLE_CHOICES,
        *((title, str(place)) for title, place in preference_data.list_vote_data_sets(workspace)),
    ]


def build_settings_form(first: Recipe, model: gr.Dropdown, pairs: gr.Dropdown, method: gr.Radio) -> Form:
    """Every value of a recipe, beginning with those of the `first`; three of them have their input outside."""
    made: dict[str, Form] = {}
    with gr.Tabs():
        with gr.Tab("Run", elem_id="page-run"), gr.Row(elem_classes="fields"):
            run = Form(Recipe, first, ("model", "method", "data", "lora", "sft", "dpo", "sampling"))
        with gr.Tab("Rows", elem_id="page-rows"):
            rows = gr.Row(elem_classes="fields")
            with gr.Accordion("Columns, usually found by themselves", open=False), gr.Row(elem_classes="fields"):
                columns = Form(Columns, first.data.columns)
            with rows:
                made["data"] = Form(Data, first.data, pairs=pairs, columns=columns)
        for name, title in {"lora": "LoRA", "sft": "SFT", "dpo": "DPO"}.items():
            part = getattr(first, name)
            with gr.Tab(title, elem_id=f"page-{name}"), gr.Row(elem_classes="fields"):
                made[name] = Form(type(part), part, patience=early_stopping_input)
    return Form(Recipe, None, ("sampling",), model=model, method=method, **made, **run.parts)


def early_stopping_input(**words: Any) -> Component:
    """Patience as one click; another number may be typed, and nothing means off."""
    usual = [("Off", ""), ("After 3 checks (usual)", "3"), ("After 5 checks", "5")]
    return gr.Dropdown(usual, allow_custom_value=True, **words)


class UsedData(StrictModel):
    """What the Data tab hands over."""

    source: str = Field(min_length=1)
    kind: Kind
    columns: Columns
    steps: tuple[RemedyName, ...]
    template: Template = "own"
    length: int | None = None
    """A length chosen while looking at the rows; None leaves the recipe's."""

    def apply_to(self, recipe: Recipe) -> Recipe:
        """The recipe on this data, and SFT alone where there are no rejected answers."""
        if self.source == SAMPLE_CHATS:
            data = Data(pairs=None, chat=SAMPLE, steps=self.steps, template=self.template)
        else:
            data = Data(pairs=self.source, columns=self.columns, steps=self.steps, template=self.template)
        method = MethodChain.SFT if self.kind == "chat" else recipe.method
        longer = {"max_length": self.length} if self.length else {}
        stages = {stage: getattr(recipe, stage).model_copy(update=longer) for stage in ("sft", "dpo")}
        return recipe.model_copy(update={"data": data, "method": method, **stages})


def preview_settings(recipe: Recipe) -> str:
    """What the Data tab needs to show rows as this run will see them."""
    used = recipe.data
    told = {
        "model": recipe.model,
        "name": model_name(recipe.model),
        "lengths": {"pairs": recipe.dpo.max_length, "chat": recipe.sft.max_length},
        "template": used.template,
        "source": used.pairs or (SAMPLE_CHATS if used.chat == SAMPLE else used.chat),
        "columns": used.columns.column_by_part,
        "steps": used.steps,
    }
    return json.dumps(told)


def restore_recipe(kept: dict[str, Any]) -> Recipe | None:
    """The choices of the last visit; None on the first, and where an older version kept what this one does not know."""
    try:
        return parse_values(Recipe, kept, "kept choices") if kept else None
    except ConfigError:
        return None


def stage_rows(found: data.RowCounts) -> dict[Stage, int]:
    """The rows of each stage."""
    return {"sft": found.sft, "dpo": found.dpo}


def describe_data(found: data.RowCounts) -> list[str]:
    """What is in the data, as short lines."""
    named = [(found.sft, "examples for SFT"), (found.dpo, "pairs for DPO"), (found.held_out, "pairs held out")]
    return [f"{count:,} {words}" for count, words in named if count]


def count_data_rows(recipe: Recipe, tokenizer: Path | None = None) -> data.RowCounts:
    """Read the data, or remember what was read from the same files.

    Raises:
        DataError: a file cannot be used.
    """
    found = cached_counts(recipe.data, recipe.method, tokenizer, tuple(map(modified_time, data_sources(recipe))))
    return found.after_truncation({stage: getattr(recipe, stage).max_length for stage in recipe.method.stages})


def data_sources(recipe: Recipe) -> list[str]:
    return [source for source in (recipe.data.chat, recipe.data.pairs, recipe.data.held_out) if source]


@lru_cache(maxsize=16)
def cached_counts(
    sources: Data, method: MethodChain, tokenizer: Path | None, stamps: tuple[float, ...]
) -> data.RowCounts:
    return data.count_rows(sources, method, tokenizer)


def modified_time(source: str) -> float:
    """When a file last changed; 0 where there is none, which reading it will say."""
    path = os.path.expanduser(source)
    return os.path.getmtime(path) if os.path.exists(path) else 0.0  # False for too long a name


def plan_lines(recipe: Recipe, found: data.RowCounts, takes: Mapping[Stage, str]) -> list[html.PlanLine]:
    """Load, SFT, DPO, Compare: what each will do, and how long it takes where that is known."""
    layers = recipe.lora.targets.replace("all-linear", "all linear layers")
    lines = [html.PlanLine("Load", f"{model_name(recipe.model)}, LoRA rank {recipe.lora.rank} on {layers}")]
    if "sft" in recipe.method.stages:
        lines.append(html.PlanLine("SFT", describe_stage(found.sft, "examples", recipe.sft), takes.get("sft", "")))
    if "dpo" in recipe.method.stages:
        words = f"{describe_stage(found.dpo, 'pairs', recipe.dpo)}, β\u00a0{recipe.dpo.beta:g}"
        lines.append(html.PlanLine("DPO", words, takes.get("dpo", "")))
    lanes = join_names(["base", *(STAGE_LABELS[stage] for stage in recipe.method.stages)])
    return [*lines, html.PlanLine("Compare", f"{lanes} answer side by side")]


def describe_stage(rows: int, noun: str, settings: Training) -> str:
    steps = count_steps(rows, settings)
    parts = [
        f"{steps} steps of {settings.effective_batch} {noun}",
        f"rate\u00a0{format_number(settings.learning_rate)}",
    ]
    return ", ".join(filter(None, [*parts, warmup_text(settings, steps)]))
