"""Choices on Start: the models for this machine, the goals, and the settings for a model, each with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trainer_core.config.recipe import METHODS, STARTER, Recipe
from trainer_core.errors import DeviceError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.base import Training
from trainer_core.methods.steps import count_steps
from trainer_core.planning import presets
from trainer_core.runs.events import Stage
from trainer_core.system.format import GIB
from ui.format import model_name, page_text
from ui.payloads import memory_fit, run

StageRows = Mapping[Stage, int]
"""Stage → the number of its training rows."""
GOALS = ("quick", "balanced", "thorough")
QUICK, BALANCED, THOROUGH = GOALS


def free_gib(supervisor: Supervisor) -> float | None:
    """A new worker's memory budget on the card, in GiB; None: runs use the processor."""
    try:
        card = supervisor.device.gpu
    except DeviceError:  # shown in the sidebar; starting a run reports it again
        return None
    return card.budget_bytes(run.own_pids(supervisor.registry)) / GIB if card else None


def steps_per_epoch(rows: int, settings: Training) -> int:
    return count_steps(rows, settings.model_copy(update={"epochs": 1.0, "max_steps": None}))


class ModelChoices:
    """Presets and goals for the page. `free`: returns a card's present budget in GiB (None: no card)."""

    def __init__(self, free: Callable[[], float | None]):
        self.presets, self.catalogue = presets.load_presets(), presets.load_catalogue()
        self.goals, self.free = presets.load_goals(), free

    @property
    def preset_choice(self) -> presets.PresetChoice:
        """The preset for this moment: a card may fail or come back."""
        return presets.choose_preset(self.presets, self.free())

    @property
    def models(self) -> list[tuple[str, str]]:
        """The starter model, then the recommended one if there is a card, then the rest of the catalogue: title and name."""
        titles = {known.whole: known.title for known in self.catalogue.models}
        titles |= {
            known.packed: page_text("models.packed", model=known.title)
            for known in self.catalogue.models
            if known.packed
        }
        card = self.preset_choice.preset
        suited = [name for name in (card.model, *card.also) if name != STARTER]
        rest = [known.packed or known.whole for known in self.catalogue.models] if suited else []
        others = [name for name in dict.fromkeys((*suited, *rest)) if name != STARTER]
        return [(page_text("models.starter"), STARTER), *((titles.get(name, name), name) for name in others)]

    def model_labels(self, supervisor: Supervisor) -> list[tuple[str, str]]:
        """The models with how each fits the free memory: the starter, the recommended one, then the largest first; those that do
        not fit come last."""
        best = self.preset_choice.preset.model
        levels = {
            name: memory_fit.fit_level(supervisor, self.catalogue, self.recipe_for(name, BALANCED))
            for _, name in self.models
        }

        def order(model: tuple[str, str]) -> tuple[bool, bool, bool, int]:
            _, name = model
            shape = self.catalogue.find_architecture(name)
            return name != STARTER, name != best, levels[name] == "too big", -shape.parameter_count if shape else 0

        def label(title: str, name: str) -> str:
            advice = page_text("models.recommended") if name == best != STARTER else ""
            fit = " ".join(map(str, memory_fit.FIT_MARKS.get(levels[name], ())))
            return " · ".join(filter(None, (title, fit, advice)))

        return [(label(title, name), name) for title, name in sorted(self.models, key=order)]

    @property
    def goal_choices(self) -> list[tuple[str, str]]:
        return [(self.goals[name].title, name) for name in GOALS]

    def preset_for(self, model: str) -> presets.Preset:
        """The model's own preset, else the card's."""
        return (
            next((preset for preset in self.presets.values() if preset.model == model), None)
            or self.preset_choice.preset
        )

    def recipe_for(self, model: str, goal: str) -> Recipe:
        """A whole recipe: the model's preset with a goal's length, on the sample data."""
        return self.goals[goal].apply_goal(self.preset_for(model).as_recipe()).model_copy(update={"model": model})

    def with_model_settings(self, recipe: Recipe, goal: str) -> Recipe:
        """The same recipe with the model's preset settings."""
        base = self.recipe_for(recipe.model, goal)
        return recipe.model_copy(update={part: getattr(base, part) for part in ("precision", "lora", *METHODS)})

    def with_goal_length(self, recipe: Recipe, goal: str, rows: StageRows | None = None) -> Recipe:
        """The same recipe with a goal's length; every other setting stays.

        Args:
            rows: of each stage. If a goal's fixed steps would exceed one epoch in total, each stage gets at most one epoch:
                a quick look must not repeat few rows again and again, nor be the longest goal.
        """
        base = self.recipe_for(recipe.model, goal)
        lengths = {stage: base.stage_settings(stage).model_dump(include={"epochs", "max_steps"}) for stage in METHODS}
        longer = recipe.model_copy(
            update={stage: recipe.stage_settings(stage).model_copy(update=length) for stage, length in lengths.items()}
        )
        fixed = {stage: steps for stage in recipe.method.stages if (steps := longer.stage_settings(stage).max_steps)}
        passes = {stage: steps_per_epoch(rows[stage], longer.stage_settings(stage)) for stage in fixed} if rows else {}
        if not rows or sum(fixed.values()) <= sum(passes.values()):
            return longer
        shorter = {stage: {"max_steps": min(steps, passes[stage])} for stage, steps in fixed.items()}
        return longer.model_copy(
            update={stage: longer.stage_settings(stage).model_copy(update=length) for stage, length in shorter.items()}
        )

    def matching_goal(self, recipe: Recipe, rows: StageRows | None = None) -> str | None:
        """The goal with this recipe's length, for these rows or for any; None if the length was set by hand."""
        ours, lengths = recipe.trained_part(), ((name, few) for few in (rows, None) for name in GOALS)
        return next(
            (name for name, few in lengths if self.with_goal_length(recipe, name, few).trained_part() == ours), None
        )

    def explain(self, recipe: Recipe, rows: StageRows | None = None) -> list[str]:
        """The reasons for a recipe: its settings, then its length."""
        goal = self.matching_goal(recipe, rows)
        length = f"{self.goals[goal].title}: {self.goals[goal].description}" if goal else page_text("models.own_length")
        return [self.settings_reason(recipe), length]

    def settings_reason(self, recipe: Recipe) -> str:
        used, preset = self.with_goal_length(recipe, BALANCED), self.with_model_settings(recipe, BALANCED)
        if used.trained_part() != preset.trained_part():
            return page_text("models.own_settings")
        suited, choice = self.preset_for(recipe.model), self.preset_choice
        if suited == choice.preset:
            return str(choice.reason)
        return page_text("models.settings_for", model=model_name(suited.model))
