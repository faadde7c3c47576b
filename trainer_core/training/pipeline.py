"""One training job: read the data, load, SFT, save, DPO, save; or resume where an earlier worker stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset

from trainer_core import data
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import STARTER
from trainer_core.data import tokenize
from trainer_core.methods.steps import count_steps
from trainer_core.models import hub, resolve, starter
from trainer_core.runs import checkpoints
from trainer_core.runs.control import StopRequests
from trainer_core.runs.effective_recipe import effective_recipe
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import DataPrepared, Phase, PhaseChanged, StepsPlanned
from trainer_core.runs.run_state import read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system import durable
from trainer_core.training import dpo, held_out_eval, load, sft
from trainer_core.training.checkpointing import DpoTrainer
from trainer_core.training.reference_cache import ReferenceCache
from trainer_core.training.stage import StageContext


def train(
    job: TrainJob,
    run_dir: Path,
    emit: EventLog,
    wants: StopRequests,
    dpo_trainer: Callable[..., DpoTrainer] = dpo.build_dpo_trainer,
) -> Phase:
    """Run every stage of the recipe that is not finished yet.

    Args:
        dpo_trainer: builds the DPO trainer; tests pass one with a fault.

    Returns:
        DONE; STOPPED or PAUSED when the user asked for it. Stopped, the adapter of the stage in progress is saved.

    Raises:
        UserError: the data, the model or the run itself, in words the user can act on.
    """
    for place in (run_dir, run_dir / checkpoints.CHECKPOINTS_FOLDER):
        durable.clean_leftovers(place)
    before = read_run_state(run_dir)
    recipe = effective_recipe(job.recipe, before.changes)
    emit(PhaseChanged(Phase.LOADING, "Reading the data"))
    loaded = data.load_data(recipe.data, recipe.method)
    tokenize.write_pairs(run_dir / "held-out.jsonl", loaded.held_out)
    counts = {"sft": len(loaded.chats), "dpo": len(loaded.pairs)}
    emit(DataPrepared(counts["sft"], counts["dpo"], len(loaded.held_out), loaded.sha256, loaded.notes))
    emit(StepsPlanned({stage: count_steps(counts[stage], getattr(recipe, stage)) for stage in recipe.method.stages}))
    if recipe.model == STARTER and not starter.is_starter_ready(Workspace.for_run(run_dir)):
        emit(PhaseChanged(Phase.LOADING, "Unpacking the starter model, about a minute and only once"))
    model = resolve.resolve_model(recipe.model, Workspace.for_run(run_dir))
    if resolve.is_hub_id(model):
        folder = hub.fetch_model(model, lambda text: emit(PhaseChanged(Phase.LOADING, text)), lambda: wants.should_stop)
        if folder is None:
            return Phase.STOPPED if wants.stop.is_set() else Phase.PAUSED
        model = str(folder)
    adapter: Path | None = None
    for stage in recipe.method.stages:
        done = checkpoints.finished_adapter(
            run_dir, stage, least=int(before.effective_value(f"{stage}.max_steps", "0"))
        )
        if done.folder:
            adapter = done.folder
            continue
        run = StageContext(recipe, model, run_dir, before, loaded.sha256, emit, wants, dpo_trainer)
        run.add_notes(stage, done.skipped)
        adapter = {"sft": run_sft, "dpo": run_dpo}[stage](run, loaded, adapter)
        if adapter is None:
            return Phase.PAUSED
        if wants.stop.is_set():
            return Phase.STOPPED
    return Phase.DONE


def run_sft(run: StageContext, loaded: data.LoadedData, _: Path | None) -> Path | None:
    model, tokenizer, _precision = run.load_model("sft", None)
    kept = run.token_cache("sft", tokenizer)
    found = kept.read()
    if found is None:
        encoded, notes = tokenize.sft_rows(tokenizer, loaded.chats, run.recipe.sft.max_length)
        found = sft.build_dataset(encoded), notes
        kept.write(*found)
    given, notes = found
    run.add_notes("sft", notes)
    progress, save = run.step_callbacks("sft")
    trainer = sft.build_sft_trainer(model, tokenizer, given, run.recipe, run.run_dir / ".sft", [progress, save])
    held_out = held_out_eval.sft_held_out(tokenizer, loaded.held_out_chats, run.recipe.sft.max_length)
    folder = run.train_stage(trainer, tokenizer, progress, held_out)
    del trainer, model
    load.free_memory()
    return folder


def run_dpo(run: StageContext, loaded: data.LoadedData, after: Path | None) -> Path | None:
    model, tokenizer, precision = run.load_model("dpo", after)
    kept = run.token_cache("dpo", tokenizer)
    found = kept.read()
    if found is None:
        pairs, notes = tokenize.dpo_rows(tokenizer, loaded.pairs, run.recipe.dpo.max_length)
        given = Dataset.from_list(pairs)  # TRL makes tokens of them
    else:
        given, notes = found
    run.add_notes("dpo", notes)
    policy = "the SFT adapter" if after else "a new adapter on the base"
    prove, (progress, save) = dpo.VerifyFirstStep(run.recipe, precision, policy, run.emit), run.step_callbacks("dpo")
    trainer: Any = run.dpo_trainer(model, tokenizer, given, run.recipe, run.run_dir / ".dpo", [prove, progress, save])
    prove.trainer = trainer
    if found is None:
        kept.write(trainer.train_dataset, notes)
    if run.recipe.memory.keep_reference == "auto":
        file = run.reference_file(trainer, after, precision)
        trainer.reference = ReferenceCache(file, dpo.TOLERANCE[precision] / run.recipe.dpo.beta)
        trainer.add_callback(trainer.reference)
    held_out = held_out_eval.dpo_held_out(trainer, tokenizer, loaded.held_out, run.recipe.dpo.max_length)
    return run.train_stage(trainer, tokenizer, progress, held_out, reference=after)
