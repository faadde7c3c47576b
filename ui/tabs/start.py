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
from trainer_core.config.recipe import SAMPLE, STARTER, Columns, Data, Method, Recipe, Step, Template
from trainer_core.data.schema.detect import Kind
from trainer_core.errors import ConfigError, ModelError, UserError
from trainer_core.evaluation import preference_data
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.base import Training
from trainer_core.methods.steps import planned_steps, warmup_text
from trainer_core.models import resolve
from trainer_core.models.resolve import tokenizer_of
from trainer_core.planning import run_time
from trainer_core.planning.forecast import Forecast
from trainer_core.runs.events import Stage
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import Strict, parse
from ui.components import html
from ui.components.form import ORDERED, QUIET, Form, edit_events, edits, on
from ui.components.sidebar import fixed
from ui.format import STAGE_WORDS, listed, model_name, number
from ui.payloads import findings, memory_fit
from ui.payloads.model_choices import BALANCED, QUICK, Offers, free_gib
from ui.payloads.run_settings import name_of, past_runs
from ui.server import path_policy
from ui.tabs.data import SAMPLE_CHATS, SAMPLES

METHODS = [("SFT, then DPO", Method.SFT_DPO.value), ("SFT only", Method.SFT.value), ("DPO only", Method.DPO.value)]
PAIRS = [("Sample pairs: short, warm, direct answers (included)", SAMPLE)]
FOOT = "Learns the good answers (SFT), then to prefer them (DPO), then opens Compare. All on this computer; nothing is uploaded."

HIDDEN: dict[str, Any] = gr.update(visible=False)
TO_ORIGIN = "() => document.getElementById('origin').scrollIntoView({block: 'center'})"


