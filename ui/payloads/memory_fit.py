"""Memory fit: the forecast of a recipe on this machine now, a badge for every model, and the sliders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import METHODS, STARTER, Recipe
from trainer_core.data import RowCounts
from trainer_core.errors import DeviceError, ModelError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.models.architecture import Architecture
from trainer_core.planning import measurements
from trainer_core.planning.forecast import Forecast, TargetMachine, make_forecast
from trainer_core.planning.memory_model import estimate_memory, fit_verdict, peak_estimate, setups_for_machine
from trainer_core.planning.presets import Catalogue, architecture_for_model
from trainer_core.runs.workspace import Workspace, disk_free
from trainer_core.system.format import format_planned_value
from trainer_core.texts import Text
from ui.format import page_text
from ui.payloads import run

FIT_MARKS = {
    "fits": ("✓", Text("page.memory_fit.fits")),
    "tight": ("◐", Text("page.memory_fit.tight")),
    "too big": ("✗", Text("page.memory_fit.too_big")),
}


@dataclass(frozen=True)
class MemorySlider:
    """One slider: its setting and its positions."""

    key: str
    label: Text
    notches: tuple[int, ...]

    @property
    def title(self) -> str:
        return str(self.label)


BATCHES = (1, 2, 4, 8, 16, 32)
LENGTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 16_384, 32_768)
SLIDERS = (
    MemorySlider("lora.rank", Text("page.memory_fit.lora_rank"), (4, 8, 16, 32, 64, 128, 256)),
    *(
        slider
        for stage, method in METHODS.items()
        for slider in (
            MemorySlider(f"{stage}.batch_size", Text("page.memory_fit.batch_size", method=method.title), BATCHES),
            MemorySlider(f"{stage}.max_length", Text("page.memory_fit.max_length", method=method.title), LENGTHS),
        )
    ),
)
SLIDER_SETTINGS = (*(slider.key for slider in SLIDERS), *(f"{stage}.accumulation" for stage in METHODS))
"""Every setting that a slider changes, directly or not."""


def target_machine(supervisor: Supervisor) -> TargetMachine:
    """The device of a run as it is now; the processor if a required card is missing."""
    try:
        card = supervisor.device.gpu is not None
    except DeviceError:  # shown in the sidebar; starting a run reports it again
        card = False
    own = tuple(run.own_pids(supervisor.registry))
    return TargetMachine.current_machine(supervisor.device.machine, own, disk_free(supervisor.workspace), use_card=card)


def model_architecture(workspace: Workspace, catalogue: Catalogue, recipe: Recipe) -> Architecture | None:
    """The model's shape, if known and trainable."""
    try:
        return architecture_for_model(recipe.model, workspace, catalogue)
    except ModelError:
        return None


def build_forecast(supervisor: Supervisor, catalogue: Catalogue, recipe: Recipe, found: RowCounts) -> Forecast | str:
    """The forecast; a sentence if the model's size is unknown."""
    try:
        shape = architecture_for_model(recipe.model, supervisor.workspace, catalogue)
    except ModelError as error:
        return str(error)
    if shape is None:
        return page_text("memory_fit.unknown_size", model=recipe.model)
    return make_forecast(
        recipe, shape, target_machine(supervisor), found, measurements.load_measurements(supervisor.workspace)
    )


def mark_user_edits(plan: Forecast, preset: Recipe) -> Forecast:
    """A forecast in which only values that differ from the preset count as edits."""
    values = (
        replace(one, chosen="", costs=0, why=page_text("memory_fit.from_preset"))
        if one.chosen and one.value == format_planned_value(setting_value(preset, one.key))
        else one
        for one in plan.values
    )
    return replace(plan, values=tuple(values))


def setting_value(recipe: Recipe, key: str) -> Any:
    return reduce(getattr, key.split("."), recipe)


def fit_level(supervisor: Supervisor, catalogue: Catalogue, recipe: Recipe) -> str:
    """How a model fits with rows of full length: a key of MARKS; empty for a model of unknown size."""
    shape = catalogue.find_architecture(recipe.model)
    if shape is None:
        return ""
    peak = peak_estimate(
        estimate_memory(one) for one in setups_for_machine(recipe, shape, supervisor.device.machine).values()
    )
    return fit_verdict(peak, target_machine(supervisor).room.free).level


def move_slider(recipe: Recipe, key: str, value: int) -> Recipe:
    """The recipe with a slider moved. A new batch size keeps the effective batch as close as whole numbers allow."""
    part, _, name = key.partition(".")
    if key not in SLIDER_SETTINGS or name == "accumulation":
        raise ValueError(f"no slider moves {key}")
    changes = {key: value}
    if name == "batch_size":
        changes[f"{part}.accumulation"] = max(1, round(getattr(recipe, part).effective_batch / value))
    return with_changes(recipe, changes)


def slider_values(recipe: Recipe) -> dict[str, int]:
    """Positions of this method's sliders."""
    shown = ("lora", *recipe.method.stages)
    return {key: setting_value(recipe, key) for key in SLIDER_SETTINGS if key.partition(".")[0] in shown}


def suggest_fix(
    supervisor: Supervisor, catalogue: Catalogue, plan: Forecast, recipe: Recipe, found: RowCounts
) -> tuple[str, str]:
    """A smaller model and the button's text; without a model: the recommended settings."""
    if plan.suggested and plan.suggested != recipe:
        return "", page_text("memory_fit.use_recommended")
    if plan.suggested or recipe.model == STARTER:
        return "", ""
    name = smaller_model(supervisor, catalogue, recipe, found)
    if name == STARTER:
        return name, page_text("memory_fit.use_starter")
    return name, page_text("memory_fit.use_model", model=name)


def smaller_model(supervisor: Supervisor, catalogue: Catalogue, recipe: Recipe, found: RowCounts) -> str:
    """The largest smaller model with settings that fit; the starter if there is none."""
    name = catalogue.smaller_model(recipe.model)
    while name:
        forecast = build_forecast(supervisor, catalogue, recipe.model_copy(update={"model": name}), found)
        if isinstance(forecast, Forecast) and forecast.suggested:
            return name
        name = catalogue.smaller_model(name)
    return STARTER
