"""What a worker is asked to do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from trainer_core.config.recipe import Precision, Recipe
from trainer_core.schema import StrictModel
from trainer_core.texts import Text


class TrainJob(StrictModel):
    kind: Literal["train"] = "train"
    recipe: Recipe


class Lane(StrictModel):
    """One column of a comparison: the base alone or with an adapter, a blend of two, or with a system prompt.

    With `other` the lane's change to the base is strength × ((1 − share) × its adapter + share × the other one).
    """

    name: str = Field(min_length=1, max_length=64)
    adapter: str | None = None
    """The adapter's folder; None: the base alone. Several lanes may name one folder; it is loaded once."""
    strength: float = Field(default=1.0, ge=0, le=1.5)
    """How much of the adapter: 0 is the base, 1 the adapter as trained."""
    other: str | None = None
    """The folder of a second adapter, blended in."""
    share: float = Field(default=0.0, ge=0, le=1)
    """The second adapter's share of the blend."""
    system: str = Field(default="", max_length=20_000)
    """A system prompt for this lane alone; it takes the place of the conversation's own."""

    @model_validator(mode="after")
    def _check_blend(self) -> Lane:
        if self.other and not self.adapter:
            raise ValueError(Text("lane.no_adapter", name=self.name, other=self.other))
        return self

    @property
    def adapter_folders(self) -> tuple[str, ...]:
        """Its adapters' folders."""
        return tuple(folder for folder in (self.adapter, self.other) if folder)

    @property
    def adapter_shares(self) -> dict[str, float]:
        """Adapter folder → how much of it."""
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


Job = Annotated[TrainJob | CompareJob, Field(discriminator="kind")]


JOB_ADAPTER: TypeAdapter[TrainJob | CompareJob] = TypeAdapter(Job)
