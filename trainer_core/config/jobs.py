"""The jobs of a worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from trainer_core.config.export_targets import OFFERED_TARGETS
from trainer_core.config.recipe import Precision, Recipe, Sampling
from trainer_core.errors import ConfigError
from trainer_core.schema import StrictModel
from trainer_core.texts import Text


class TrainJob(StrictModel):
    kind: Literal["train"] = "train"
    recipe: Recipe


class Lane(StrictModel):
    """One column of a comparison: the base alone, with an adapter, with a blend of two, or with a system prompt.

    With `other`, the lane changes the base by strength × ((1 − share) × its adapter + share × the other one).
    """

    name: str = Field(min_length=1, max_length=64)
    adapter: str | None = None
    """The adapter's folder; None: the base alone. Several lanes can name one folder; it is loaded once."""
    strength: float = Field(default=1.0, ge=0, le=1.5)
    """Weight of the adapter: 0 is the base, 1 the adapter as trained."""
    other: str | None = None
    """The folder of a second adapter, blended in."""
    share: float = Field(default=0.0, ge=0, le=1)
    """The second adapter's share of the blend."""
    system: str = Field(default="", max_length=20_000)
    """A system prompt for this lane alone; it replaces the conversation's own."""

    @model_validator(mode="after")
    def _check_blend(self) -> Lane:
        if self.other and not self.adapter:
            raise ValueError(Text("lane.no_adapter", name=self.name, other=self.other))
        return self

    @property
    def adapter_folders(self) -> tuple[str, ...]:
        return tuple(folder for folder in (self.adapter, self.other) if folder)

    @property
    def adapter_shares(self) -> dict[str, float]:
        """Adapter folder → weight."""
        found = dict.fromkeys(self.adapter_folders, 0.0)
        if self.adapter:
            found[self.adapter] += self.strength * (1 - self.share if self.other else 1)
        if self.other:
            found[self.other] += self.strength * self.share
        return found


class CompareJob(StrictModel):
    kind: Literal["compare"] = "compare"
    model: str
    precision: Precision = "auto"
    lanes: tuple[Lane, ...] = Field(min_length=1, max_length=6)


class ExportJob(StrictModel):
    """Take one lane out, in every form of `targets`, as the folder `name` in the folder `out`."""

    kind: Literal["export"] = "export"
    model: str
    precision: Precision = "auto"
    lane: Lane
    targets: tuple[str, ...] = Field(min_length=1, max_length=len(OFFERED_TARGETS))
    out: str
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    sampling: Sampling = Sampling()
    """What the lane was compared with; a program that takes settings is given these."""
    held_out: str = ""
    """A file of pairs, to measure how much of the trained preference a form keeps."""
    run: str = ""
    """The run of the lane."""
    repo: str = Field(default="", max_length=96, pattern=r"^$|^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    """The Hub's repository, as owner/name."""

    @property
    def folder(self) -> Path:
        return Path(self.out) / self.name

    @field_validator("targets")
    @classmethod
    def _check_targets(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for target in targets:
            if target not in OFFERED_TARGETS:
                raise ValueError(Text("export.unknown_target", target=target, known=", ".join(OFFERED_TARGETS)))
        return tuple(dict.fromkeys(targets))

    @model_validator(mode="after")
    def _check_repo(self) -> ExportJob:
        if "hub" in self.targets and not self.repo:
            raise ValueError(Text("hub_upload.no_repo"))
        if "hub" in self.targets and len(self.targets) == 1:
            raise ValueError(Text("hub_upload.no_form"))
        return self


class ImportJob(StrictModel):
    """Copy an adapter or a whole model that was trained elsewhere into the job's own folder, checked."""

    kind: Literal["import"] = "import"
    source: str = Field(min_length=1)
    """A folder, or a Hub id."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}$")
    base: str = ""
    """The base of an adapter; empty: the one that the adapter names."""


def require_free_name(folder: Path) -> None:
    """Nothing is ever overwritten by an export.

    Raises:
        ConfigError: something of that name exists.
    """
    if os.path.lexists(folder):
        raise ConfigError("export.name_taken", folder=str(folder))


Job = Annotated[TrainJob | CompareJob | ExportJob | ImportJob, Field(discriminator="kind")]


@dataclass(frozen=True)
class JobKind:
    """One kind of job.

    Attributes:
        run: "module:function". A worker imports it and calls it with the job, the run folder, the event log and the stop
            requests; it returns the final phase of the run.
        is_detached: the worker outlives the app and restarts after running out of memory. Any other ends with its stdin.
        needs_device: it waits for the graphics card or, without one, for the processor.
    """

    model: type[TrainJob | CompareJob | ExportJob | ImportJob]
    run: str
    is_detached: bool
    needs_device: bool = True


JOB_KINDS: Mapping[str, JobKind] = {
    "train": JobKind(TrainJob, "trainer_core.training:train", is_detached=True),
    "compare": JobKind(CompareJob, "trainer_core.inference.server:serve", is_detached=False),
    "export": JobKind(ExportJob, "trainer_core.export.pipeline:export_lane", is_detached=True, needs_device=False),
    "import": JobKind(ImportJob, "trainer_core.inference.importing:import_model", is_detached=True, needs_device=False),
}
