"""Actions of the Start tab: each returns the tab's new view."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import gradio as gr
from pydantic import Field

from trainer_core.config.recipe import (
    CHAT_METHODS,
    METHODS,
    SAMPLE,
    STARTER,
    Columns,
    Data,
    EncodingName,
    MethodChain,
    Recipe,
    RemedyName,
    Template,
)
from trainer_core.data import RowCounts
from trainer_core.data.schema.data_schema import Kind
from trainer_core.errors import ConfigError, ModelError, UserError
from trainer_core.evaluation import preference_data
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.base import ROW_NOUNS, Training
from trainer_core.methods.steps import count_steps, warmup_text
from trainer_core.models import resolve
from trainer_core.models.resolve import find_tokenizer
from trainer_core.planning import run_time
from trainer_core.planning.forecast import Forecast
from trainer_core.runs.events import Stage
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import StrictModel, parse_values
from trainer_core.system.format import format_estimated_duration, format_number
from ui.components.html_start import (
    PlanLine,
    render_data_facts,
    render_memory,
    render_origin,
    render_plan,
    render_start_choices,
    render_unknown_memory,
)
from ui.format import STAGE_LABELS, join_names, model_name, page_text
from ui.payloads import findings, memory_fit
from ui.payloads.model_choices import BALANCED, QUICK, ModelChoices, free_gib
from ui.payloads.row_counts import count_data_rows, data_sources, describe_data
from ui.payloads.run_settings import display_name, past_runs
from ui.server import path_policy
from ui.tabs.data import SAMPLE_CHATS, SAMPLE_FILES

SYMBOLS = {"beta": "β"}

HIDDEN: dict[str, Any] = gr.update(visible=False)
UNCHANGED: Any = gr.skip()


class StartView(NamedTuple):
    """The Start tab after an action, by element: values, or Gradio updates."""

    recipe: Any = UNCHANGED
    """Fills the form."""
    models: Any = UNCHANGED
    data_sets: Any = UNCHANGED
    facts: Any = UNCHANGED
    """Facts about the data."""
    plan: Any = UNCHANGED
    goal: Any = UNCHANGED
    stored: Any = UNCHANGED
    """The recipe, stored by the browser until the next visit."""
    settings: Any = UNCHANGED
    """The recipe's settings for the Data tab."""
    memory: Any = UNCHANGED
    train: Any = UNCHANGED
    """The start button."""
    origin: Any = UNCHANGED
    """Origin of the recipe."""
    undo: Any = UNCHANGED
    before: Any = UNCHANGED
    """The recipe that undo restores."""
    tabs: Any = UNCHANGED


PREVIEW = ("facts", "plan", "goal", "stored", "settings", "memory", "train")
"""Elements that depend on the recipe alone."""


