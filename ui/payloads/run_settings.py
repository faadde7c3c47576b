"""Constant facts of a run: its recipe, the reasons for it and its start, read once from its run.json."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

from pydantic import BaseModel

from trainer_core.config.jobs import ImportJob
from trainer_core.config.recipe import Recipe
from trainer_core.errors import UserError
from trainer_core.jobs.registry import RunRegistry
from trainer_core.planning import presets, run_time
from trainer_core.runs import run_folder
from trainer_core.runs.metadata import RunMetadata, read_metadata
from trainer_core.schema import StrictModel, prefix_label
from trainer_core.system import untrusted_files
from trainer_core.system.format import format_setting
from ui.format import STAGE_LABELS, page_text, run_title


@dataclass(frozen=True)
class RunSettings:
    """Contents of a run.json, which never change. versions: package → version.

    notes: unknown settings, or why the file is unreadable. import_name: of what was trained elsewhere; empty for a run.
    """

    recipe: Recipe | None = None
    reasons: tuple[str, ...] = ()
    device: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    created: str = ""
    notes: tuple[str, ...] = ()
    import_name: str = ""

    @cached_property
    def setting_groups(self) -> tuple[SettingGroup, ...]:
        """Every setting in groups; only for the run that is shown, because it is slow for a thousand runs."""
        if self.recipe is None:
            return ()
        made = ((page_text("sidebar.device"), self.device), *self.versions)
        rows = tuple(SettingRow(name, value) for name, value in made)
        groups = group_settings(self.recipe, nearest_preset(self.recipe))
        return (*groups, SettingGroup(page_text("run_facts.made_with"), rows))


@cache  # unbounded: Runs asks for every run each second, so a smaller cache would reread all files
def read_run_settings(run_dir: Path) -> RunSettings:
    """The constant facts of a run; for an unreadable run.json only the start and the reason."""
    try:
        file = run_folder.read_run(run_dir)
    except UserError as error:
        return RunSettings(created=run_folder.run_start_time(run_dir), notes=(str(error),))
    job = run_folder.train_job_of(file)
    notes, versions = tuple(map(str, file.notes)), tuple(file.versions.items())
    name = file.job.name if isinstance(file.job, ImportJob) else ""
    return RunSettings(job.recipe if job else None, file.reasons, file.device, versions, file.created, notes, name)


@dataclass(frozen=True)
class SettingRow:
    """One setting in words. preset: the preset's value if it differs, else None."""

    label: str
    value: str
    preset: str | None = None


@dataclass(frozen=True)
class SettingGroup:
    title: str
    rows: tuple[SettingRow, ...]


def nearest_preset(recipe: Recipe) -> Recipe:
    """The preset of a run's model, with the length closest to the run's."""
    lengths = preset_lengths(recipe.model)
    if not lengths:
        return recipe
    return min(
        lengths,
        key=lambda one: sum(
            one.stage_settings(stage) != recipe.stage_settings(stage) for stage in recipe.method.stages
        ),
    )


@lru_cache(maxsize=64)
def preset_lengths(model: str) -> tuple[Recipe, ...]:
    """A model's preset with every goal's length; empty for a model without one."""
    known = presets.load_presets().values()
    preset = next((one for one in known if model in (one.model, *one.also)), None)
    return tuple(goal.apply_goal(preset.as_recipe()) for goal in presets.load_goals().values()) if preset else ()


def group_settings(recipe: Recipe, preset: Recipe) -> list[SettingGroup]:
    """Every setting of the run's stages, with the preset's value if it differs."""
    groups = [
        SettingGroup(page_text("run_facts.run"), setting_rows(recipe, recipe)),
        SettingGroup(page_text("run_facts.data"), setting_rows(recipe.data, recipe.data)),
    ]
    parts = {"lora": page_text("settings.lora")} | {stage: STAGE_LABELS[stage] for stage in recipe.method.stages}
    return groups + [
        SettingGroup(title, setting_rows(getattr(recipe, name), getattr(preset, name))) for name, title in parts.items()
    ]


def setting_rows(part: BaseModel, preset: BaseModel) -> tuple[SettingRow, ...]:
    """Each simple field with a value, here or in the preset."""
    rows = []
    for name, field in type(part).model_fields.items():
        value, usual = getattr(part, name), getattr(preset, name)
        if not isinstance(value, BaseModel) and (format_setting(value) or value != usual):
            rows.append(
                SettingRow(
                    field.title or name, format_setting(value), None if value == usual else format_setting(usual)
                )
            )
    return tuple(rows)


def settings_by_label(part: StrictModel) -> dict[str, str]:
    """Every setting of a recipe in words, by a label that names its part: "DPO learning rate", "LoRA rank"."""
    found: dict[str, str] = {}
    for name, field in type(part).model_fields.items():
        value, label = getattr(part, name), field.title or name
        if isinstance(value, StrictModel):
            found |= settings_by_label(value)
        else:
            found[prefix_label(part.group_label(), label)] = format_setting(value)
    return found


def run_metadata(run_dir: Path) -> RunMetadata:
    """A run's name, note and pin, read again when they change."""
    stamp = metadata_stamp(run_dir)
    return load_metadata(run_dir, stamp) if stamp else RunMetadata()


def metadata_stamp(run_dir: Path) -> int:
    """When a run's metadata last changed; 0: never. One system call, because every run is asked every second."""
    try:
        return os.stat(f"{run_dir}/about.json").st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=65_536)
def load_metadata(run_dir: Path, stamp: int) -> RunMetadata:
    return read_metadata(run_dir)


def display_name(run_dir: Path) -> str:
    """A run's title: its later name, its recipe's name, or model and method; an import's name."""
    known = read_run_settings(run_dir)
    given = run_metadata(run_dir).name or known.import_name
    return given or run_title(known.recipe, untrusted_files.printable_id(run_dir))


def past_runs(registry: RunRegistry) -> Iterator[run_time.PastRun]:
    """All runs, newest first, with the facts for estimating speed."""
    for view in registry.run_states:
        known = read_run_settings(registry.run_dir(view.id))
        yield run_time.PastRun(known.recipe, known.device, view)
