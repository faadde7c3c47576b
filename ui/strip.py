"""The sample strip of Train in plain values: what the model answered at which step, and what is known of that step."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer_core import checkpoints
from trainer_core.events import Sampled, Stage
from trainer_core.run_view import RunView
from trainer_core.supervisor import Supervisor
from ui.words import STAGE_WORDS


def of(supervisor: Supervisor, view: RunView | None) -> dict[str, Any] | None:
    """The base's answers, and those at each step; None until there are any."""
    if view is None or not view.sampled:
        return None
    run_dir = supervisor.run_dir(view.id)
    base = next((one for one in view.sampled if one.step == 0), None)
    return {
        "prompts": [sample.prompt for sample in view.sampled[0].samples],
        "base": answers(base) if base else [],
        "points": [point(run_dir, view, one) for one in view.sampled if one.step],
    }


def point(run_dir: Path, view: RunView, said: Sampled) -> dict[str, Any]:
    """kept: is this step the stage's adapter? stored: are its weights there? best: was the held-out loss lowest here?"""
    best = view.best(said.stage)
    held = next((one.loss for one in view.evaluated if (one.stage, one.step) == (said.stage, said.step)), None)
    kept = said.stage in view.adapters and adapter_step(run_dir, said.stage) == said.step
    return {
        "stage": said.stage,
        "step": said.step,
        "where": f"{STAGE_WORDS[said.stage]} step {said.step}",
        "held": None if held is None else round(held, 3),
        "best": best is not None and best.step == said.step,
        "kept": kept,
        "stored": kept or checkpoints.weights(run_dir, said.stage, said.step) is not None,
        "answers": answers(said),
    }


def answers(said: Sampled) -> list[list[Any]]:
    return [[sample.answer, sample.tokens, sample.ended] for sample in said.samples]


def adapter_step(run_dir: Path, stage: Stage) -> int | None:
    """The step a stage's adapter is of, read again when it is replaced."""
    file = checkpoints.adapter_place(run_dir, stage) / checkpoints.MANIFEST
    return step_in(file, file.stat().st_mtime_ns) if file.exists() else None


@lru_cache(maxsize=1024)
def step_in(manifest: Path, stamp: int) -> int:
    return checkpoints.manifest_of(manifest.parent).step
