"""A forecast as text and as JSON: the memory table by part, main memory, disk, and every value with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from trainer_core.planning.forecast import Forecast
from trainer_core.planning.memory_model import SKIP_LAYERS_PART, MemoryPart
from trainer_core.system.format import GIB, format_gb


def forecast_lines(plan: Forecast) -> Iterator[str]:
    """The whole plan for a terminal."""
    yield f"On {plan.device}: {format_gb(plan.free)} to plan with. {plan.holders}".rstrip()
    yield plan.verdict.sentence
    for stage, planned in plan.stages.items():
        yield ""
        yield from parts_table(f"{stage.upper()}, peak", planned.parts)
    if any(part.name == SKIP_LAYERS_PART for planned in plan.stages.values() for part in planned.parts):
        yield f"{SKIP_LAYERS_PART} save time where memory is left, and are given up first: they are not in the sum."
    if plan.peak.host:
        yield ""
        yield from parts_table("Main memory", plan.peak.host)
        yield f"{format_gb(plan.host_free)} of main memory are free."
    yield ""
    yield from parts_table("Disk", plan.disk)
    yield f"{format_gb(plan.disk_free)} of disk are free."
    yield ""
    yield from (f"{one.key} = {one.value}: {one.sentence}" for one in plan.values)
    yield from filter(None, (plan.too_big, *plan.notes))


def parts_table(title: str, parts: Sequence[MemoryPart]) -> Iterator[str]:
    """Parts and their sum, lower and upper, in GB; optional parts are below the sum."""
    rows = [part for part in parts if part.name != SKIP_LAYERS_PART]
    kept = [part for part in parts if part.name == SKIP_LAYERS_PART]
    yield f"{title:<28}{'lower':>9}{'upper':>9}"
    for part in (*rows, MemoryPart("Sum", sum(one.lower for one in rows), sum(one.upper for one in rows)), *kept):
        yield f"{part.name:<28}{part.lower / GIB:>9.2f}{part.upper / GIB:>9.2f}"


def forecast_as_json(plan: Forecast) -> dict[str, Any]:
    """The forecast as plain values, in bytes."""
    return {
        "device": plan.device,
        "free": plan.free,
        "level": plan.verdict.level,
        "verdict": plan.verdict.sentence,
        "memory": {stage: [asdict(part) for part in planned.parts] for stage, planned in plan.stages.items()},
        "main_memory": {"parts": [asdict(part) for part in plan.peak.host], "free": plan.host_free},
        "disk": {"parts": [asdict(part) for part in plan.disk], "free": plan.disk_free},
        "values": [asdict(one) for one in plan.values],
        "suggested": plan.suggested.model_dump(mode="json") if plan.suggested else None,
        "too_big": plan.too_big,
        "notes": list(plan.notes),
    }
