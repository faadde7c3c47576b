"""One stage of a run: the model, its adapter and what the trainer needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import set_seed

from trainer_core.config.recipe import METHODS, Precision, Recipe
from trainer_core.data.tokenizer import with_chat_template
from trainer_core.diagnosis.divergence import DivergenceDetector
from trainer_core.errors import ModelError
from trainer_core.evaluation.prompts import sample_prompts
from trainer_core.methods.steps import count_steps, warmup_steps
from trainer_core.models import resolve
from trainer_core.planning import measurements, presets
from trainer_core.planning.memory_model import build_setup
from trainer_core.planning.out_of_memory import next_fallback
from trainer_core.planning.presets import architecture_for_model
from trainer_core.runs import checkpoints
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import (
    AdapterSaved,
    Notice,
    Phase,
    PhaseChanged,
    SettingChanged,
    Stage,
    StageResumed,
    StepsPlanned,
)
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.system import hardware, packages
from trainer_core.texts import Text, stage_text
from trainer_core.training import load, row_lengths
from trainer_core.training.checkpointing import (
    WEIGHTS,
    CheckpointContext,
    SaveSchedule,
    VerifyResume,
    adapter_bytes,
)
from trainer_core.training.gradient_checkpointing import SkipLayersCallback
from trainer_core.training.held_out_eval import HeldOutEval, HeldOutSet
from trainer_core.training.learning_check import RequireLearning, require_change
from trainer_core.training.memory_probe import MemoryProbe
from trainer_core.training.peak_memory import build_memory_meter
from trainer_core.training.progress import ProgressCallback, has_finite_weights
from trainer_core.training.reference_cache import ReferenceKey
from trainer_core.training.sample_answers import SampleCallback
from trainer_core.training.token_cache import TokenCache
from trainer_core.training.trainers import TrainerBuilder


@dataclass(frozen=True)
class StageContext:
    """Shared by all stages of a run. `before`: what earlier workers did; `data`: hash of the training data."""

    recipe: Recipe
    model: str
    run_dir: Path
    before: RunState
    data: str
    emit: EventLog
    wants: StopRequests
    build_trainer: TrainerBuilder

    @property
    def settings_hash(self) -> str:
        return checkpoints.settings_hash(self.recipe)

    def load_model(self, stage: Stage, from_adapter: Path | None) -> tuple[PeftModel, Any, Precision]:
        """Base, tokenizer and adapter, rebuilt from the recipe for each stage, so that no stage depends on leftovers."""
        self.emit(PhaseChanged(Phase.LOADING, Text("loading.base", stage=stage.upper()), stage))
        set_seed(self.recipe.seed)
        # the stage's own length: Unsloth takes a trainer's 1024 for "not given" and then uses the model's
        length = self.recipe.stage_settings(stage).max_length
        base = load.load_base(self.model, self.recipe.precision, length, self.recipe.memory)
        if base.precision != self.recipe.precision:
            self.emit(SettingChanged("precision", self.recipe.precision, base.precision, base.reason))
        model = load.add_adapter(base, self.recipe.lora, self.recipe.seed)
        if resolve.is_hub_id(self.recipe.model):  # store the Hub's name, not the cache folder
            model.peft_config["default"].base_model_name_or_path = self.recipe.model
        if from_adapter:
            fill_adapter(model, from_adapter)
        return model, with_chat_template(base.tokenizer, self.recipe.data.template), base.precision

    def train_stage(
        self,
        trainer: Any,
        tokenizer: Any,
        progress: ProgressCallback,
        held_out: HeldOutSet,
        start: Path | None = None,
    ) -> Path | None:
        """Train from the newest checkpoint, or from the start, and save the adapter. Returns None if paused, with a checkpoint.

        Args:
            start: the previous stage's adapter.
        """
        stage = progress.stage
        found = checkpoints.latest_valid(self.run_dir, stage, self.data, self.settings_hash)
        if any(point.stage == stage for point in self.before.points):
            self.emit(StageResumed(stage, found.step, found.skipped))
        else:
            steps = count_steps(len(trainer.train_dataset), trainer.settings)
            if warmup := warmup_steps(trainer.settings, steps):
                self.add_notes(stage, [Text("note.warmup", steps=warmup, total=steps)])
        self.emit(row_lengths.summarize_lengths(stage, trainer.row_lengths))
        progress.trainer = trainer
        checks = self.eval_callbacks(trainer, tokenizer, progress, held_out)
        trainer.shelf = CheckpointContext(
            self.run_dir,
            stage,
            self.data,
            self.settings_hash,
            self.emit,
            lambda: checks.best.step if checks.best else None,
        )
        trainer.add_callback(RequireLearning(trainer, stage))
        self.add_memory_probe(trainer, stage)
        if load.can_skip_layers(self.recipe.memory):
            trainer.add_callback(
                SkipLayersCallback(trainer, stage, self.emit)
            )  # after the probe, which measures without it
        if found.folder and found.step >= count_steps(len(trainer.train_dataset), self.recipe.stage_settings(stage)):
            fill_adapter(trainer.model, found.folder)  # the stock trainer would run one more step
            before = checkpoints.adapter_step(self.run_dir, stage)
            if before not in (None, found.step):
                self.add_notes(stage, [Text("note.last_step_adapter", step=found.step, before=before)])
            return self.save_stage_adapter(stage, trainer, tokenizer, found.step, found.step)
        if found.folder:
            trainer.add_callback(VerifyResume(found.folder, start if METHODS[stage].needs_reference else None))
        self.emit(PhaseChanged(Phase.TRAINING, Text("training.first_step"), stage))
        trainer.train(resume_from_checkpoint=str(found.folder) if found.folder else None)
        shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
        if checks.stopped:
            return self.save_best(checks, trainer, tokenizer)
        if self.wants.pause.is_set() and trainer.state.global_step < trainer.state.max_steps:
            return None
        if trainer.state.global_step >= trainer.state.max_steps and has_finite_weights(trainer.model):
            require_change(trainer.model, stage, start and start / WEIGHTS, trainer.args.learning_rate)
        return self.save_last(trainer, tokenizer, progress)

    def save_last(self, trainer: Any, tokenizer: Any, progress: ProgressCallback) -> Path:
        """Save the last step's adapter, or the last checkpoint's if the user stopped a diverging run.

        Raises:
            TrainingError: its weights are not finite.
        """
        stage, step, total = progress.stage, trainer.state.global_step, trainer.state.max_steps
        stopped, sound = step < total, has_finite_weights(trainer.model)
        if stopped and progress.saved and (progress.guard.bad or not sound):
            fill_adapter(trainer.model, checkpoints.checkpoint_dir(self.run_dir, stage, progress.saved))
            facts = {"step": step, "reason": progress.failure_text, "saved": progress.saved}
            self.add_notes(stage, [Text("note.stopped_diverging", **facts)])
            step = progress.saved
        elif not sound:
            where = Text("diverged.stopped_step" if stopped else "diverged.last_step", step=step)
            raise progress.divergence_error(where, trainer.args.learning_rate)
        elif progress.guard.bad:
            self.add_notes(stage, [Text("note.last_step_diverging", step=step, reason=progress.failure_text)])
        return self.save_stage_adapter(stage, trainer, tokenizer, step, total)

    def add_memory_probe(self, trainer: Any, stage: Stage) -> None:
        """Add the memory probe, if the recipe wants it and no earlier worker ran it for this batch."""
        setting, workspace = self.recipe.memory.probe, Workspace.for_run(self.run_dir)
        if setting == "off":
            return
        on_card = hardware.has_card(os.environ)
        device = hardware.card_uuid(os.environ) if on_card else hardware.cpu_name()
        shape = architecture_for_model(self.recipe.model, workspace, presets.load_catalogue())
        has_rung = next_fallback(self.recipe, stage, len(self.before.out_of_memory), on_card, shape=shape) is not None
        base = read_run_state(self.run_dir).effective_value("precision", self.recipe.precision)

        def save_points(points: Sequence[measurements.ProbePoint], optimiser: int) -> None:
            if shape is None:
                return
            setup = build_setup(self.recipe, stage, shape, base, "cuda" if on_card else "cpu")  # type: ignore[arg-type]
            measurements.save_measurement(
                workspace,
                measurements.measurement_key(device, setup),
                measurements.fit_measurement(points, optimiser, setup),
            )

        probe = MemoryProbe(trainer, stage, setting, self.emit, build_memory_meter(), has_rung, save_points)
        before = self.before.probed.get(stage)
        if before is None or before.tokens != probe.batch_tokens(trainer.args.per_device_train_batch_size):
            trainer.add_callback(probe)

    def reference_file(self, stage: Stage, trainer: Any, after: Path | None, precision: Precision) -> Path:
        """The cache file for the reference's log-probs of these pairs."""
        recipe, settings = self.recipe, self.recipe.stage_settings(stage)
        files = sorted(Path(self.model).glob("*.safetensors"))
        key = ReferenceKey(
            data=self.data,
            model=self.model,
            weights=[(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files],
            commit=vars(trainer.model.config).get("_commit_hash"),
            adapter=checkpoints.file_sha256(after / WEIGHTS) if after else "",
            precision=precision,
            seed=recipe.seed,
            lora=recipe.lora.model_dump(),
            template=recipe.data.template,
            max_length=settings.max_length,
            batch_size=settings.batch_size,
            accumulation=settings.accumulation,
            sorts_rows=trainer.sorts,
            devices=(hardware.cpu_name(), hardware.card_uuid(os.environ)),
            packages=[*packages.recorded_versions().values()],
        )
        return Workspace.for_run(self.run_dir).root / "reference" / key.file_name

    def eval_callbacks(
        self, trainer: Any, tokenizer: Any, progress: ProgressCallback, held_out: HeldOutSet
    ) -> HeldOutEval:
        """Evaluations and sample answers, as the recipe wants; they continue those of earlier workers."""
        recipe, said = self.recipe, read_run_state(self.run_dir)
        settings = recipe.stage_settings(progress.stage)
        before = [one for one in said.evaluated if one.stage == progress.stage]
        checks = HeldOutEval(trainer, held_out, settings.evaluations, settings.patience, progress, before)
        if settings.evaluations:
            trainer.add_callback(checks)
        if recipe.sample_tokens:
            asked = recipe.samples or sample_prompts()
            trainer.add_callback(
                SampleCallback(trainer, tokenizer, asked, recipe.sample_tokens, progress, said.sampled)
            )
        return checks

    def save_best(self, checks: HeldOutEval, trainer: Any, tokenizer: Any) -> Path:
        """After early stopping: restore and save the adapter with the lowest held-out loss."""
        stage, best, last = checks.held_out.stage, checks.best, trainer.state.global_step
        assert best is not None
        fill_adapter(trainer.model, checkpoints.checkpoint_dir(self.run_dir, stage, best.step))
        facts = {"step": best.step, "loss": best.loss, "checks": checks.patience, "last": last}
        self.add_notes(stage, [Text("note.early_stop", **facts)])
        self.emit(StepsPlanned({**read_run_state(self.run_dir).planned, stage: last}))
        return self.save_stage_adapter(stage, trainer, tokenizer, best.step, best.step)

    def save_stage_adapter(self, stage: Stage, trainer: Any, tokenizer: Any, step: int, total: int) -> Path:
        self.emit(PhaseChanged(Phase.SAVING, Text("saving.adapter", stage=stage.upper()), stage))
        folder = self.run_dir / f"adapter-{stage}"
        origin = checkpoints.CheckpointSource(stage, total, self.data, self.settings_hash)
        with checkpoints.staged_write(folder, origin, step, adapter_bytes(trainer)) as staging:
            size = load.save_adapter(trainer.model, tokenizer, staging)
        self.emit(AdapterSaved(stage, folder.name, size, step))
        return folder

    def token_cache(self, stage: Stage, tokenizer: Any) -> TokenCache:
        return TokenCache(Workspace.for_run(self.run_dir).root / "tokens", stage, self.recipe, self.data, tokenizer)

    def step_callbacks(self, stage: Stage) -> tuple[ProgressCallback, SaveSchedule]:
        guard = DivergenceDetector(stage)
        return ProgressCallback(stage, self.emit, self.wants, guard), SaveSchedule(guard, self.wants)

    def add_notes(self, stage: Stage, notes: Sequence[Text]) -> None:
        for note in notes:
            self.emit(Notice(stage_text(stage, note)))


def fill_adapter(model: PeftModel, folder: Path) -> None:
    """Load a saved adapter's weights into the model's fresh adapter.

    Raises:
        ModelError: the file does not fit the model.
    """
    result: Any = set_peft_model_state_dict(model, load_file(folder / WEIGHTS), adapter_name="default")
    missing = [key for key in result.missing_keys if "lora_" in key and ".default." in key]
    if missing or result.unexpected_keys:
        wrong = (missing or result.unexpected_keys)[0]
        raise ModelError("adapter.no_fit", folder=str(folder), weight=wrong)
