"""The lanes that can be compared with those of a run: adapters on the same base, by step, strength or blend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer_core.config.jobs import Lane
from trainer_core.errors import ConfigError
from trainer_core.jobs.registry import RunRegistry
from trainer_core.models import resolve
from trainer_core.runs import checkpoints, metadata
from trainer_core.runs.events import Phase, Stage

BASE = "Base"
PROMPTED = "Base, prompted"
"""The base with a system prompt: would a prompt have done it?"""
STRENGTHS = (0.5, 1.5)
MAX_LANES = 6
MAX_NAME_LENGTH = 64
"""Longest lane name in characters, see `Lane`."""


def lanes_by_name(registry: RunRegistry, run_id: str) -> dict[str, Lane]:
    """Name → lane: the run's own first, then their variants, then other adapters on the same base."""
    own = registry.run_lanes(run_id)
    adapters = [lane for lane in own if lane.adapter]
    found = [
        *own,
        *strength_variants(adapters),
        *checkpoint_lanes(registry, run_id),
        *other_run_lanes(registry, run_id),
        *imported_lanes(registry, run_id),
    ]
    return {lane.name: lane for lane in found}


def strength_variants(adapters: Sequence[Lane]) -> Iterator[Lane]:
    for lane in adapters:
        for strength in STRENGTHS:
            yield lane.model_copy(update={"name": f"{lane.name} at {strength:.0%}", "strength": strength})
    if len(adapters) > 1:
        first, last = adapters[0], adapters[-1]
        half = {"name": f"{first.name} and {last.name}, half each", "other": last.adapter, "share": 0.5}
        yield first.model_copy(update=half)


def checkpoint_lanes(registry: RunRegistry, run_id: str) -> Iterator[Lane]:
    """The run's adapters at steps whose weights are on disk."""
    if run_id in registry.imports:
        return
    run_dir = registry.run_dir(run_id)
    for stage in registry.run_recipe(run_id).method.stages:
        for step, folder in checkpoints.adapters_by_step(run_dir, stage).items():
            yield Lane(name=step_lane_name(stage, step), adapter=str(folder))


def step_lane_name(stage: Stage, step: int) -> str:
    return f"{stage.upper()} step {step}"


def other_run_lanes(registry: RunRegistry, run_id: str) -> Iterator[Lane]:
    """Finished adapters of other runs on the same base in the same precision, newest first."""
    base = registry.run_base(run_id)
    for view in registry.run_states:
        if view.id == run_id or view.phase.is_active or not view.adapters or registry.find_run_base(view.id) != base:
            continue
        for lane in registry.run_lanes(view.id)[1:]:
            yield lane.model_copy(
                update={"name": foreign_lane_name(lane.name, given_run_name(registry, view.id), view.id)}
            )


def imported_lanes(registry: RunRegistry, run_id: str) -> Iterator[Lane]:
    """Adapters on the same base that were trained elsewhere, newest first. Their precision is not known."""
    base = resolve.canonical_name(registry.run_base(run_id)[0], registry.workspace)
    for view in registry.import_states:
        if view.id != run_id and view.phase is Phase.DONE and (found := registry.find_run_base(view.id)):
            yield from registry.import_lanes(view.id) if found[0] == base else ()


def foreign_lane_name(lane: str, run: str, run_id: str) -> str:
    """Name of another run's lane: the lane, that run's name (shortened if long) and its start."""
    began = run_id[:15]
    room = MAX_NAME_LENGTH - len(f"{lane} ·  {began}")
    return " ".join(filter(None, (f"{lane} ·", run[:room].strip(), began)))


def given_run_name(registry: RunRegistry, run_id: str) -> str:
    """The name of a run or an import, or an empty string."""
    if run_id in registry.imports:
        return registry.import_name(run_id)
    run_dir: Path = registry.run_dir(run_id)
    return metadata.read_metadata(run_dir).name or registry.run_recipe(run_id).name


def select_lanes(registry: RunRegistry, run_id: str, names: Sequence[str], prompted: str = "") -> tuple[Lane, ...]:
    """The named lanes (none named: the run's own), plus the base with a system prompt if one is given.

    Raises:
        ConfigError: a lane is gone, or there are more than six.
    """
    known = lanes_by_name(registry, run_id)
    if gone := [name for name in names if name not in known]:
        raise ConfigError("lane_choices.gone", lane=gone[0])
    chosen = tuple(known[name] for name in names) or registry.run_lanes(run_id)
    if prompted.strip():
        chosen = (*chosen, Lane(name=PROMPTED, system=prompted.strip()))
    if len(chosen) > MAX_LANES:
        raise ConfigError("lane_choices.too_many", lanes=len(chosen), most=MAX_LANES)
    return chosen
