"""The Runs tab in plain values: every run as a row, the overlay of chosen runs with their differences, and the trash."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import takewhile
from math import isfinite
from pathlib import Path
from typing import Any

from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.jobs.registry import RunRegistry
from trainer_core.runs import run_folder
from trainer_core.runs.metadata import RunMetadata
from trainer_core.runs.run_state import RunState
from trainer_core.runs.trash import dependents, folder_size
from trainer_core.runs.workspace import Workspace
from trainer_core.system import project, untrusted_files
from trainer_core.system.format import format_file_size
from ui.format import STAGE_LABELS, join_names, model_name, page_text
from ui.payloads import run
from ui.payloads.run_settings import display_name, metadata_stamp, read_run_settings, run_metadata, settings_by_label

SPARKLINE_POINTS = 24
"""Points of a sparkline."""
SPARKLINE_LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz"
MAX_OVERLAY = 6
"""Runs in the overlay; more would be indistinguishable."""


class CachedPart(list[Any]):
    """A long part of the page that stays the same object while unchanged, so that its checksum is computed once."""

    @cached_property
    def checksum(self) -> int:
        return part_checksum(list(self))


def part_checksum(part: Any) -> int:
    """Checksum that identifies the version of a part on the page."""
    return part.checksum if isinstance(part, CachedPart) else zlib.crc32(json.dumps(part, default=str).encode())


@dataclass
class RunRows:
    """Every run as a row. A row is cached until its run or its metadata changes."""

    registry: RunRegistry
    cache: dict[str, tuple[RunState, RunMetadata, dict[str, Any]]] = field(default_factory=dict)
    known: list[tuple[str | int, int]] = field(default_factory=list)
    """Versions of the rows of finished runs: their states, which runs there are, and when their metadata changed."""
    needed: dict[str, str] = field(default_factory=dict)
    over: CachedPart = field(default_factory=CachedPart)

    def __call__(self) -> tuple[CachedPart, list[dict[str, Any]]]:
        """Finished runs, and active ones, which change every second; in each, pinned ones first, then the newest."""
        views = self.registry.run_states
        folders = {view.id: self.registry.run_dir(view.id) for view in views}
        known = [
            (view.id if view.phase.is_active else id(view), metadata_stamp(folders[view.id])) for view in views
        ]  # `cache` holds the states, so that no new one reuses the id of an old one
        if known != self.known:
            self.needed = dependents_by_run(folders)
            self.over = CachedPart(self.build_rows(view for view in views if not view.phase.is_active))
            self.known = known
        return self.over, self.build_rows(view for view in views if view.phase.is_active)

    def build_rows(self, views: Iterable[RunState]) -> list[dict[str, Any]]:
        rows = [self.row_for(view) | {"needed": self.needed.get(view.id, "")} for view in views]
        return sorted(rows, key=lambda row: not row["pinned"])

    def row_for(self, view: RunState) -> dict[str, Any]:
        about = run_metadata(self.registry.run_dir(view.id))
        known = self.cache.get(view.id)
        if known is None or known[0] is not view or known[1] != about:
            known = self.cache[view.id] = (view, about, self.safe_row(view, about))
        return known[2]

    def safe_row(self, view: RunState, about: RunMetadata) -> dict[str, Any]:
        """The row of a run; if it cannot be shown, the reason, so that other runs still appear and this one can be deleted."""
        try:
            return self.build_row(view, about) | {
                "problem": view.unreadable or " ".join(read_run_settings(self.registry.run_dir(view.id)).notes)
            }
        except Exception as error:  # one bad folder must not hide the others
            reason = untrusted_files.as_printable(str(error))[:200]
            return problem_row(view, page_text("run_list.not_shown", kind=type(error).__name__, reason=reason))

    def build_row(self, view: RunState, about: RunMetadata) -> dict[str, Any]:
        run_dir = self.registry.run_dir(view.id)
        recipe = read_run_settings(run_dir).recipe
        shown = {**run.run_summary(run_dir, view), **run.run_numbers(run_dir, view)}
        return {
            **shown,
            "note": about.note,
            "pinned": about.pinned,
            "sparkline": sparkline(view),
            "size": "" if view.phase.is_active else format_file_size(folder_size(run_dir)),
            "line": adapter_lineage(recipe, view),
            "active": view.phase.is_active,
            "command": repeat_command(run_dir),
        }


def problem_row(view: RunState, problem: str) -> dict[str, Any]:
    """The row of a run of which only the folder is known."""
    words = ("kind", "when", "model", "data", "steps", "loss", "accuracy", "note", "sparkline", "size", "command")
    unknown = {"line": [], "pinned": False, "comparable": False, "active": view.phase.is_active, "error": problem}
    badge = page_text("run.unreadable")
    state = {"id": view.id, "name": view.id, "badge": badge, "tone": "bad", "problem": problem}
    return {**dict.fromkeys(words, ""), **unknown, **state}


def sparkline(view: RunState) -> str:
    """Loss of the last stage: one character per mean, 0 is the lowest; ends before the first non-finite value."""
    of_stage = (point.loss for point in view.points if view.last_step and point.stage == view.last_step.stage)
    losses = list(takewhile(isfinite, of_stage))
    count = min(SPARKLINE_POINTS, len(losses))
    if count < 2:
        return ""
    parts = [losses[at * len(losses) // count : (at + 1) * len(losses) // count] for at in range(count)]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    if not low < high < low + 1e300:  # flat, or beyond the range of a float
        return ""
    return "".join(SPARKLINE_LEVELS[round((mean - low) / (high - low) * (len(SPARKLINE_LEVELS) - 1))] for mean in means)


def adapter_lineage(recipe: Recipe | None, view: RunState) -> list[str]:
    """Base → SFT → DPO: the chain of adapters."""
    return [model_name(recipe.model), *(STAGE_LABELS[stage] for stage in view.adapters)] if recipe else []


def dependents_by_run(folders: dict[str, Path]) -> dict[str, str]:
    """Run → the names of the runs that depend on it, if any."""
    recipes = {run_id: read_run_settings(folder).recipe for run_id, folder in folders.items()}
    found = dependents({run_id: recipe for run_id, recipe in recipes.items() if recipe})
    return {
        run_id: join_names([display_name(folders[one]) for one in sorted(those)]) for run_id, those in found.items()
    }


def trash_payload(workspace: Workspace) -> dict[str, Any]:
    trashed = run_folder.list_runs(workspace.trash)
    return {
        "runs": [{"id": untrusted_files.printable_id(folder), "name": display_name(folder)} for folder in trashed],
        "size": describe_trash_size(tuple(trashed)),
    }


@lru_cache(maxsize=4)
def describe_trash_size(trashed: tuple[Path, ...]) -> str:
    return format_file_size(sum(map(folder_size, trashed)))


def overlay_payload(registry: RunRegistry, chosen: Sequence[str], curves: Callable[[RunState], Any]) -> dict[str, Any]:
    """The curves of the chosen runs, and the settings that differ.

    Args:
        curves: a state's curves by name, as the page draws them.
    """
    found = [view for view in registry.run_states if view.id in chosen[:MAX_OVERLAY]]
    recipes = [read_run_settings(registry.run_dir(view.id)).recipe for view in found]
    known = [recipe for recipe in recipes if recipe]
    drawn = [{"id": view.id, "name": display_name(registry.run_dir(view.id)), "curves": curves(view)} for view in found]
    titles = {name: title for name, title in curve_titles().items() if any(name in one["curves"] for one in drawn)}
    return {
        "runs": drawn,
        "titles": titles,
        "differences": differing_settings(known) if len(known) == len(found) > 1 else [],
    }


def curve_titles() -> dict[str, str]:
    return {
        f"{stage}.{chart.keys[0]}": chart.title
        for stage, method in METHODS.items()
        for chart in method.charts
        if len(chart.keys) == 1
    }


def differing_settings(recipes: list[Recipe]) -> list[tuple[str, list[str]]]:
    """Each setting that differs between recipes, with its values."""
    labelled = [settings_by_label(recipe.model_copy(update={"name": ""})) for recipe in recipes]
    return [
        (label, [one[label] for one in labelled]) for label in labelled[0] if len({one[label] for one in labelled}) > 1
    ]


def repeat_command(run_dir: Path) -> str:
    """The command that repeats a run, from the program's folder."""
    file = run_dir / "run.json"
    text = untrusted_files.as_printable(
        str(file.relative_to(project.PROJECT) if file.is_relative_to(project.PROJECT) else file)
    )
    return "python launch.py train " + (f'"{text}"' if " " in text else text)