class StartActions:
    def __init__(self, supervisor: Supervisor):
        self.supervisor = supervisor
        self.offers = ModelChoices(partial(free_gib, supervisor))
        self.first = self.offers.recipe_for(STARTER, QUICK)

    def restore(self, stored: dict[str, Any]) -> StartView:
        return self.show_recipe(restore_recipe(stored) or self.first)

    def preview(self, recipe: Recipe) -> StartView:
        """Everything but the form, which keeps the user's values."""
        check_model_input(self.supervisor.workspace, recipe.model)
        self.supervisor.spawner.preload_for(recipe.model)
        found, known = self.tokenized_counts(recipe), self.stage_speeds(recipe)
        memory, train = self.memory_update(recipe)
        return StartView(
            facts=render_data_facts(describe_data(found), found.notes),
            plan=self.plan_card(recipe, found, known),
            goal=self.goal_update(recipe, found, known),
            stored=recipe.model_dump(mode="json"),
            settings=render_start_choices(preview_settings(recipe)),
            memory=memory,
            train=train,
        )

    def show_recipe(self, recipe: Recipe, **more: Any) -> StartView:
        """Show a recipe that does not come from the form."""
        return self.preview(recipe)._replace(recipe=recipe, **more)

    def choose_model(self, recipe: Recipe, goal: str | None) -> StartView:
        """Apply the settings of a newly chosen model."""
        return self.show_recipe(self.offers.with_model_settings(recipe, goal or BALANCED))

    def choose_goal(self, recipe: Recipe, goal: str) -> StartView:
        rows = self.tokenized_counts(recipe).rows
        return self.show_recipe(self.offers.with_goal_length(recipe, goal, rows))

    def choose_data(self, recipe: Recipe, stored: dict[str, Any]) -> StartView:
        return self.show_recipe(self.with_goal_of(restore_recipe(stored) or self.first, recipe))

    def use_data(self, event: gr.EventData, recipe: Recipe) -> StartView:
        """Use data that was checked under Data, with its columns and steps."""
        used = parse_values(UsedData, event._data, page_text("tabs.data")).apply_to(recipe)
        return self.show_recipe(self.with_goal_of(recipe, used), tabs=gr.update(selected="start"))

    def move_slider(self, event: gr.EventData, recipe: Recipe) -> StartView:
        return self.show_recipe(memory_fit.move_slider(recipe, event.key, event.value))

    def suggest(self, event: gr.EventData, recipe: Recipe) -> StartView:
        """Suggest settings for this data and memory, or a smaller model with its own: lists every change, and can be undone."""
        suited = self.suited_recipe(recipe, event.model)
        settings_of = page_text("start_tab.settings_of", name=model_name(suited.model))
        named = settings_of if event.model else page_text("start_tab.recommended_settings")
        origin = render_origin(named, findings.setting_differences(recipe, suited), page_text("start_tab.not_started"))
        before = recipe.model_dump(mode="json")
        return self.show_recipe(suited, origin=origin, undo=gr.update(visible=True), before=before)

    def undo(self, before: dict[str, Any] | None, stored: dict[str, Any]) -> StartView:
        """Restore the settings before the last suggestion, or the present ones if the app was restarted since."""
        return self.show_recipe(restore_recipe(before or stored) or self.first, origin="", undo=HIDDEN)

    def use_suggestion(self, event: gr.EventData) -> StartView:
        """Use a suggestion of the doctor or of a failed run: that run's recipe with the change."""
        return self.show_run(event.run, *findings.apply_suggestion(self.supervisor.registry, event.run, event.key))

    def clone(self, event: gr.EventData) -> StartView:
        """Use a run's recipe as a start for changes."""
        return self.show_run(event.run, self.supervisor.registry.run_recipe(event.run), ())

    def show_run(self, run_id: str, recipe: Recipe, changes: Any) -> StartView:
        name = display_name(self.supervisor.registry.run_dir(run_id))
        origin = render_origin(page_text("start_tab.settings_of", name=name), changes)
        return self.show_recipe(recipe, origin=origin, undo=HIDDEN, tabs=gr.update(selected="start"))

    def start(self, recipe: Recipe) -> StartView:
        reasons = self.offers.explain(recipe, self.tokenized_counts(recipe).rows)
        self.supervisor.control.start(recipe, reasons)
        return StartView(tabs=gr.update(selected="train"), origin="", undo=HIDDEN)

    def refresh(self, stored: dict[str, Any]) -> StartView:
        """Update after a run has started or ended, or the card's free memory has changed."""
        models = gr.update(choices=self.offers.model_labels(self.supervisor))
        data_sets = gr.update(choices=data_choices(self.supervisor.workspace))
        memory, train = self.memory_update(restore_recipe(stored) or self.first)
        return StartView(models=models, data_sets=data_sets, memory=memory, train=train)

    def tokenized_counts(self, recipe: Recipe) -> RowCounts:
        """Row counts of a recipe, if this page may read its files."""
        path_policy.check_model_access(self.supervisor.workspace, recipe.model)
        for source in data_sources(recipe):
            path_policy.check_source(self.supervisor.workspace, source, SAMPLE_FILES)
        return count_data_rows(recipe, find_tokenizer(recipe.model, self.supervisor.workspace))

    def stage_speeds(self, recipe: Recipe) -> dict[Stage, run_time.StageSpeed]:
        return run_time.estimate_speeds(
            past_runs(self.supervisor.registry),
            recipe,
            memory_fit.model_architecture(self.supervisor.workspace, self.offers.catalogue, recipe),
            memory_fit.target_machine(self.supervisor),
            self.supervisor.device.machine.cpu.cores,
        )

    def plan_card(self, recipe: Recipe, found: RowCounts, known: Mapping[Stage, run_time.StageSpeed]) -> str:
        seconds = run_time.stage_seconds(known, recipe, found)
        takes = {stage: format_estimated_duration(one) for stage, one in seconds.items()}
        whole = run_time.run_seconds(self.supervisor.workspace, recipe, seconds)
        reasons = self.offers.explain(recipe, found.rows)
        if duration := run_time.describe_run_time(whole, known):
            reasons = [duration, *reasons]
        return render_plan(plan_lines(recipe, found, takes), reasons)

    def goal_update(self, recipe: Recipe, found: RowCounts, known: Mapping[Stage, run_time.StageSpeed]) -> Any:
        """The goals with their estimated durations."""
        choices = []
        for title, name in self.offers.goal_choices:
            longer = self.offers.with_goal_length(recipe, name, found.rows)
            by_stage = run_time.stage_seconds(known, longer, found)
            seconds = run_time.run_seconds(self.supervisor.workspace, longer, by_stage)
            choices.append((f"{title} · {format_estimated_duration(seconds)}" if seconds else title, name))
        return gr.update(choices=choices, value=self.offers.matching_goal(recipe, found.rows))

    def memory_update(self, recipe: Recipe) -> tuple[str, Any]:
        """The memory card, and the button's label."""
        found, at = self.tokenized_counts(recipe), memory_fit.slider_values(recipe)
        forecast = memory_fit.build_forecast(self.supervisor, self.offers.catalogue, recipe, found)
        if isinstance(forecast, str):
            return render_unknown_memory(forecast, at), train_button(self.supervisor.registry, "unknown")
        fix = memory_fit.suggest_fix(self.supervisor, self.offers.catalogue, forecast, recipe, found)
        goal = self.offers.matching_goal(recipe, found.rows) or BALANCED
        edited = memory_fit.mark_user_edits(forecast, self.offers.with_model_settings(recipe, goal))
        return render_memory(edited, at, fix), train_button(self.supervisor.registry, forecast.verdict.level)

    def suited_recipe(self, recipe: Recipe, model: str) -> Recipe:
        """The recipe with another model's settings, or those for this data and memory; unchanged if nothing fits."""
        if model:
            return self.offers.with_model_settings(recipe.model_copy(update={"model": model}), BALANCED)
        found = self.tokenized_counts(recipe)
        forecast = memory_fit.build_forecast(self.supervisor, self.offers.catalogue, recipe, found)
        return forecast.suggested if isinstance(forecast, Forecast) and forecast.suggested else recipe

    def with_goal_of(self, before: Recipe, recipe: Recipe) -> Recipe:
        """The recipe with the same goal's length for its new rows."""
        try:
            goal = self.offers.matching_goal(before, self.tokenized_counts(before).rows)
        except UserError:  # the previous data is gone
            goal = self.offers.matching_goal(before)
        if goal is None:
            return recipe
        return self.offers.with_goal_length(recipe, goal, self.tokenized_counts(recipe).rows)


