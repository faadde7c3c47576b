"""One training job from first to last: read the data, load, SFT, save, DPO, save; or from wherever an earlier worker left off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset

from trainer_core import data
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import STARTER
from trainer_core.data import tokenize
from trainer_core.methods.steps import planned_steps
from trainer_core.models import hub, resolve, starter
from trainer_core.runs import checkpoints
from trainer_core.runs.control import Wants
from trainer_core.runs.effective_recipe import in_force
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Phase, Plan, Prepared, Status
from trainer_core.runs.run_state import read_view
from trainer_core.runs.workspace import Workspace
from trainer_core.system import durable
from trainer_core.training import dpo, held_out_eval, load, sft
from trainer_core.training.checkpointing import ShelvedDpo
from trainer_core.training.reference_cache import Kept
from trainer_core.training.stage import Run


def train(
    job: TrainJob,
    run_dir: Path,
    emit: EventLog,
    wants: Wants,
    dpo_trainer: Callable[..., ShelvedDpo] = dpo.trainer,
) -> Phase:
    """Run every stage of the recipe that is not finished yet.

    Args:
        dpo_trainer: builds the DPO trainer; tests pass one with a fault.

    Returns:
        DONE; STOPPED or PAUSED when the user asked for it. Stopped, the adapter of the stage in progress is saved.

    Raises:
        UserError: the data, the model or the run itself, in words the user can act on.
    """
    for place in (run_dir, run_dir / checkpoints.FOLDER):
        durable.sweep(place)
    before = read_view(run_dir)
    recipe = in_force(job.recipe, before.changes)
    emit(Status(Phase.LOADING, "Reading the data"))
    loaded = data.load(recipe.data, recipe.method)
    tokenize.write_pairs(run_dir / "held-out.jsonl", loaded.held_out)
    counts = {"sft": len(loaded.chats), "dpo": len(loaded.pairs)}
    emit(Prepared(counts["sft"], counts["dpo"], len(loaded.held_out), loaded.sha256, loaded.notes))
    emit(Plan({stage: planned_steps(counts[stage], getattr(recipe, stage)) for stage in recipe.method.stages}))
    if recipe.model == STARTER and not starter.unpacked(Workspace.of(run_dir)):
        emit(Status(Phase.LOADING, "Unpacking the starter model, about a minute and only once"))
    model = resolve.resolve(recipe.model, Workspace.of(run_dir))
    if resolve.on_the_hub(model):
        folder = hub.fetched(model, lambda text: emit(Status(Phase.LOADING, text)), lambda: wants.to_leave)
        if folder is None:
            return Phase.STOPPED if wants.stop.is_set() else Phase.PAUSED
        model = str(folder)
    adapter: Path | None = None
    for stage in recipe.method.stages:
        done = checkpoints.finished(run_dir, stage, least=int(before.used(f"{stage}.max_steps", "0")))
        if done.folder:
            adapter = done.folder
            continue
        run = Run(recipe, model, run_dir, before, loaded.sha256, emit, wants, dpo_trainer)
        run.note(stage, done.skipped)
        adapter = {"sft": run_sft, "dpo": run_dpo}[stage](run, loaded, adapter)
        if adapter is None:
            return Phase.PAUSED
        if wants.stop.is_set():
            return Phase.STOPPED
    return Phase.DONE


def run_sft(run: Run, loaded: data.Loaded, _: Path | None) -> Path | None:
    model, tokenizer, _precision = run.start("sft", None)
    kept = run.kept_rows("sft", tokenizer)
    found = kept.read()
    if found is None:
        encoded, notes = tokenize.sft_rows(tokenizer, loaded.chats, run.recipe.sft.max_length)
        found = sft.dataset(encoded), notes
        kept.write(*found)
    given, notes = found
    run.note("sft", notes)
    progress, save = run.callbacks("sft")
    trainer = sft.trainer(model, tokenizer, given, run.recipe, run.run_dir / ".sft", [progress, save])
    held_out = held_out_eval.chats(tokenizer, loaded.held_out_chats, run.recipe.sft.max_length)
    folder = run.finish(trainer, tokenizer, progress, held_out)
    del trainer, model
    load.free_memory()
    return folder


def run_dpo(run: Run, loaded: data.Loaded, after: Path | None) -> Path | None:
    model, tokenizer, precision = run.start("dpo", after)
    kept = run.kept_rows("dpo", tokenizer)
    found = kept.read()
    if found is None:
        pairs, notes = tokenize.dpo_rows(tokenizer, loaded.pairs, run.recipe.dpo.max_length)
        given = Dataset.from_list(pairs)  # TRL makes tokens of them
    else:
        given, notes = found
    run.note("dpo", notes)
    policy = "the SFT adapter" if after else "a new adapter on the base"
    prove, (progress, save) = dpo.Prove(run.recipe, precision, policy, run.emit), run.callbacks("dpo")
    trainer: Any = run.dpo_trainer(model, tokenizer, given, run.recipe, run.run_dir / ".dpo", [prove, progress, save])
    prove.trainer = trainer
    if found is None:
        kept.write(trainer.train_dataset, notes)
    if run.recipe.memory.keep_reference == "auto":
        file = run.reference_file(trainer, after, precision)
        trainer.reference = Kept(file, dpo.TOLERANCE[precision] / run.recipe.dpo.beta)
        trainer.add_callback(trainer.reference)
    held_out = held_out_eval.pairs(trainer, tokenizer, loaded.held_out, run.recipe.dpo.max_length)
    return run.finish(trainer, tokenizer, progress, held_out, reference=after)
