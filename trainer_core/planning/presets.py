"""Starting settings as data: one TOML per card size, one per goal, and the catalogue of models of known size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, create_model

from trainer_core.config.recipe import METHODS, STAGE_SETTINGS, Lora, Precision, Recipe
from trainer_core.errors import ConfigError
from trainer_core.methods.base import Training
from trainer_core.models import resolve
from trainer_core.models.architecture import Architecture, parse_architecture
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import StrictModel, parse_values, read_toml
from trainer_core.system.project import PROJECT
from trainer_core.texts import Text

PRESETS_DIR = PROJECT / "presets"


class Preset(StrictModel):
    """Settings for a card with this much free memory. Missing values are the settings' own defaults.

    A file also has a section per method, by key, see PRESET_FILE.
    """

    name: str = Field(min_length=1)
    min_free_gib: float = Field(ge=0)
    """Least free memory in GiB, less the reserve; runs of this preset take at most 85 % of it."""
    model: str = Field(min_length=1)
    also: tuple[str, ...] = ()
    """Other models that suit the card."""
    precision: Precision = "auto"
    lora: Lora = Lora()

    def as_recipe(self) -> Recipe:
        """The preset as a recipe on the sample data."""
        stages = {key: self.stage_settings(key) for key in METHODS}
        return Recipe(model=self.model, precision=self.precision, lora=self.lora, **stages)

    def stage_settings(self, key: str) -> Training:
        """A method's settings on this card. Without a section: batch and length of a method with the same rows; batch 1 if it
        keeps the logits of all tokens."""
        if key in self.model_fields_set or (like := similar_method(key, self.model_fields_set)) is None:
            found: Training = getattr(self, key, STAGE_SETTINGS[key]())
            return found
        known: Training = getattr(self, like)
        batch = 1 if METHODS[key].full_logits else known.batch_size
        size = {"batch_size": batch, "accumulation": known.effective_batch // batch, "max_length": known.max_length}
        return STAGE_SETTINGS[key](**size)


def similar_method(key: str, known: Iterable[str]) -> str | None:
    """The first known method that reads the same rows."""
    return next((one for one in METHODS if one in known and METHODS[one].rows == METHODS[key].rows), None)


PRESET_SECTIONS: dict[str, Any] = {key: (settings, settings()) for key, settings in STAGE_SETTINGS.items()}
PRESET_FILE: type[Preset] = create_model("PresetFile", __base__=Preset, **PRESET_SECTIONS)
"""A preset with a section for each method."""


class GoalLengths(StrictModel):
    """Length of a stage; empty: as the recipe says."""

    epochs: float | None = Field(default=None, gt=0, le=100)
    max_steps: int | None = Field(default=None, ge=1)

    def changes(self) -> dict[str, float]:
        return self.model_dump(exclude_none=True)


class Goal(StrictModel):
    """How thorough a run should be. A file also has a section per method, by key, see GOAL_FILE."""

    title: str = Field(min_length=1)
    description: str = Field(min_length=1)

    def apply_goal(self, recipe: Recipe) -> Recipe:
        """The recipe with this goal's length. Removes a step limit unless the goal sets one."""
        lengths = {
            stage: recipe.stage_settings(stage).model_copy(
                update={"max_steps": None} | self.stage_lengths(stage).changes()
            )
            for stage in METHODS
        }
        return recipe.model_copy(update=lengths)

    def stage_lengths(self, key: str) -> GoalLengths:
        """Length of a method: from its section, or from that of a method that reads the same rows."""
        known = key if key in self.model_fields_set else similar_method(key, self.model_fields_set)
        found: GoalLengths = getattr(self, known) if known else GoalLengths()
        return found


GOAL_SECTIONS: dict[str, Any] = {key: (GoalLengths, GoalLengths()) for key in METHODS}
GOAL_FILE: type[Goal] = create_model("GoalFile", __base__=Goal, **GOAL_SECTIONS)
"""A goal with a section for each method."""