def check_model_input(workspace: Workspace, name: str) -> None:
    """Check the model's name as far as possible without a network.

    Raises:
        ConfigError: the name is invalid, or the user may not open it; the key lets the page mark its input.
    """
    try:
        path_policy.check_model_access(workspace, name)
        resolve.check_model_name(name)
    except ModelError as error:
        raise ConfigError(error.text, ("model",)) from error


def train_button(registry: RunRegistry, level: str) -> Any:
    """The start button: its state, and "Train anyway" if the plan does not fit."""
    busy = registry.active_run is not None
    too_big = level == "too big"
    words = page_text("start_tab.train_anyway" if too_big else "start_tab.train_and_compare")
    variant = "secondary" if too_big else "primary"
    return gr.update(interactive=not busy, value=page_text("start_tab.running") if busy else words, variant=variant)


def data_choices(workspace: Workspace) -> list[tuple[str, str]]:
    """The sample and every data set made from votes."""
    made = ((title, str(place)) for title, place in preference_data.list_vote_data_sets(workspace))
    return [(page_text("start_tab.sample_pairs"), SAMPLE), *made]


class UsedData(StrictModel):
    """Result of the Data tab."""

    source: str = Field(min_length=1)
    kind: Kind
    columns: Columns
    steps: tuple[RemedyName, ...]
    template: Template = "own"
    encoding: EncodingName = ""
    held_out: str | None = None
    length: int | None = None
    """A length chosen in the preview; None keeps the recipe's."""

    def apply_to(self, recipe: Recipe) -> Recipe:
        """The recipe on this data, without its preference stage if there are no rejected answers."""
        chats = self.source == SAMPLE_CHATS
        kept = {"steps", "template"} if chats else {"steps", "template", "columns", "encoding", "held_out"}
        files = {"pairs": None, "chat": SAMPLE} if chats else {"pairs": self.source}
        data = Data(**files, **self.model_dump(include=kept))
        imitating = [stage for stage in recipe.method.stages if METHODS[stage].rows == "chat"] or CHAT_METHODS
        method = MethodChain(imitating[0]) if self.kind == "chat" else recipe.method
        longer = {"max_length": self.length} if self.length else {}
        stages = {stage: recipe.stage_settings(stage).model_copy(update=longer) for stage in METHODS}
        return recipe.model_copy(update={"data": data, "method": method, **stages})


