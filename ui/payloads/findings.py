"""The doctor's findings on the page, and the recipe of a suggestion."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Recipe
from trainer_core.diagnosis import doctor
from trainer_core.diagnosis.finding import Finding
from trainer_core.errors import ConfigError
from trainer_core.jobs.registry import RunRegistry
from trainer_core.runs.compare_events import LaneScore
from trainer_core.runs.effective_recipe import effective_recipe
from trainer_core.runs.events import Suggestion
from trainer_core.runs.run_state import RunState
from trainer_core.schema import StrictModel
from ui.format import STAGE_LABELS, page_text
from ui.payloads.run_settings import read_run_settings, settings_by_label

CHECKS_PER_STAGE = 100
"""Diagnoses of a stage while it runs: at every hundredth of its steps, so that the card does not change constantly."""


def findings_payload(registry: RunRegistry, view: RunState | None) -> list[dict[str, Any]]:
    """All findings on a run, the most important first."""
    return [finding_payload(finding) for finding in run_findings(registry, view)] if view else []


def finding_payload(finding: Finding) -> dict[str, Any]:
    return {
        "key": finding.key,
        "where": page_text("run.step", stage=STAGE_LABELS[finding.stage], step=finding.step),
        "title": str(finding.title),
        "says": str(finding.says),
        "evidence": list(map(str, finding.evidence)),
        "source": str(finding.source),
        "offer": str(finding.offer.text),
    }


def run_findings(registry: RunRegistry, view: RunState) -> tuple[Finding, ...]:
    recipe = read_run_settings(registry.run_dir(view.id)).recipe
    if recipe is None or not view.last_step:
        return ()
    lately = len(view.points) % max(1, view.last_step.total // CHECKS_PER_STAGE) if view.phase.is_active else 0
    steady = replace(view, points=view.points[: len(view.points) - lately])
    return diagnose_once(DiagnosisKey(steady, recipe, lane_scores(registry, view)))


class DiagnosisKey:
    """The doctor's input. Two keys are equal while nothing relevant was added."""

    def __init__(self, view: RunState, recipe: Recipe, scores: tuple[LaneScore, ...]):
        self.view, self.recipe, self.scores = view, recipe, scores
        self.key = (view.id, view.points[-1:], len(view.evaluated), len(view.sampled), scores)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DiagnosisKey) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@lru_cache(maxsize=3)  # each holds all points of its run
def diagnose_once(seen: DiagnosisKey) -> tuple[Finding, ...]:
    """Every open page asks once a second; cached until the next step."""
    return doctor.diagnose(seen.view, seen.recipe, seen.scores)


def lane_scores(registry: RunRegistry, view: RunState) -> tuple[LaneScore, ...]:
    """The scores of the run's lanes, if Compare has loaded and scored them."""
    current = registry.comparison
    folder = str(registry.run_dir(view.id))
    ours = current and any((lane.adapter or "").startswith(folder) for lane in current.job.lanes)
    return current.state.scores if current and ours else ()


def find_suggestion(registry: RunRegistry, run_id: str, key: str) -> Suggestion:
    """The suggestion of a finding, or of a failed run, by its key.

    Raises:
        ConfigError: there is no such suggestion any more.
    """
    view = registry.run_state(run_id)
    known = {f"offer.{at}": offer for at, offer in enumerate(view.offers)}
    known |= {finding.key: finding.offer for finding in run_findings(registry, view)}
    if key not in known:
        raise ConfigError("proposals.outdated")
    return known[key]


def apply_suggestion(registry: RunRegistry, run_id: str, key: str) -> tuple[Recipe, list[str]]:
    """The run's recipe after memory fallbacks, with the suggestion applied; and all changes in words."""
    before = registry.run_recipe(run_id)
    after = with_changes(
        effective_recipe(before, registry.run_state(run_id).changes),
        find_suggestion(registry, run_id, key).changes,
    )
    return after, setting_differences(before, after)


def setting_differences(before: StrictModel, after: StrictModel) -> list[str]:
    """Each setting that differs: its label, its value, and "changed from" the other."""
    old, new = settings_by_label(before), settings_by_label(after)
    not_set = page_text("common.no_value")
    return [
        page_text("run_facts.changed_setting", setting=label, value=value or not_set, before=old[label] or not_set)
        for label, value in new.items()
        if value != old[label]
    ]
