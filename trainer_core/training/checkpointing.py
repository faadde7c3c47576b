"""TRL's trainers with checkpoints that survive a kill, hold only the policy, and are verified on resume.

The stock trainer writes in place, so that a killed save counts as the newest checkpoint; and it saves DPO's reference beside
the policy, after which a resumed run silently starts again at the reference.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.diagnosis.divergence import DivergenceDetector
from trainer_core.errors import ModelError
from trainer_core.methods.steps import SAVES_PER_STAGE, is_spaced_step
from trainer_core.runs import checkpoints
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import CheckpointSaved, Stage
from trainer_core.training.rate_schedule import ScheduledRate
from trainer_core.training.token_count import CountsTokens

SAVE_INTERVAL_SECONDS = 600.0
"""A stage is saved at its parts and at least this often, so that a power cut costs at most ten minutes."""
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class CheckpointContext:
    """Where the checkpoints of one stage go, and what they are made from."""

    run_dir: Path
    stage: Stage
    data: str
    spec: str
    emit: EventLog
    best: Callable[[], int | None] = lambda: None
    """The step with the lowest held-out loss so far; its checkpoint is never deleted."""


class DurableCheckpoints(CountsTokens, ScheduledRate):
    """Mixin for TRL trainers: saves by the protocol of `trainer_core.runs.checkpoints`."""

    shelf: CheckpointContext

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        shelf, step, began = self.shelf, self.state.global_step, time.monotonic()
        target = checkpoints.checkpoint_dir(shelf.run_dir, shelf.stage, step)
        origin = checkpoints.CheckpointSource(shelf.stage, self.state.max_steps, shelf.data, shelf.spec)
        needs = adapter_bytes(self) + optimiser_bytes(self)
        usual = self.args.output_dir
        with checkpoints.staged_write(target, origin, step, needs) as staging:
            try:
                self.args.output_dir = str(staging)
                Trainer._save_checkpoint(self, model, trial)  # skips TRL's override, which also writes a model card
            finally:
                self.args.output_dir = usual
            flatten_staging(staging)
        checkpoints.rotate_checkpoints(shelf.run_dir, shelf.stage, spared=self.protected_steps())
        folder = target.relative_to(shelf.run_dir).as_posix()
        shelf.emit(
            CheckpointSaved(shelf.stage, step, folder, checkpoints.total_file_size(target), time.monotonic() - began)
        )

    def protected_steps(self) -> frozenset[int]:
        """Steps whose checkpoints are never deleted: those at even parts, for later use, and the best."""
        total = self.state.max_steps
        parts = {step for step in range(1, total + 1) if is_spaced_step(step, total, SAVES_PER_STAGE)}
        return frozenset(parts | {self.shelf.best() or 0})

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the policy only: on resume a `ref` adapter beside it would replace it."""
        cast(PeftModel, self.model).save_pretrained(
            str(output_dir), selected_adapters=["default"], safe_serialization=True
        )


def adapter_bytes(trainer: Trainer) -> int:
    """Bytes of the trained weights."""
    trained = (weight for weight in cast(PeftModel, trainer.model).parameters() if weight.requires_grad)
    return sum(weight.numel() * weight.element_size() for weight in trained)


def optimiser_bytes(trainer: Trainer) -> int:
    """Bytes of the optimiser's states; 0 before the first step."""
    kept: Any = trainer.optimizer
    values = (value for state in kept.state.values() for value in state.values() if isinstance(value, torch.Tensor))
    return sum(value.numel() * value.element_size() for value in values)


def flatten_staging(staging: Path) -> None:
    """Move the files out of the subfolder that the stock code creates."""
    (inner,) = [path for path in staging.iterdir() if path.is_dir()]
    for path in inner.iterdir():
        path.rename(staging / path.name)
    inner.rmdir()


class SaveSchedule(TrainerCallback):
    """Decides when to save: at even parts of the stage, after ten minutes, and when the user stops the run.

    The last part is the end of the stage, from which it can be extended.
    """

    def __init__(self, guard: DivergenceDetector, wants: StopRequests):
        self.guard, self.wants, self._last = guard, wants, time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        at_part = is_spaced_step(state.global_step, state.max_steps, SAVES_PER_STAGE)
        late = time.monotonic() - self._last >= SAVE_INTERVAL_SECONDS
        if self.wants.should_stop or ((at_part or late) and not self.guard.bad):
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._last = time.monotonic()


class VerifyResume(TrainerCallback):
    """Verifies before the first resumed step that the policy equals the checkpoint and the reference equals its adapter.

    Args:
        checkpoint: the checkpoint to resume from.
        reference: the adapter that DPO measures against, or None.
    """

    def __init__(self, checkpoint: Path, reference: Path | None):
        self.expected = {"default": checkpoint} | ({"ref": reference} if reference else {})

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        for name, folder in self.expected.items():
            check_weights_equal(model, name, folder)


def check_weights_equal(model: PeftModel, name: str, folder: Path) -> None:
    """Compare the weights of an adapter in memory with those on disk, bit for bit.

    Raises:
        ModelError: names the first weight that differs.
    """
    stored = load_file(folder / WEIGHTS)
    for key, weight in get_peft_model_state_dict(model, adapter_name=name).items():
        if key not in stored or not torch.equal(weight.cpu(), stored[key].to(weight.dtype)):
            raise ModelError("checkpoint.weights_differ", folder=folder.name, weight=key, adapter=name)
