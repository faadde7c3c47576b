"""What is fixed about a run: its recipe, the reasons for it and when it began, read once from its run.json."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

from pydantic import BaseModel

from trainer_core.config.recipe import Recipe
from trainer_core.errors import UserError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.planning import presets, run_time
from trainer_core.runs import run_folder
from trainer_core.runs.metadata import About, read_about
from trainer_core.schema import GROUPS, within
from trainer_core.system import untrusted_files
from ui.format import STAGE_WORDS, title, words


@dataclass(frozen=True)
class Facts:
    """What a run.json says, which never changes. made: what it was made with, name → version or device.

    notes: what of it is not known here, or why nothing is.
    """

    recipe: Recipe | None = None
    reasons: tuple[str, ...] = ()
    made: tuple[tuple[str, str], ...] = ()
    created: str = ""
    notes: tuple[str, ...] = ()

    @cached_property
    def settings(self) -> tuple[Group, ...]:
        """Every setting in groups; only for the run that is shown, since it takes a while for a thousand."""
        if self.recipe is None:
            return ()
        made = Group("Made with", tuple(Row(name, value) for name, value in self.made))
        return (*settings(self.recipe, standard(self.recipe)), made)


@cache  # as many as there are runs: Runs asks for all of them every second, and a bound below that would read all files anew
def facts_of(run_dir: Path) -> Facts:
    """The immutable half of a run; of a folder whose run.json cannot be read only when it began, and why."""
    try:
        file = run_folder.read_run(run_dir)
    except UserError as error:
        return Facts(created=run_folder.began(run_dir), notes=(str(error),))
    job = run_folder.train_job(file)
    made = (("Device", file.device), *file.versions.items())
    return Facts(job.recipe if job else None, file.reasons, made, file.created, file.notes)


@dataclass(frozen=True)
class Row:
    """One setting in words. preset: what the preset says where that is something else, or None."""

    label: str
    value: str
    preset: str | None = None


@dataclass(frozen=True)
class Group:
    """Settings that belong together."""

    title: str
    rows: tuple[Row, ...]


def standard(recipe: Recipe) -> Recipe:
    """The preset of a run's model, at the length that comes nearest to the run's."""
    lengths = lengths_of(recipe.model)
    if not lengths:
        return recipe
    return min(lengths, key=lambda one: sum(getattr(one, stage) != getattr(recipe, stage) for stage in ("sft", "dpo")))


@lru_cache(maxsize=64)
def lengths_of(model: str) -> tuple[Recipe, ...]:
    """A model's preset at every goal's length; nothing for a model without one."""
    known = presets.load().values()
    preset = next((one for one in known if model in (one.model, *one.also)), None)
    return tuple(goal.applied(preset.recipe()) for goal in presets.load_goals().values()) if preset else ()


def settings(recipe: Recipe, preset: Recipe) -> list[Group]:
    """Every setting of the stages that ran, each with what the preset says where that differs."""
    groups = [Group("Run", labelled(recipe, recipe)), Group("Data", labelled(recipe.data, recipe.data))]
    parts = {"lora": "LoRA"} | {stage: STAGE_WORDS[stage] for stage in recipe.method.stages}
    return groups + [
        Group(title, labelled(getattr(recipe, name), getattr(preset, name))) for name, title in parts.items()
    ]


def labelled(part: BaseModel, preset: BaseModel) -> tuple[Row, ...]:
    """Each field that is no part of its own and says something, here or in the preset."""
    rows = []
    for name, field in type(part).model_fields.items():
        value, usual = getattr(part, name), getattr(preset, name)
        if not isinstance(value, BaseModel) and (words(value) or value != usual):
            rows.append(Row(field.title or name, words(value), None if value == usual else words(usual)))
    return tuple(rows)


def spelled(part: BaseModel, group: str = "") -> dict[str, str]:
    """Every setting of a recipe in words, by a label that says which part it belongs to: "DPO learning rate", "LoRA rank"."""
    found: dict[str, str] = {}
    for name, field in type(part).model_fields.items():
        value, label = getattr(part, name), field.title or name
        if isinstance(value, BaseModel):
            found |= spelled(value, GROUPS.get(name, ""))
        else:
            found[within(group, label)] = words(value)
    return found


def about_of(run_dir: Path) -> About:
    """What was written about a run, read again when it changes."""
    stamp = about_stamp(run_dir)
    return about_at(run_dir, stamp) if stamp else About()


def about_stamp(run_dir: Path) -> int:
    """When a run was last written about; 0: never. Asked for every run every second, so it is one call of the system."""
    try:
        return os.stat(f"{run_dir}/about.json").st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=65_536)
def about_at(run_dir: Path, stamp: int) -> About:
    return read_about(run_dir)


def name_of(run_dir: Path) -> str:
    """What a run is called: the name it was given later, or with its recipe, or its model and method."""
    return about_of(run_dir).name or title(facts_of(run_dir).recipe, untrusted_files.printable_id(run_dir))


def past_runs(supervisor: Supervisor) -> Iterator[run_time.PastRun]:
    """Every run, newest first, as far as it tells how fast this machine is."""
    for view in supervisor.views:
        known = facts_of(supervisor.run_dir(view.id))
        yield run_time.PastRun(known.recipe, dict(known.made).get("Device", ""), view)