def preview_settings(recipe: Recipe) -> str:
    """Settings with which the Data tab shows rows as this run sees them."""
    used = recipe.data
    settings = {
        "model": recipe.model,
        "name": model_name(recipe.model),
        "lengths": {kind: recipe.row_length(kind) for kind in ROW_NOUNS},
        "template": used.template,
        "source": used.pairs or (SAMPLE_CHATS if used.chat == SAMPLE else used.chat),
        "columns": used.columns.column_by_part,
        **used.model_dump(include={"encoding", "steps", "held_out"}),
    }
    return json.dumps(settings)


def restore_recipe(stored: dict[str, Any]) -> Recipe | None:
    """The choices of the last visit; None on the first, and if an older version's are not valid any more."""
    try:
        return parse_values(Recipe, stored, "stored choices") if stored else None
    except ConfigError:
        return None


def plan_lines(recipe: Recipe, found: RowCounts, takes: Mapping[Stage, str]) -> list[PlanLine]:
    """Load, each stage, Compare: what each does, and its duration if known."""
    lora = recipe.lora
    layers = page_text("start_tab.all_linear_layers") if lora.targets == "all-linear" else lora.targets
    loaded = page_text("start_tab.what_is_loaded", model=model_name(recipe.model), rank=lora.rank, layers=layers)
    stages = [
        PlanLine(
            STAGE_LABELS[stage], describe_stage(found.rows[stage], recipe.stage_settings(stage)), takes.get(stage, "")
        )
        for stage in recipe.method.stages
    ]
    lanes = join_names([page_text("start_tab.base"), *(STAGE_LABELS[stage] for stage in recipe.method.stages)])
    compared = page_text("start_tab.what_is_compared", lanes=lanes)
    return [PlanLine(page_text("start_tab.load"), loaded), *stages, PlanLine(page_text("start_tab.compare"), compared)]


def describe_stage(rows: int, settings: Training) -> str:
    """Steps, rate, warm-up, and other values that the method advises."""
    steps = count_steps(rows, settings)
    parts = [
        page_text("start_tab.steps", steps=steps, batch=settings.effective_batch, rows=ROW_NOUNS[settings.method.rows]),
        page_text("start_tab.rate", rate=format_number(settings.learning_rate)),
        warmup_text(settings, steps),
        *(f"{SYMBOLS.get(name, name)}\u00a0{getattr(settings, name):g}" for name in settings.method.advised),
    ]
    return ", ".join(filter(None, parts))
