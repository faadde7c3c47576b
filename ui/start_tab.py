"""The Start tab: model, data, how long, every setting, and the one button."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from trainer_core import data
from trainer_core.config import SAMPLE, STARTER, Data, Dpo, Lora, Method, Recipe, Sft, parse
from trainer_core.errors import ConfigError
from trainer_core.plan import planned_steps
from trainer_core.supervisor import Supervisor
from ui import cards, views
from ui.form import QUIET, Form, edits, on
from ui.rail import fixed

METHODS = [("SFT, then DPO", Method.SFT_DPO.value), ("SFT only", Method.SFT.value), ("DPO only", Method.DPO.value)]
MODELS = [("Starter model · SmolLM2 135M Instruct (included)", STARTER)]
PAIRS = [("Sample pairs: short, warm, direct answers (included)", SAMPLE)]
CHATS = [("The chosen answers of the pairs", ""), ("Sample chats (included)", SAMPLE)]
FOOT = "Runs SFT on the good answers, then DPO on the pairs, then opens Compare. All on this computer; nothing is uploaded."


def build(supervisor: Supervisor, bus: gr.HTML, tabs: gr.Tabs, page: gr.Blocks) -> None:
    stored = gr.BrowserState({}, storage_key="tunebench.start", secret="tunebench")
    with gr.Row(elem_id="start"):
        with gr.Column(scale=3, min_width=340):
            with gr.Column(elem_classes="card", elem_id="basics"):
                model = gr.Dropdown(MODELS, value=STARTER, label="Model", allow_custom_value=True, interactive=True, elem_id="model",
                                    info="Pick one, or type a folder with a safetensors model or a hub id such as unsloth/Qwen3-8B.")
                pairs = gr.Dropdown(PAIRS, value=SAMPLE, label="Preference pairs", allow_custom_value=True, interactive=True, elem_id="data",
                                    info="A prompt, a better and a worse answer per row. Type the path of a JSONL, JSON, CSV or Parquet file.")
                health = gr.HTML("", elem_id="health")
                method = gr.Radio(METHODS, value=Method.SFT_DPO.value, label="Method", interactive=True, elem_id="method")
        with gr.Column(scale=2, min_width=300):
            plan = gr.HTML("", elem_id="plan")
            go = gr.Button("Train and compare", variant="primary", size="lg", elem_id="go")
            problem = gr.HTML("", elem_id="start-problem", elem_classes="problem")
            fixed(cards.note(FOOT))
    with gr.Accordion("All settings", open=False, elem_id="settings-form"):
        recipe = settings(model, pairs, method)

    def preview(wanted: Recipe) -> tuple[str, str, dict[str, Any]]:
        found = counts(wanted)
        return cards.checked(found.facts, found.notes), cards.plan(plan_lines(wanted, found)), wanted.model_dump(mode="json")

    def restore(kept: dict[str, Any]) -> tuple[Any, ...]:
        wanted = recalled(kept)
        return wanted, *preview(wanted)[:2]

    def start(wanted: Recipe) -> Any:
        counts(wanted)
        supervisor.start(wanted)
        return gr.update(selected="train")

    def refresh() -> Any:
        busy = supervisor.active is not None
        return gr.update(interactive=not busy, value="Running…" if busy else "Train and compare")

    on(page.load, restore, stored, outputs=[recipe, health, plan], **QUIET)
    on(edits(recipe), preview, recipe, outputs=[health, plan, stored], problem=problem, trigger_mode="always_last", **QUIET)
    on(go.click, start, recipe, outputs=[tabs], problem=problem, show_progress="hidden")
    on(bus.statechange, refresh, outputs=[go], **QUIET)


def settings(model: gr.Dropdown, pairs: gr.Dropdown, method: gr.Radio) -> Form:
    """Every value of a recipe; three of them have their input outside."""
    with gr.Tabs():
        with gr.Tab("Run", render_children=True), gr.Row(elem_classes="fields"):
            run = Form(Recipe, skip=("model", "method", "data", "lora", "sft", "dpo", "sampling"))
        with gr.Tab("Data", render_children=True), gr.Row(elem_classes="fields"):
            sources = Form(Data, pairs=pairs)
        with gr.Tab("LoRA", render_children=True), gr.Row(elem_classes="fields"):
            lora = Form(Lora)
        with gr.Tab("SFT", render_children=True), gr.Row(elem_classes="fields"):
            sft = Form(Sft)
        with gr.Tab("DPO", render_children=True), gr.Row(elem_classes="fields"):
            dpo = Form(Dpo)
    return Form(Recipe, skip=("sampling",), model=model, method=method, data=sources, lora=lora, sft=sft, dpo=dpo, **run.parts)


def recalled(kept: dict[str, Any]) -> Recipe:
    """The choices of the last visit. What an older version kept and this one does not know gives the defaults."""
    try:
        return parse(Recipe, kept, "kept choices")
    except ConfigError:
        return Recipe()


@dataclass(frozen=True)
class Counts:
    """What is in the data: usable rows by stage, rows held out, and a sentence about each thing left out."""

    sft: int
    dpo: int
    held_out: int
    notes: tuple[str, ...]

    @property
    def facts(self) -> list[str]:
        named = [(self.sft, "examples for SFT"), (self.dpo, "pairs for DPO"), (self.held_out, "pairs held out")]
        return [f"{count:,} {words}" for count, words in named if count]


def counts(recipe: Recipe) -> Counts:
    """Read the data, or remember what was read from the same files.

    Raises:
        DataError: a file cannot be used.
    """
    sources = (recipe.data.chat, recipe.data.pairs, recipe.data.held_out)
    return read(recipe.data, recipe.method, tuple(stamp(source) for source in sources if source))


@lru_cache(maxsize=16)
def read(sources: Data, method: Method, stamps: tuple[float, ...]) -> Counts:
    loaded = data.load(sources, method)
    return Counts(len(loaded.chats), len(loaded.pairs), len(loaded.held_out), loaded.notes)


def stamp(source: str) -> float:
    """When a file last changed; 0 where there is none, which reading it will say."""
    path = Path(source).expanduser()
    return path.stat().st_mtime if path.exists() else 0.0


def plan_lines(recipe: Recipe, found: Counts) -> list[cards.Plan]:
    """Load, SFT, DPO, Compare: what each will do."""
    lines = [cards.Plan("Load", f"{views.model_name(recipe.model)}, LoRA rank {recipe.lora.rank}, {recipe.lora.targets.replace('-', ' ')}")]
    if "sft" in recipe.method.stages:
        lines.append(cards.Plan("SFT", f"{planned_steps(found.sft, recipe.sft)} steps of {recipe.sft.effective_batch} examples, rate {views.words(recipe.sft.learning_rate)}"))
    if "dpo" in recipe.method.stages:
        lines.append(cards.Plan("DPO", f"{planned_steps(found.dpo, recipe.dpo)} steps of {recipe.dpo.effective_batch} pairs, rate {views.words(recipe.dpo.learning_rate)}, β {recipe.dpo.beta:g}"))
    names = " and ".join(views.STAGE_WORDS[stage] for stage in recipe.method.stages)
    return [*lines, cards.Plan("Compare", f"base, {names} side by side", "you")]
