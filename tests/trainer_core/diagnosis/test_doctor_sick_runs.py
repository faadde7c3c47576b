"""Three real runs of the starter model that go wrong, each caught while it runs; and what is then proposed, which goes well."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.histories import recorded, views
from tests.support.training_runs import start
from trainer_core.config.changes import with_changes
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.diagnosis.doctor import diagnose
from trainer_core.diagnosis.finding import Finding
from trainer_core.planning.presets import starter_recipe
from trainer_core.runs import run_folder
from trainer_core.runs.events import Phase, Suggestion
from trainer_core.runs.run_state import RunState
from trainer_core.system import project

pytestmark = [pytest.mark.real, pytest.mark.long]
ASSETS = project.PROJECT / "assets" / "sample_data"
PAIRS = 64
Row = dict[str, Any]


def swapped(at: int, row: Row) -> Row:
    """All but every eighth, as in a file of several sources: where all are, the training pairs alone look easy."""
    return row if at % 8 == 0 else row | {"chosen": row["rejected"], "rejected": row["chosen"]}


def trivial(at: int, row: Row) -> Row:
    return row | {"rejected": [{"role": "assistant", "content": "No no no no no no."}]}


@dataclass(frozen=True)
class Sick:
    """What is done to the pairs and the recipe, and the finding or failure that must come."""

    changes: dict[str, Any]
    key: str
    spoil: Callable[[int, Row], Row] = lambda at, row: row


DPO = {"method": "dpo", "dpo.warmup": 0.0, "dpo.max_length": 64, "dpo.evaluations": 3}
HELD_OUT = 8
SICK = {
    "rate × 100": Sick(
        {"method": "sft", "sft.learning_rate": 0.1, "sft.max_steps": 10, "sft.max_length": 128}, "failed"
    ),
    "swapped pairs": Sick(DPO | {"dpo.max_steps": 100, "dpo.learning_rate": 1.5e-4}, "dpo.contradicted", swapped),
    "trivial pairs": Sick(DPO | {"dpo.max_steps": 18}, "dpo.trivial", trivial),
}


@dataclass(frozen=True)
class Told:
    """A run: its end, and what was found at which of its events for the first time."""

    recipe: Recipe
    view: RunState
    found: tuple[Finding, ...]
    step: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sick")


@pytest.fixture(scope="module")
def told(folder: Path) -> Callable[[str], tuple[Told, Told]]:
    """A sick run and the one that was proposed after it, made once."""
    made: dict[str, tuple[Told, Told]] = {}

    def of(name: str) -> tuple[Told, Told]:
        if name not in made:
            sick = run(folder, recipe_of(folder, name))
            made[name] = sick, run(folder, with_changes(sick.recipe, offer_of(sick).changes))
        return made[name]

    return of


def recipe_of(folder: Path, name: str) -> Recipe:
    sick = SICK[name]
    pairs, held_out = (lines(ASSETS / f"sample_{kind}.jsonl") for kind in ("pairs", "heldout"))
    short = sorted(held_out, key=lambda row: len(json.dumps(row)))[:HELD_OUT]  # cheap, so that several checks fit
    files = {
        "data.pairs": write(
            folder / f"{sick.key}.jsonl", [sick.spoil(at, row) for at, row in enumerate(pairs[:PAIRS])]
        ),
        "data.held_out": write(folder / "held-out.jsonl", short),
    }
    return with_changes(starter_recipe(), files | {"sample_tokens": 0} | sick.changes)


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[Row]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def run(folder: Path, recipe: Recipe) -> Told:
    run_dir = run_folder.create_run(folder / "runs", TrainJob(recipe=recipe), "sick")
    start(folder, str(run_dir))
    *_, view = views(recorded(run_dir / "events.jsonl"))
    for seen in views(recorded(run_dir / "events.jsonl")):
        if found := diagnose(seen, recipe):
            return Told(recipe, view, found, seen.last_step.step if seen.last_step else 0)
    return Told(recipe, view, (), 0)


def offer_of(sick: Told) -> Suggestion:
    return sick.view.offers[0] if sick.view.offers else sick.found[0].offer


@pytest.mark.parametrize("name", SICK)
def test_it_is_caught_while_it_runs(told: Callable[[str], tuple[Told, Told]], name: str) -> None:
    sick, _ = told(name)
    total = sick.view.points[0].total
    if SICK[name].key == "failed":
        assert (
            sick.view.phase is Phase.FAILED
            and sick.view.error.code == "diverged.stopped"
            and sick.view.points[-1].step < total
        )
        assert sick.found and sick.found[0].key == "sft.diverging"
    else:
        assert sick.found and sick.found[0].key == SICK[name].key, (sick.view.evaluated, sick.view.points)
        assert sick.step < total, "before the end, so that it can be stopped"


@pytest.mark.parametrize("name", SICK)
def test_what_is_proposed_goes_well(told: Callable[[str], tuple[Told, Told]], name: str) -> None:
    sick, again = told(name)
    assert again.view.phase is Phase.DONE, again.view.error
    assert again.found == (), again.found[0]
    first, last = again.view.points[0], again.view.points[-1]
    assert last.loss < first.loss
    if name == "swapped pairs":
        held, before = again.view.evaluated[-1].metrics, sick.view.evaluated[-1].metrics
        assert held["accuracy"] > 0.5 > before["accuracy"]
