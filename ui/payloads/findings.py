"""What the doctor says on the page, and the recipe that an offer leads to."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from trainer_core.config.changes import changed
from trainer_core.config.recipe import Recipe
from trainer_core.diagnosis import doctor
from trainer_core.diagnosis.finding import Finding
from trainer_core.errors import ConfigError
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.effective_recipe import in_force
from trainer_core.runs.events import LaneScore, Offer
from trainer_core.runs.run_state import RunView
from ui.format import STAGE_WORDS
from ui.payloads.run_settings import facts_of, spelled

LOOKS = 100
"""How often the doctor looks at a stage while it is going: at every hundredth of its steps, so that the card keeps still."""


def of(supervisor: Supervisor, view: RunView | None) -> list[dict[str, Any]]:
    """Every finding on a run, ready to be shown, the weightiest first."""
    return [shown(finding) for finding in findings(supervisor, view)] if view else []


def shown(finding: Finding) -> dict[str, Any]:
    return {
        "key": finding.key,
        "where": f"{STAGE_WORDS[finding.stage]} step {finding.step}",
        "title": finding.title,
        "says": finding.says,
        "evidence": list(finding.evidence),
        "source": finding.source,
        "offer": finding.offer.text,
    }


def findings(supervisor: Supervisor, view: RunView) -> tuple[Finding, ...]:
    recipe = facts_of(supervisor.run_dir(view.id)).recipe
    if recipe is None or not view.last:
        return ()
    lately = len(view.points) % max(1, view.last.total // LOOKS) if view.phase.active else 0
    steady = replace(view, points=view.points[: len(view.points) - lately])
    return examined(Seen(steady, recipe, scores(supervisor, view)))


class Seen:
    """A run as far as the doctor looks at it. Equal as long as nothing that matters has been added."""

    def __init__(self, view: RunView, recipe: Recipe, scores: tuple[LaneScore, ...]):
        self.view, self.recipe, self.scores = view, recipe, scores
        self.key = (view.id, view.points[-1:], len(view.evaluated), len(view.sampled), scores)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seen) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@lru_cache(maxsize=3)  # each holds all points of its run
def examined(seen: Seen) -> tuple[Finding, ...]:
    """Asked by every open page once a second, answered once a step."""
    return doctor.examine(seen.view, seen.recipe, seen.scores)


def scores(supervisor: Supervisor, view: RunView) -> tuple[LaneScore, ...]:
    """How the run's lanes did, if they are the ones that Compare has loaded and scored."""
    current = supervisor.comparison
    folder = str(supervisor.run_dir(view.id))
    ours = current and any((lane.adapter or "").startswith(folder) for lane in current.job.lanes)
    return current.view.scores if current and ours else ()


def offered(supervisor: Supervisor, run_id: str, key: str) -> Offer:
    """The offer of a finding, or of the run's last word, by its key.

    Raises:
        ConfigError: there is none of that key any more.
    """
    view = supervisor.run(run_id)
    known = {f"offer.{at}": offer for at, offer in enumerate(view.offers)}
    known |= {finding.key: finding.offer for finding in findings(supervisor, view)}
    if key not in known:
        raise ConfigError("This proposal does not hold any more: the run has gone on since.")
    return known[key]


def retry(supervisor: Supervisor, run_id: str, key: str) -> tuple[Recipe, list[str]]:
    """The recipe of a run, with what it had come to when memory was short, as an offer changes it; and all changes in words."""
    before = supervisor.recipe(run_id)
    after = changed(in_force(before, supervisor.run(run_id).changes), offered(supervisor, run_id, key).changes)
    return after, differences(before, after)


def differences(before: BaseModel, after: BaseModel) -> list[str]:
    """Each setting that differs: its label, its value, and "changed from" the other."""
    old, new = spelled(before), spelled(after)
    return [
        f"{label}: {value or 'none'} (changed from {old[label] or 'none'})"
        for label, value in new.items()
        if value != old[label]
    ]