def build(supervisor: Supervisor, bus: gr.HTML, tabs: gr.Tabs, page: gr.Blocks) -> None:  # noqa: C901  (layout, then handlers, then wiring)
    offers = Offers(partial(free_gib, supervisor))
    origin = gr.HTML("", elem_id="origin")
    undo = gr.Button("Back to the settings before", visible=False, size="sm", elem_id="undo")
    before = gr.State(None)
    first = offers.recipe(STARTER, QUICK)
    stored = gr.BrowserState({}, storage_key="tunebench.start", secret="tunebench")
    with gr.Row(elem_id="start"):
        with gr.Column(scale=3, min_width=340):
            with gr.Column(elem_classes="card", elem_id="basics"):
                model = gr.Dropdown(
                    offers.labelled(supervisor),
                    value=first.model,
                    label="Model",
                    info="The starter is included, others are downloaded; or type a folder or hub id.",
                    allow_custom_value=True,
                    interactive=True,
                    elem_id="model",
                )
                pairs = gr.Dropdown(
                    pair_choices(supervisor),
                    value=SAMPLE,
                    label="Data",
                    info="Pairs of a better and a worse answer; conversations for SFT alone. Type a path, or use the Data tab.",
                    allow_custom_value=True,
                    interactive=True,
                    elem_id="data",
                )
                health = gr.HTML("", elem_id="health")
                chosen = gr.HTML("", elem_id="chosen")
                method = gr.Radio(METHODS, value=Method.SFT_DPO, label="Method", interactive=True, elem_id="method")
                goal = gr.Radio(offers.goal_choices, value=QUICK, label="How long", interactive=True, elem_id="goal")
            with gr.Column(elem_classes="card", elem_id="fit"):
                fixed(html.sliders(memory_fit.LEVERS))
                memory = gr.HTML("", elem_id="memory")
        with gr.Column(scale=2, min_width=300):
            plan = gr.HTML("", elem_id="plan")
            go = gr.Button("Train and compare", variant="primary", size="lg", elem_id="go")
            problem = gr.HTML("", elem_id="start-problem", elem_classes="problem")
            fixed(html.note(FOOT))
    with gr.Accordion("All settings", open=False, elem_id="settings-form"):
        recipe = settings(first, model, pairs, method)

    def counted(wanted: Recipe, tokenizer: Path | None = None) -> data.Counts:
        path_policy.check_model(supervisor.workspace, wanted.model)
        for source in sources_of(wanted):
            path_policy.check_source(supervisor.workspace, source, SAMPLES)
        return counts(wanted, tokenizer)

    def counted_in(wanted: Recipe) -> data.Counts:
        return counted(wanted, tokenizer_of(wanted.model, supervisor.workspace))

    def preview(wanted: Recipe) -> tuple[Any, ...]:
        check_model(supervisor.workspace, wanted.model)
        supervisor.expect(wanted.model)
        found = counted(wanted, tokenizer_of(wanted.model, supervisor.workspace))
        known = run_time.paces(
            past_runs(supervisor),
            wanted,
            memory_fit.shape(supervisor, offers.catalogue, wanted),
            memory_fit.place(supervisor),
            supervisor.machine.cpu.cores,
        )
        seconds = run_time.stage_seconds(known, wanted, found)
        takes = {stage: run_time.about(one) for stage, one in seconds.items()}
        said = run_time.sentence(run_time.whole(supervisor.workspace, wanted, seconds), known)
        lines = html.plan(
            plan_lines(wanted, found, takes), [*filter(None, [said]), *offers.reasons(wanted, rows_of(found))]
        )
        kept = wanted.model_dump(mode="json")
        seen = html.checked(facts(found), found.notes), lines, lengths(wanted, found, known), kept
        return *seen, html.chosen(eyes(wanted)), *fitting(wanted)

    def lengths(wanted: Recipe, found: data.Counts, known: Mapping[Stage, run_time.Pace]) -> Any:
        """The goals with the time that each would take."""
        choices = []
        for title, name in offers.goal_choices:
            longer = offers.lengthened(wanted, name, rows_of(found))
            seconds = run_time.whole(supervisor.workspace, longer, run_time.stage_seconds(known, longer, found))
            choices.append((f"{title} · {run_time.about(seconds)}" if seconds else title, name))
        return gr.update(choices=choices, value=offers.goal_of(wanted, rows_of(found)))

    def fitting(wanted: Recipe) -> tuple[str, Any]:
        """The memory card, and what the button is called then."""
        found = counted(wanted, tokenizer_of(wanted.model, supervisor.workspace))
        told, at = memory_fit.planned(supervisor, offers.catalogue, wanted, found), memory_fit.levers(wanted)
        if isinstance(told, str):
            return html.unknown_memory(told, at), button(supervisor, "unknown")
        way = memory_fit.way_out(supervisor, offers.catalogue, told, wanted, found)
        edited = memory_fit.by_hand(told, offers.suited(wanted, offers.goal_of(wanted, rows_of(found)) or BALANCED))
        return html.memory(edited, at, way), button(supervisor, told.verdict.level)

    def slide(event: gr.EventData, wanted: Recipe) -> tuple[Any, ...]:
        moved = memory_fit.slid(wanted, event.key, event.value)
        return *(str(memory_fit.at(moved, key)) for key in memory_fit.MOVED), *preview(moved)

    def suggest(event: gr.EventData, wanted: Recipe) -> tuple[Any, ...]:
        """The settings for this data and memory, or a smaller model with its own: said change by change, with a way back."""
        if event.model:
            suited = offers.suited(wanted.model_copy(update={"model": event.model}), BALANCED)
        else:
            found = counted(wanted, tokenizer_of(wanted.model, supervisor.workspace))
            told = memory_fit.planned(supervisor, offers.catalogue, wanted, found)
            suited = told.suggested if isinstance(told, Forecast) and told.suggested else wanted
        named = (
            f"The settings of {model_name(suited.model)}" if event.model else "The settings for this data and memory"
        )
        said = html.origin(named, findings.differences(wanted, suited), "Nothing has been started.")
        return suited, *preview(suited), said, gr.update(visible=True), wanted.model_dump(mode="json")

    def go_back(kept: dict[str, Any] | None, current: dict[str, Any]) -> tuple[Any, ...]:
        """The settings before the last suggestion; those of now where the app was started anew since."""
        wanted = recalled(kept or current) or first
        return wanted, *preview(wanted), "", HIDDEN

    def restore(kept: dict[str, Any]) -> tuple[Any, ...]:
        wanted = recalled(kept) or first
        return wanted, *preview(wanted)

    def take_model(wanted: Recipe, name: str | None) -> tuple[Any, ...]:
        """Another model brings the settings that suit it."""
        suited = offers.suited(wanted, name or BALANCED)
        return suited, *preview(suited)

    def take_goal(wanted: Recipe, name: str) -> tuple[Any, ...]:
        longer = offers.lengthened(wanted, name, rows_of(counted_in(wanted)))
        return longer, *preview(longer)

    def refitted(before: Recipe, wanted: Recipe) -> Recipe:
        """A run on other data than before: the length of its goal is that for the new rows."""
        try:
            goal = offers.goal_of(before, rows_of(counted_in(before)))
        except UserError:  # the data before is not there any more
            goal = offers.goal_of(before)
        return offers.lengthened(wanted, goal, rows_of(counted_in(wanted))) if goal else wanted

    def take_pairs(wanted: Recipe, kept: dict[str, Any]) -> tuple[Any, ...]:
        fitted = refitted(recalled(kept) or first, wanted)
        return fitted, *preview(fitted)

    def take_data(event: gr.EventData, wanted: Recipe) -> tuple[Any, ...]:
        """Data as it was checked under Data, with its columns and steps."""
        used = parse(UsedData, event._data, "Data").applied(wanted)
        used = refitted(wanted, used)
        return gr.update(selected="start"), used, *preview(used)

    def start(wanted: Recipe) -> Any:
        supervisor.start(wanted, offers.reasons(wanted, rows_of(counted_in(wanted))))
        return gr.update(selected="train"), "", HIDDEN

    def take_offer(event: gr.EventData) -> tuple[Any, ...]:
        """What the doctor, or a failed run, proposes: that run's recipe with the change."""
        wanted, changes = findings.retry(supervisor, event.run, event.key)
        named = f"The settings of {name_of(supervisor.run_dir(event.run))}"
        return wanted, *preview(wanted), html.origin(named, changes), HIDDEN, gr.update(selected="start")

    def clone(event: gr.EventData) -> tuple[Any, ...]:
        """A run's recipe once more, ready to be changed."""
        wanted = supervisor.recipe(event.run)
        named = f"The settings of {name_of(supervisor.run_dir(event.run))}"
        return wanted, *preview(wanted), html.origin(named, ()), HIDDEN, gr.update(selected="start")

    def refresh(kept: dict[str, Any]) -> tuple[Any, ...]:
        """A run began or ended, or memory of the card was taken or given back."""
        choices = gr.update(choices=offers.labelled(supervisor)), gr.update(choices=pair_choices(supervisor))
        return *choices, *fitting(recalled(kept) or first)

    seen = [health, plan, goal, stored, chosen, memory, go]
    on(page.load, restore, stored, outputs=[recipe, *seen], problem=problem, **QUIET)
    on(edits(recipe, but=(model, pairs)), preview, recipe, outputs=seen, problem=problem, **ORDERED)
    on(model.input, take_model, recipe, goal, outputs=[recipe, *seen], problem=problem, **ORDERED)
    on(edit_events(pairs), take_pairs, recipe, stored, outputs=[recipe, *seen], problem=problem, **ORDERED)
    on(goal.input, take_goal, recipe, goal, outputs=[recipe, *seen], problem=problem, **ORDERED)
    on(go.click, start, recipe, outputs=[tabs, origin, undo], problem=problem, show_progress="hidden")
    elsewhere = {"outputs": [recipe, *seen, origin, undo, tabs], "problem": problem, **QUIET}
    on(bus.retry, take_offer, gr.EventData, **elsewhere)
    on(bus.clone, clone, gr.EventData, **elsewhere)
    on(bus.usedata, take_data, gr.EventData, recipe, outputs=[tabs, recipe, *seen], problem=problem, **QUIET)
    moved = [recipe.parts[part].parts[name] for part, name in (key.split(".") for key in memory_fit.MOVED)]  # type: ignore[union-attr]
    on(bus.lever, slide, gr.EventData, recipe, outputs=[*moved, *seen], problem=problem, **QUIET)
    said = {"outputs": [recipe, *seen, origin, undo, before], "problem": problem, **QUIET}
    on(bus.suggest, suggest, gr.EventData, recipe, **said).then(None, js=TO_ORIGIN)
    on(undo.click, go_back, before, stored, outputs=[recipe, *seen, origin, undo], problem=problem, **QUIET)
    on(bus.statechange, refresh, stored, outputs=[model, pairs, memory, go], **QUIET)


