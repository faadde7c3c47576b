"""Layers that keep their activations instead of recomputing them, as many as memory allows (Unsloth's "auto").

Unsloth plans in the second training pass that it sees. It must start after the memory probe: otherwise it would plan on the
probe's passes, and the probe's last point would include kept layers, which later plans do not expect.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Notice, Stage
from trainer_core.texts import Text, stage_text


class SkipLayersCallback(TrainerCallback):
    """Lets Unsloth plan the kept layers for this training, and reports the plan. Added after the probe."""

    def __init__(self, trainer: Any, stage: Stage, emit: EventLog):
        self.trainer, self.stage, self.emit = trainer, stage, emit
        self.planner: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        from unsloth.models import _utils as unsloth_utils  # has the planner on CUDA only

        model = self.trainer.model
        unsloth_utils.skip_checkpointing(model, "auto")
        # sizes the plan for the whole batch; Unsloth does so itself only before `train`
        unsloth_utils._size_auto_checkpoint_skip_for_trainer(self.trainer)
        self.planner = getattr(model, "_unsloth_auto_skip", None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.planner is None or self.planner.kept is None:
            return
        kept, layers = len(self.planner.kept), len(self.planner.layers)
        self.planner = None
        text = Text("note.kept_layers" if kept else "note.no_kept_layers", kept=kept, layers=layers)
        self.emit(Notice(stage_text(self.stage, text)))
