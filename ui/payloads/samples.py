"""The sample answers of Train in plain values: the model's answers at each step, and whether that step can be used."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer_core.config.recipe import METHODS
from trainer_core.errors import ModelError
from trainer_core.jobs.registry import RunRegistry
from trainer_core.runs import checkpoints
from trainer_core.runs.events import SampleAnswer, Stage
from trainer_core.runs.run_state import RunState
from ui.format import STAGE_LABELS, page_text


def samples_payload(registry: RunRegistry, view: RunState | None) -> dict[str, Any] | None:
    """The base's answers, and each step with answers or, after the run, with a usable checkpoint; None if there are none."""
    if view is None:
        return None
    run_dir = registry.run_dir(view.id)
    points = [point for stage in METHODS for point in sample_points(run_dir, view, stage)]
    if not points and not view.sampled:
        return None
    base = next((one.samples for one in view.sampled if one.step == 0), ())
    return {
        "prompts": [sample.prompt for sample in view.sampled[0].samples] if view.sampled else [],
        "base": answer_rows(base),
        "points": points,
    }


def sample_points(run_dir: Path, view: RunState, stage: Stage) -> list[dict[str, Any]]:
    """kept: is this step the stage's adapter? stored: are its weights on disk? best: is its held-out loss the lowest?"""
    best, held = view.best_evaluation(stage), {one.step: one.loss for one in view.evaluated if one.stage == stage}
    answers = {one.step: one.samples for one in view.sampled if one.stage == stage and one.step}
    kept = current_adapter_step(run_dir, stage) if stage in view.adapters else None
    stored = {*checkpoints.adapters_by_step(run_dir, stage), *([kept] if kept else [])}
    shown = answers if view.phase.is_active else {*answers, *stored}
    return [
        {
            "stage": stage,
            "step": step,
            "where": page_text("run.step", stage=STAGE_LABELS[stage], step=step),
            "held": round(held[step], 3) if step in held else None,
            "best": best is not None and best.step == step,
            "kept": step == kept,
            "stored": step in stored,
            "answers": answer_rows(answers.get(step, ())),
        }
        for step in sorted(shown)
    ]


def answer_rows(samples: Sequence[SampleAnswer]) -> list[list[Any]]:
    return [[sample.answer, sample.tokens, sample.ended] for sample in samples]


def current_adapter_step(run_dir: Path, stage: Stage) -> int | None:
    """Step of a stage's adapter, read again when it is replaced; None if its manifest is missing or damaged."""
    file = checkpoints.adapter_dir(run_dir, stage) / checkpoints.MANIFEST
    try:
        return manifest_step(file, file.lstat().st_mtime_ns)
    except (OSError, ModelError):
        return None


@lru_cache(maxsize=1024)
def manifest_step(manifest: Path, stamp: int) -> int:
    return checkpoints.read_manifest(manifest.parent).step