def check_model(workspace: Workspace, name: str) -> None:
    """Look at the name as far as that goes without a network.

    Raises:
        ConfigError: there can be no model of that name, or not for who asks; the key lets the page mark its input.
    """
    try:
        path_policy.check_model(workspace, name)
        resolve.check_name(name)
    except ModelError as error:
        raise ConfigError(str(error), ("model",)) from error


def button(supervisor: Supervisor, level: str) -> Any:
    """The one button: what it does now, and "Try anyway" where the plan says that it will not fit."""
    busy = supervisor.active is not None
    words, variant = ("Try anyway", "secondary") if level == "too big" else ("Train and compare", "primary")
    return gr.update(interactive=not busy, value="Running…" if busy else words, variant=variant)


def pair_choices(supervisor: Supervisor) -> list[tuple[str, str]]:
    """The sample and every data set made of votes."""
    return [*PAIRS, *((title, str(place)) for title, place in preference_data.data_sets(supervisor.workspace))]


def settings(first: Recipe, model: gr.Dropdown, pairs: gr.Dropdown, method: gr.Radio) -> Form:
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
                made[name] = Form(type(part), part, patience=stop_early)
    return Form(Recipe, None, ("sampling",), model=model, method=method, **made, **run.parts)


def stop_early(**words: Any) -> Component:
    """Patience as one click; another number may be typed, and nothing means off."""
    usual = [("Off", ""), ("After 3 checks (usual)", "3"), ("After 5 checks", "5")]
    return gr.Dropdown(usual, allow_custom_value=True, **words)


