"""What is fixed about a run: its recipe, the reasons for it and when it began, read once from its run.json."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel

from trainer_core import runs
from trainer_core.config import Recipe
from trainer_core.errors import UserError
from ui.words import STAGE_WORDS, words


@dataclass(frozen=True)
class Facts:
    """What a run.json says, which never changes."""

    recipe: Recipe | None = None
    reasons: tuple[str, ...] = ()
    settings: tuple[Group, ...] = ()
    created: str = ""


@lru_cache(maxsize=4096)
def facts_of(run_dir: Path) -> Facts:
    """The immutable half of a run; a folder whose run.json cannot be read has none."""
    try:
        file = runs.read_run(run_dir)
    except UserError:
        return Facts()
    job = runs.train_job(file)
    if job is None:
        return Facts(created=file.created)
    versions = Group("Made with", (("Device", file.device), *file.versions.items()))
    return Facts(job.recipe, file.reasons, (*settings(job.recipe), versions), file.created)


@dataclass(frozen=True)
class Group:
    """Settings that belong together: a heading, and a label and a value for each."""

    title: str
    rows: tuple[tuple[str, str], ...]


def settings(recipe: Recipe) -> list[Group]:
    """Every setting of the stages that ran."""
    parts: list[tuple[str, BaseModel]] = [("Run", recipe), ("Data", recipe.data), ("LoRA", recipe.lora)]
    parts += [(STAGE_WORDS[stage], getattr(recipe, stage)) for stage in recipe.method.stages]
    return [Group(title, labelled(part)) for title, part in parts]


def labelled(part: BaseModel) -> tuple[tuple[str, str], ...]:
    """Label and value of each field that is neither empty nor a part of its own."""
    values = [(field.title or name, getattr(part, name)) for name, field in type(part).model_fields.items()]
    return tuple((label, words(value)) for label, value in values if not isinstance(value, BaseModel) and words(value))
