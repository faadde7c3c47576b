"""One stage of a run: the model, its adapter and what the trainer needs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import set_seed

from trainer_core.config.recipe import Precision, Recipe
from trainer_core.data import tokenize
from trainer_core.diagnosis.divergence import Guard
from trainer_core.errors import ModelError
from trainer_core.evaluation.prompts import sample_prompts
from trainer_core.methods.steps import planned_steps, warmup_text
from trainer_core.models import resolve
from trainer_core.planning import measurements, presets
from trainer_core.planning.memory_model import setup_of
from trainer_core.planning.out_of_memory import next_rung
from trainer_core.planning.presets import shape_for
from trainer_core.runs import checkpoints
from trainer_core.runs.control import Wants
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Changed, Noted, Phase, Plan, Resumed, Saved, Stage, Status
from trainer_core.runs.run_state import RunView, read_view
from trainer_core.runs.workspace import Workspace
from trainer_core.system import hardware
from trainer_core.training import load, row_lengths
from trainer_core.training.checkpointing import WEIGHTS, Continued, Save, Shelf, ShelvedDpo, adapter_bytes
from trainer_core.training.gradient_checkpointing import KeepLayers
from trainer_core.training.held_out_eval import Evaluate, HeldOut
from trainer_core.training.learning_check import RequireLearning, require_change
from trainer_core.training.memory_probe import Probe
from trainer_core.training.peak_memory import gauge
from trainer_core.training.progress import Progress, finite
from trainer_core.training.sample_answers import Answers
from trainer_core.training.token_cache import KeptRows


@dataclass(frozen=True)
class Run:
    """What every stage of one run shares. `before` is what earlier workers did; `data` the hash of what is trained on."""

    recipe: Recipe
    model: str
    run_dir: Path
    before: RunView
    data: str
    emit: EventLog
    wants: Wants
    dpo_trainer: Callable[..., ShelvedDpo]

    @property
    def spec(self) -> str:
        return checkpoints.spec_of(self.recipe)

    def start(self, stage: Stage, from_adapter: Path | None) -> tuple[PeftModel, Any, Precision]:
        """Base, tokenizer and adapter, rebuilt from the recipe for each stage, so that a stage never depends on leftovers."""
        self.emit(Status(Phase.LOADING, f"Loading the base model for {stage.upper()}"))
        set_seed(self.recipe.seed)
        # the stage's own length: Unsloth takes a trainer's 1024 for "not given" and then uses the model's
        length = getattr(self.recipe, stage).max_length
        base = load.load_base(self.model, self.recipe.precision, length, self.recipe.memory)
        if base.precision != self.recipe.precision:
            self.emit(Changed("precision", self.recipe.precision, base.precision, base.reason))
        model = load.add_adapter(base, self.recipe.lora, self.recipe.seed)
        if resolve.on_the_hub(self.recipe.model):  # not the cache's folder on this computer
            model.peft_config["default"].base_model_name_or_path = self.recipe.model
        if from_adapter:
            fill_adapter(model, from_adapter)
        return model, tokenize.dressed(base.tokenizer, self.recipe.data.template), base.precision

    def finish(
        self, trainer: Any, tokenizer: Any, progress: Progress, held_out: HeldOut, reference: Path | None = None
    ) -> Path | None:
        """Train from the newest checkpoint, or from the start, and save the adapter. None: paused, with a checkpoint."""
        stage = progress.stage
        found = checkpoints.newest(self.run_dir, stage, self.data, self.spec)
        if any(point.stage == stage for point in self.before.points):
            self.emit(Resumed(stage, found.step, found.skipped))
        elif warmup := warmup_text(trainer.settings, planned_steps(len(trainer.train_dataset), trainer.settings)):
            self.note(stage, [f"{warmup}."])
        self.emit(row_lengths.lengths(stage, trainer.row_lengths))
        progress.trainer = trainer
        checks = self.watch(trainer, tokenizer, progress, held_out)
        trainer.shelf = Shelf(
            self.run_dir, stage, self.data, self.spec, self.emit, lambda: checks.best.step if checks.best else None
        )
        trainer.add_callback(RequireLearning(trainer, stage))
        self.probe(trainer, stage, reference)
        if load.keeps_layers(self.recipe.memory):
            trainer.add_callback(KeepLayers(trainer, stage, self.emit))  # after the probe, which measures without it
        if found.folder and found.step >= planned_steps(len(trainer.train_dataset), getattr(self.recipe, stage)):
            fill_adapter(trainer.model, found.folder)  # the stock trainer would make one step more
            before = checkpoints.kept(self.run_dir, stage)
            if before not in (None, found.step):
                text = f"the adapter is that of step {found.step}, where the stage ended, in place of that of step {before}"
                self.note(stage, [f"{text}, which you can keep again afterwards."])
            return self.save(stage, trainer, tokenizer, found.step, found.step)
        if found.folder:
            trainer.add_callback(Continued(found.folder, reference))
        self.emit(Status(Phase(stage), "The first step is slower than the rest"))
        trainer.train(resume_from_checkpoint=str(found.folder) if found.folder else None)
        shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
        if checks.stopped:
            return self.save_best(checks, trainer, tokenizer)
        if self.wants.pause.is_set() and trainer.state.global_step < trainer.state.max_steps:
            return None
        if trainer.state.global_step >= trainer.state.max_steps and finite(trainer.model):
            require_change(trainer.model, stage, reference and reference / WEIGHTS, trainer.args.learning_rate)
        return self.save_last(trainer, tokenizer, progress)

    def save_last(self, trainer: Any, tokenizer: Any, progress: Progress) -> Path:
        """The adapter as the last step left it; where the user stopped a run that was going wrong, as it was before that.

        Raises:
            TrainingError: its numbers are none.
        """
        stage, step, total = progress.stage, trainer.state.global_step, trainer.state.max_steps
        stopped, sound = step < total, finite(trainer.model)
        if stopped and progress.saved and (progress.guard.bad or not sound):
            fill_adapter(trainer.model, checkpoints.place(self.run_dir, stage, progress.saved))
            self.note(
                stage,
                [f"stopped at step {step}, where {progress.wrong}; the adapter is that of step {progress.saved}."],
            )
            step = progress.saved
        elif not sound:
            where = f"at step {step}, {'where it was stopped' if stopped else 'its last one'}"
            raise progress.gone_wrong(where, trainer.args.learning_rate)
        elif progress.guard.bad:
            self.note(stage, [f"at its last step, {step}, {progress.wrong}. Keep an earlier step if it is worse."])
        return self.save(stage, trainer, tokenizer, step, total)

    def probe(self, trainer: Any, stage: Stage, reference: Path | None) -> None:
        """Have memory measured before the first step, if the recipe wants that."""
        setting, workspace = self.recipe.memory.probe, Workspace.of(self.run_dir)
        if setting == "off":
            return
        on_card = hardware.shows_card(os.environ)
        device = hardware.card_of(os.environ) if on_card else hardware.cpu_name()
        shape = shape_for(self.recipe.model, workspace, presets.load_catalogue())
        has_rung = next_rung(self.recipe, stage, len(self.before.out_of_memory), on_card, shape=shape) is not None
        base = read_view(self.run_dir).used("precision", self.recipe.precision)

        def learned(points: Sequence[measurements.Point], optimiser: int) -> None:
            if shape is None:
                return
            setup = setup_of(self.recipe, stage, shape, base, "cuda" if on_card else "cpu")  # type: ignore[arg-type]
            measurements.remember(
                workspace, measurements.key(device, setup), measurements.measurement(points, optimiser, setup)
            )

        probe = Probe(trainer, stage, setting, self.emit, gauge(), has_rung, learned)
        before = self.before.probed.get(stage)
        if before is None or before.tokens != probe.tokens(trainer.args.per_device_train_batch_size):
            trainer.add_callback(probe)

    def reference_file(self, trainer: Any, after: Path | None, precision: Precision) -> Path:
        """Where the reference's numbers for these pairs lie, under a name made of all that they depend on, to the last bit."""
        recipe, folder = self.recipe, Path(self.model)
        weights = [
            (path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.glob("*.safetensors"))
        ]
        facts = [
            self.data, self.model, weights, checkpoints.sha256(after / WEIGHTS) if after else "", precision, recipe.seed,
            recipe.lora.model_dump(), recipe.data.template, recipe.dpo.max_length,
            recipe.dpo.batch_size, recipe.dpo.accumulation, trainer.sorts, vars(trainer.model.config).get("_commit_hash"),
            hardware.cpu_name(), hardware.card_of(os.environ), [version(name) for name in checkpoints.PINNED],
        ]  # fmt: skip
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        return Workspace.of(self.run_dir).root / "reference" / f"{name}.json"

    def watch(self, trainer: Any, tokenizer: Any, progress: Progress, held_out: HeldOut) -> Evaluate:
        """Held-out checks and sample answers, as far as the recipe wants them; they go on from what was said already."""
        recipe, said = self.recipe, read_view(self.run_dir)
        settings = getattr(recipe, progress.stage)
        before = [one for one in said.evaluated if one.stage == progress.stage]
        checks = Evaluate(trainer, held_out, settings.evaluations, settings.patience, progress, before)
        if settings.evaluations:
            trainer.add_callback(checks)
        if recipe.sample_tokens:
            asked = recipe.samples or sample_prompts()
            trainer.add_callback(Answers(trainer, tokenizer, asked, recipe.sample_tokens, progress, said.sampled))
        return checks

    def save_best(self, checks: Evaluate, trainer: Any, tokenizer: Any) -> Path:
        """After an early stop: the adapter as it was at its lowest held-out loss, whose checkpoint was saved then."""
        stage, best, last = checks.held_out.stage, checks.best, trainer.state.global_step
        assert best is not None
        fill_adapter(trainer.model, checkpoints.place(self.run_dir, stage, best.step))
        text = f"the held-out loss was lowest at step {best.step} ({best.loss:.3f}), not in the {checks.patience} checks after"
        self.note(stage, [f"{text}. Stopped at step {last}; the adapter is that of step {best.step}."])
        self.emit(Plan({**read_view(self.run_dir).planned, stage: last}))
        return self.save(stage, trainer, tokenizer, best.step, best.step)

    def save(self, stage: Stage, trainer: Any, tokenizer: Any, step: int, total: int) -> Path:
        self.emit(Status(Phase.SAVING, f"Saving the {stage.upper()} adapter"))
        folder = self.run_dir / f"adapter-{stage}"
        origin = checkpoints.Origin(stage, total, self.data, self.spec)
        with checkpoints.written(folder, origin, step, adapter_bytes(trainer)) as staging:
            size = load.save_adapter(trainer.model, tokenizer, staging)
        self.emit(Saved(stage, folder.name, size, step))
        return folder

    def kept_rows(self, stage: Stage, tokenizer: Any) -> KeptRows:
        return KeptRows(Workspace.of(self.run_dir).root / "tokens", stage, self.recipe, self.data, tokenizer)

    def callbacks(self, stage: Stage) -> tuple[Progress, Save]:
        guard = Guard(stage)
        return Progress(stage, self.emit, self.wants, guard), Save(guard, self.wants)

    def note(self, stage: Stage, notes: Sequence[str]) -> None:
        for text in notes:
            self.emit(Noted(f"{stage.upper()}: {text}"))


def fill_adapter(model: PeftModel, folder: Path) -> None:
    """Put a saved adapter's weights into the model's own, fresh adapter.

    Raises:
        ModelError: the file does not fit the model.
    """
    result: Any = set_peft_model_state_dict(model, load_file(folder / WEIGHTS), adapter_name="default")
    missing = [key for key in result.missing_keys if "lora_" in key and ".default." in key]
    if missing or result.unexpected_keys:
        wrong = (missing or result.unexpected_keys)[0]
        raise ModelError(f"The adapter in {folder} does not fit this base model and these LoRA settings: {wrong}.")