class UsedData(Strict):
    """What the Data tab hands over."""

    source: str = Field(min_length=1)
    kind: Kind
    columns: Columns
    steps: tuple[Step, ...]
    template: Template = "own"
    length: int | None = None
    """A length chosen while looking at the rows; None leaves the recipe's."""

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe on this data, and SFT alone where there are no rejected answers."""
        if self.source == SAMPLE_CHATS:
            data = Data(pairs=None, chat=SAMPLE, steps=self.steps, template=self.template)
        else:
            data = Data(pairs=self.source, columns=self.columns, steps=self.steps, template=self.template)
        method = Method.SFT if self.kind == "chat" else recipe.method
        longer = {"max_length": self.length} if self.length else {}
        stages = {stage: getattr(recipe, stage).model_copy(update=longer) for stage in ("sft", "dpo")}
        return recipe.model_copy(update={"data": data, "method": method, **stages})


def eyes(recipe: Recipe) -> str:
    """What the Data tab needs to show rows as this run will see them."""
    used = recipe.data
    told = {
        "model": recipe.model,
        "name": model_name(recipe.model),
        "lengths": {"pairs": recipe.dpo.max_length, "chat": recipe.sft.max_length},
        "template": used.template,
        "source": used.pairs or (SAMPLE_CHATS if used.chat == SAMPLE else used.chat),
        "columns": used.columns.used,
        "steps": used.steps,
    }
    return json.dumps(told)


def recalled(kept: dict[str, Any]) -> Recipe | None:
    """The choices of the last visit; None on the first, and where an older version kept what this one does not know."""
    try:
        return parse(Recipe, kept, "kept choices") if kept else None
    except ConfigError:
        return None


def rows_of(found: data.Counts) -> dict[Stage, int]:
    """The rows of each stage."""
    return {"sft": found.sft, "dpo": found.dpo}


def facts(found: data.Counts) -> list[str]:
    """What is in the data, as short lines."""
    named = [(found.sft, "examples for SFT"), (found.dpo, "pairs for DPO"), (found.held_out, "pairs held out")]
    return [f"{count:,} {words}" for count, words in named if count]


def counts(recipe: Recipe, tokenizer: Path | None = None) -> data.Counts:
    """Read the data, or remember what was read from the same files.

    Raises:
        DataError: a file cannot be used.
    """
    found = read(recipe.data, recipe.method, tokenizer, tuple(map(stamp, sources_of(recipe))))
    return found.within({stage: getattr(recipe, stage).max_length for stage in recipe.method.stages})


def sources_of(recipe: Recipe) -> list[str]:
    return [source for source in (recipe.data.chat, recipe.data.pairs, recipe.data.held_out) if source]


@lru_cache(maxsize=16)
def read(sources: Data, method: Method, tokenizer: Path | None, stamps: tuple[float, ...]) -> data.Counts:
    return data.count(sources, method, tokenizer)


def stamp(source: str) -> float:
    """When a file last changed; 0 where there is none, which reading it will say."""
    path = os.path.expanduser(source)
    return os.path.getmtime(path) if os.path.exists(path) else 0.0  # False for too long a name


def plan_lines(recipe: Recipe, found: data.Counts, takes: Mapping[Stage, str]) -> list[html.Plan]:
    """Load, SFT, DPO, Compare: what each will do, and how long it takes where that is known."""
    layers = recipe.lora.targets.replace("all-linear", "all linear layers")
    lines = [html.Plan("Load", f"{model_name(recipe.model)}, LoRA rank {recipe.lora.rank} on {layers}")]
    if "sft" in recipe.method.stages:
        lines.append(html.Plan("SFT", stage_words(found.sft, "examples", recipe.sft), takes.get("sft", "")))
    if "dpo" in recipe.method.stages:
        words = f"{stage_words(found.dpo, 'pairs', recipe.dpo)}, β\u00a0{recipe.dpo.beta:g}"
        lines.append(html.Plan("DPO", words, takes.get("dpo", "")))
    lanes = listed(["base", *(STAGE_WORDS[stage] for stage in recipe.method.stages)])
    return [*lines, html.Plan("Compare", f"{lanes} answer side by side")]


def stage_words(rows: int, noun: str, settings: Training) -> str:
    steps = planned_steps(rows, settings)
    parts = [f"{steps} steps of {settings.effective_batch} {noun}", f"rate\u00a0{number(settings.learning_rate)}"]
    return ", ".join(filter(None, [*parts, warmup_text(settings, steps)]))