class CatalogueModel(StrictModel):
    """A model of the catalogue: `whole` is its 16-bit repository, `packed` the same weights in NF4."""

    title: str
    whole: str
    packed: str | None = None
    licence: str
    config: dict[str, Any]

    @property
    def architecture(self) -> Architecture:
        return parse_architecture(self.config)


class Catalogue(StrictModel):
    models: tuple[CatalogueModel, ...] = Field(min_length=1)

    def find_architecture(self, model: str) -> Architecture | None:
        """The shape of a model by either of its names; None if it is not in the catalogue."""
        for known in self.models:
            if model == known.packed:
                return replace(known.architecture, quantised=True)
            if model == known.whole:
                return known.architecture
        return None

    def smaller_model(self, model: str) -> str | None:
        """The largest model in the same format with at most three quarters of the weights; None if there is none, or `model`
        is not in the catalogue."""
        shape = self.find_architecture(model)
        packed = shape is not None and shape.quantised
        fewer = [
            one for one in self.models if shape and one.architecture.parameter_count <= 0.75 * shape.parameter_count
        ]
        best = max(fewer, key=lambda one: one.architecture.parameter_count, default=None)
        return (best.packed or best.whole if packed else best.whole) if best else None


@dataclass(frozen=True)
class PresetChoice:
    preset: Preset
    reason: Text


def load_presets(folder: Path = PRESETS_DIR) -> dict[str, Preset]:
    """All presets by file name, the smallest first.

    Raises:
        ConfigError: a file has an invalid key or value, or there is no file.
    """
    found = {path.stem: parse_values(PRESET_FILE, read_toml(path), path.name) for path in folder.glob("*.toml")}
    if not found:
        raise ConfigError("presets.none", folder=folder)
    return dict(sorted(found.items(), key=lambda item: item[1].min_free_gib))


def load_goals(folder: Path = PRESETS_DIR / "goals") -> dict[str, Goal]:
    """All goals by file name.

    Raises:
        ConfigError: see `parse_values`.
    """
    return {path.stem: parse_values(GOAL_FILE, read_toml(path), path.name) for path in sorted(folder.glob("*.toml"))}


def load_catalogue(path: Path = PRESETS_DIR / "models" / "catalogue.toml") -> Catalogue:
    """Models whose fit is known before any download.

    Raises:
        ConfigError: see `parse_values`.
    """
    return parse_values(Catalogue, read_toml(path), path.name)


def starter_recipe() -> Recipe:
    """The starter model on the sample data, with the processor's preset and the quick goal: the default of a fresh page."""
    return load_goals()["quick"].apply_goal(load_presets()["cpu"].as_recipe())


def choose_preset(presets: Mapping[str, Preset] | Iterable[Preset], free_gib: float | None) -> PresetChoice:
    """The largest preset whose minimum is free now. `free_gib`: a card's budget in GiB; None: there is no card."""
    listed = sorted(presets.values() if isinstance(presets, Mapping) else presets, key=lambda one: one.min_free_gib)
    smallest = listed[0]
    if free_gib is None:
        return PresetChoice(smallest, Text("presets.no_card"))
    best = [preset for preset in listed if preset.min_free_gib <= free_gib][-1]
    if best is smallest and len(listed) > 1:
        needed = {"preset": listed[1].name, "needed": listed[1].min_free_gib}
        return PresetChoice(smallest, Text("presets.too_little", free=free_gib, **needed))
    return PresetChoice(best, Text("presets.fits", free=free_gib, preset=best.name, needed=best.min_free_gib))


def architecture_for_model(model: str, workspace: Workspace, catalogue: Catalogue) -> Architecture | None:
    """A model's shape from the catalogue or from its config.json on this computer; None if unknown before the download.

    Raises:
        ModelError: its config.json is not that of a trainable language model.
    """
    if known := catalogue.find_architecture(model):
        return known
    config = resolve.find_local_file(model, workspace, "config.json")
    return parse_architecture(resolve.read_config(config.parent)) if config else None
