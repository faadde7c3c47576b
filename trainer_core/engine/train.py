"""One training job from first to last: read the data, load, SFT, save, DPO, save."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import set_seed
from trl import DPOTrainer

from trainer_core import data, models, runs, tokens
from trainer_core.config import Precision, Recipe, TrainJob
from trainer_core.engine import dpo, load, sft
from trainer_core.engine.callbacks import Progress
from trainer_core.errors import ModelError
from trainer_core.events import Changed, EventLog, Noted, Phase, Plan, Prepared, Saved, Stage, Status
from trainer_core.plan import planned_steps


def train(
    job: TrainJob,
    run_dir: Path,
    emit: EventLog,
    wants: runs.Wants,
    dpo_trainer: Callable[..., DPOTrainer] = dpo.trainer,
) -> Phase:
    """Run every stage of the recipe.

    Args:
        dpo_trainer: builds the DPO trainer; tests pass one with a fault.

    Returns:
        DONE, or STOPPED when the user asked for it; the adapter of the stage in progress is saved either way.

    Raises:
        UserError: the data, the model or the run itself, in words the user can act on.
    """
    recipe = job.recipe
    emit(Status(Phase.LOADING, "Reading the data"))
    loaded = data.load(recipe.data, recipe.method)
    tokens.write_pairs(run_dir / "held-out.jsonl", loaded.held_out)
    counts = {"sft": len(loaded.chats), "dpo": len(loaded.pairs)}
    emit(Prepared(counts["sft"], counts["dpo"], len(loaded.held_out), loaded.sha256, loaded.notes))
    emit(Plan({stage: planned_steps(counts[stage], getattr(recipe, stage)) for stage in recipe.method.stages}))
    model = models.resolve(recipe.model, runs.Workspace.of(run_dir))
    adapter: Path | None = None
    for stage in recipe.method.stages:
        run_stage = {"sft": run_sft, "dpo": run_dpo}[stage]
        adapter = run_stage(Run(recipe, model, run_dir, emit, wants, dpo_trainer), loaded, adapter)
        if wants.stop.is_set():
            return Phase.STOPPED
    return Phase.DONE


@dataclass(frozen=True)
class Run:
    """What every stage of one run shares."""

    recipe: Recipe
    model: str
    run_dir: Path
    emit: EventLog
    wants: runs.Wants
    dpo_trainer: Callable[..., DPOTrainer]

    def start(self, stage: Stage, from_adapter: Path | None) -> tuple[PeftModel, Any, Precision]:
        """Base, tokenizer and adapter, rebuilt from the recipe for each stage, so that a stage never depends on leftovers."""
        self.emit(Status(Phase.LOADING, f"Loading the base model for {stage.upper()}"))
        set_seed(self.recipe.seed)
        length = max(getattr(self.recipe, name).max_length for name in self.recipe.method.stages)
        base = load.load_base(self.model, self.recipe.precision, length)
        if base.precision != self.recipe.precision and stage == self.recipe.method.stages[0]:
            self.emit(Changed("precision", self.recipe.precision, base.precision, base.reason))
        model = load.add_adapter(base, self.recipe.lora, self.recipe.seed)
        if from_adapter:
            fill_adapter(model, from_adapter)
        return model, base.tokenizer, base.precision

    def finish(self, stage: Stage, trainer: Any, tokenizer: Any) -> Path:
        """Train and save, whether the end was reached or asked for."""
        self.emit(Status(Phase(stage), "The first step is slower than the rest"))
        trainer.train()
        self.emit(Status(Phase.SAVING, f"Saving the {stage.upper()} adapter"))
        folder = self.run_dir / f"adapter-{stage}"
        size = load.save_adapter(trainer.model, tokenizer, folder)
        self.emit(Saved(stage, folder.name, size, trainer.state.global_step))
        shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
        return folder

    def progress(self, stage: Stage) -> Progress:
        return Progress(stage, self.emit, self.wants)

    def note(self, stage: Stage, notes: Sequence[str]) -> None:
        for text in notes:
            self.emit(Noted(f"{stage.upper()}: {text}"))


def run_sft(run: Run, loaded: data.Loaded, _: Path | None) -> Path:
    model, tokenizer, _precision = run.start("sft", None)
    encoded, notes = tokens.sft_rows(tokenizer, loaded.chats, run.recipe.sft.max_length)
    run.note("sft", notes)
    trainer = sft.trainer(model, tokenizer, encoded, run.recipe, run.run_dir / ".sft", run.progress("sft"))
    folder = run.finish("sft", trainer, tokenizer)
    del trainer, model
    load.free_memory()
    return folder


def run_dpo(run: Run, loaded: data.Loaded, after: Path | None) -> Path:
    model, tokenizer, precision = run.start("dpo", after)
    pairs, notes = tokens.dpo_rows(tokenizer, loaded.pairs, run.recipe.dpo.max_length)
    run.note("dpo", notes)
    policy = "the SFT adapter" if after else "a new adapter on the base"
    callbacks = [dpo.Prove(run.recipe.dpo, precision, policy, run.emit), run.progress("dpo")]
    trainer = run.dpo_trainer(model, tokenizer, pairs, run.recipe, run.run_dir / ".dpo", callbacks)
    return run.finish("dpo", trainer, tokenizer)


def fill_adapter(model: PeftModel, folder: Path) -> None:
    """Put a saved adapter's weights into the model's own, fresh adapter.

    Raises:
        ModelError: the file does not fit the model.
    """
    result: Any = set_peft_model_state_dict(
        model, load_file(folder / "adapter_model.safetensors"), adapter_name="default"
    )
    missing = [key for key in result.missing_keys if "lora_" in key and ".default." in key]
    if missing or result.unexpected_keys:
        wrong = (missing or result.unexpected_keys)[0]
        raise ModelError(f"The adapter in {folder} does not fit this base model and these LoRA settings: {wrong}.")
