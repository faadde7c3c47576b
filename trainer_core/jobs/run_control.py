"""Start, stop, pause, resume, extend, keep, trash."""

from __future__ import annotations

from trainer_core.config.recipe import Recipe
from trainer_core.methods.steps import count_steps
from trainer_core.runs.events import Event, Phase, RunEnded, SettingChanged, Stage
from trainer_core.runs.run_state import RunState


def extension_events(view: RunState, recipe: Recipe, stage: Stage, epochs: float) -> tuple[Event, ...]:
    """What a finished run's events say when its last stage is to go on."""
    assert view.prepared
    rows = view.prepared.chats if stage == "sft" else view.prepared.pairs
    settings = getattr(recipe, stage)
    before = view.steps_done(stage)
    more = count_steps(rows, settings.model_copy(update={"epochs": epochs, "max_steps": None}))
    why = f"{epochs:g} more {'pass' if epochs == 1 else 'passes'} over the data at your request; the learning rate rises again"
    return SettingChanged(f"{stage}.max_steps", str(before), str(before + more), why), RunEnded(
        Phase.PAUSED, "To go on"
    )
