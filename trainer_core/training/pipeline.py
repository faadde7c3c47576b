"""One training job: read the data, then load, train and save each stage, or resume where an earlier worker stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset

from trainer_core import data
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import METHODS, STARTER, Recipe
from trainer_core.data import render, tokenize
from trainer_core.data.schema.messages import as_chat
from trainer_core.data.tokenizer import load_tokenizer
from trainer_core.methods.steps import count_steps
from trainer_core.models import hub, resolve, starter
from trainer_core.runs import checkpoints
from trainer_core.runs.control import StopRequests
from trainer_core.runs.effective_recipe import effective_recipe, extended_steps
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import DataPrepared, Phase, PhaseChanged, Stage, StepsPlanned
from trainer_core.runs.run_state import read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system import durable
from trainer_core.texts import Text
from trainer_core.training import load
from trainer_core.training.first_step import TOLERANCE, VerifyFirstStep
from trainer_core.training.held_out_eval import HeldOutSet
from trainer_core.training.reference_cache import ReferenceCache
from trainer_core.training.stage import StageContext
from trainer_core.training.token_rows import TOKEN_COLUMNS
from trainer_core.training.trainers import TrainerBuilder, build_trainer


def train(
    job: TrainJob,
    run_dir: Path,
    emit: EventLog,
    wants: StopRequests,
    build: TrainerBuilder = build_trainer,
) -> Phase:
    """Run every unfinished stage of the recipe.

    Args:
        build: builds a stage's trainer; tests pass a faulty one.

    Returns:
        DONE; STOPPED or PAUSED at the user's request. STOPPED saves the adapter of the current stage.

    Raises:
        UserError: a problem with the data, the model or the run, with advice for the user.
    """
    for place in (run_dir, run_dir / checkpoints.CHECKPOINTS_FOLDER):
        durable.clean_leftovers(place)
    before = read_run_state(run_dir)
    recipe = effective_recipe(job.recipe, before.changes)
    emit(PhaseChanged(Phase.LOADING, Text("loading.data")))
    loaded = data.load_data(recipe.data, recipe.method)
    tokenize.write_pairs(run_dir / "held-out.jsonl", loaded.held_out)
    emit(DataPrepared(len(loaded.chats), len(loaded.pairs), len(loaded.held_out), loaded.sha256, loaded.notes))
    counts = {stage: len(loaded.rows_of(METHODS[stage].rows)) for stage in recipe.method.stages}
    emit(StepsPlanned({stage: count_steps(count, recipe.stage_settings(stage)) for stage, count in counts.items()}))
    model = fetch_base(recipe.model, Workspace.for_run(run_dir), emit, wants)
    if model is None:
        return Phase.STOPPED if wants.stop.is_set() else Phase.PAUSED
    check_template(model, recipe, loaded)
    adapter: Path | None = None
    for stage in recipe.method.stages:
        done = checkpoints.finished_adapter(run_dir, stage, least=extended_steps(recipe, before.changes, stage))
        if done.folder:
            adapter = done.folder
            continue
        run = StageContext(recipe, model, run_dir, before, loaded.sha256, emit, wants, build)
        run.add_notes(stage, done.skipped)
        adapter = run_stage(stage, run, loaded, adapter)
        load.free_memory()  # here, where callbacks no longer hold trainer and model
        if adapter is None:
            return Phase.PAUSED
        if wants.stop.is_set():
            return Phase.STOPPED
    return Phase.DONE


def check_template(model: str, recipe: Recipe, loaded: data.LoadedData) -> None:
    """Find what the model's chat template refuses, before the model is loaded.

    Raises:
        DataError, ModelError: see `render.check_roles`.
    """
    kinds = {METHODS[stage].rows for stage in recipe.method.stages}
    items = [item for kind in kinds for item in loaded.rows_of(kind)]
    chats = (item if isinstance(item, data.Chat) else as_chat(item) for item in items)
    render.check_roles(load_tokenizer(model, recipe.data.template), (chat.messages for chat in chats))


def fetch_base(name: str, workspace: Workspace, emit: EventLog, wants: StopRequests) -> str | None:
    """The folder of the base model, unpacked or downloaded first if missing; None if the user stops that."""
    if name == STARTER and not starter.is_starter_ready(workspace):
        emit(PhaseChanged(Phase.LOADING, Text("loading.starter")))
    model = resolve.resolve_model(name, workspace)
    if not resolve.is_hub_id(model):
        return model

    def report(text: Text) -> None:
        emit(PhaseChanged(Phase.LOADING, text))

    folder = hub.fetch_model(model, report, lambda: wants.should_stop)
    return str(folder) if folder else None


def run_stage(stage: Stage, run: StageContext, loaded: data.LoadedData, after: Path | None) -> Path | None:
    """Train one stage, from the previous stage's adapter or a fresh one. Returns its adapter, or None if the run was paused."""
    method, settings = METHODS[stage], run.recipe.stage_settings(stage)
    model, tokenizer, precision = run.load_model(stage, after)
    rows, notes = token_rows(stage, run, loaded, tokenizer)
    run.add_notes(stage, notes)
    progress, save = run.step_callbacks(stage)
    before = METHODS[after.name.removeprefix("adapter-")].title if after else ""
    policy = Text("policy.adapter", stage=before) if after else Text("policy.new_adapter")
    check = VerifyFirstStep(settings, run.recipe.lora, precision, policy, run.emit)
    trainer = run.build_trainer(
        stage, model, tokenizer, rows, run.recipe, run.run_dir / f".{stage}", [check, progress, save]
    )
    check.trainer = trainer
    if method.needs_reference and run.recipe.memory.keep_reference == "auto":
        file = run.reference_file(stage, trainer, after, precision)
        trainer.reference = ReferenceCache(file, TOLERANCE[precision] / method.reward_scale(settings))
        trainer.add_callback(trainer.reference)
    columns = TOKEN_COLUMNS[method.columns]
    held_out = HeldOutSet(stage, columns.encode_held_out(tokenizer, loaded, settings.max_length))
    return run.train_stage(trainer, tokenizer, progress, held_out, after)


def token_rows(stage: Stage, run: StageContext, loaded: data.LoadedData, tokenizer: Any) -> tuple[Dataset, list[Text]]:
    """The tokenised rows of a stage, from the cache if present."""
    kept = run.token_cache(stage, tokenizer)
    found = kept.read()
    if found is None:
        encode = TOKEN_COLUMNS[METHODS[stage].columns].encode
        encoded, notes = encode(tokenizer, loaded, run.recipe.stage_settings(stage).max_length)
        found = Dataset.from_list(encoded), notes
        kept.write(*found)
    return found
