"""What a bench says: rows, each one figure of ours beside a peer's, with where and when it was measured."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal, get_args

import psutil
from pydantic import TypeAdapter

Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)
PACKAGES = ("torch", "unsloth", "trl", "transformers", "peft", "gradio", "orjson")


@dataclass(frozen=True)
class Target:
    """What `ours`, or `ratio`, has to be at least or at most; ±: so near to 1, on both sides."""

    of: Literal["ours", "ratio"]
    sign: Literal["≥", "≤", "±"]
    value: float

    def __str__(self) -> str:
        return f"{self.of} {'1 ' if self.sign == '±' else ''}{self.sign} {self.value:g}"

    def is_met(self, row: BenchRow) -> bool | None:
        """None: not measured."""
        got = getattr(row, self.of)
        if got is None:
            return None
        if self.sign == "±":
            return abs(got - 1) <= self.value
        return bool(got >= self.value if self.sign == "≥" else got <= self.value)


@dataclass(frozen=True)
class BenchRow:
    """One line of the table. A bench fills in the first block; the runner stamps the second."""

    goal: str
    """Which goal it answers: G1 to G12 of the design, or "app", "data", "growth", "first"."""
    what: str
    unit: str
    ours: float | None = None
    """Median over the repetitions; None: not measured."""
    peer: float | None = None
    ratio: float | None = None
    """Median of the ratios of neighbouring repetitions; which way round, `what` says."""
    target: Target | None = None
    n: int = 0
    """Repetitions, the warm-up not counted."""
    spread: float | None = None
    """Largest minus smallest repetition, as a share of the median."""
    points: tuple[tuple[float, float], ...] = ()
    """Size and cost, for the plot of how a cost grows."""
    note: str = ""
    error: str = ""

    device: str = ""
    card: str = ""
    """Its name; empty on the processor."""
    date: str = ""
    machine: str = ""
    fixed_work: float = 0.0
    """Milliseconds, before and after the bench on average: see `measure.fixed_work`."""
    tiny: bool = False
    versions: dict[str, str] = field(default_factory=dict)


ROWS: TypeAdapter[list[BenchRow]] = TypeAdapter(list[BenchRow])


def stamp_row(row: BenchRow, device: Device, tiny: bool) -> BenchRow:
    """The row with when and where it was measured."""
    today = datetime.now(UTC).date().isoformat()
    return replace(row, device=device, date=today, machine=describe_machine(), tiny=tiny, versions=package_versions())


def stamp_measured_row(row: BenchRow, device: Device, tiny: bool, where: Mapping[str, str], date: str) -> BenchRow:
    """The row with when and where it was measured, as the process that measured it said: card, driver and versions."""
    versions = {name: value for name, value in where.items() if name not in ("card", "driver")}
    place = f"{where['card']}, driver {where['driver']}; {describe_machine()}"
    return replace(row, device=device, date=date, machine=place, tiny=tiny, versions=versions, card=where["card"])


def describe_machine() -> str:
    return f"{processor_name()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"


def processor_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def package_versions() -> dict[str, str]:
    """Python and the packages that decide speed; one that is not installed is left out."""
    installed = {found.metadata["Name"].lower() for found in metadata.distributions()}
    found = {name: metadata.version(name) for name in PACKAGES if name in installed}
    return {"python": platform.python_version(), **found}


def row_against_target(goal: str, what: str, unit: str, values: Sequence[float], **more: object) -> BenchRow:
    """A row for a figure that is compared with its goal only."""
    return BenchRow(goal, what, unit, statistics.median(values), n=len(values), spread=relative_spread(values), **more)  # type: ignore[arg-type]


def row_against_peer(
    goal: str, what: str, unit: str, ours: Sequence[float], peer: Sequence[float], faster: bool = False, **more: object
) -> BenchRow:
    """A row for ours beside a peer's.

    Args:
        faster: the ratio is peer ÷ ours, "so many times as fast" where both are costs; else ours ÷ peer.
    """
    ratios = [b / a if faster else a / b for a, b in zip(ours, peer, strict=True)]
    medians = statistics.median(ours), statistics.median(peer), statistics.median(ratios)
    return BenchRow(goal, what, unit, *medians, n=len(ratios), spread=relative_spread(ratios), **more)  # type: ignore[arg-type]


def relative_spread(values: Sequence[float]) -> float | None:
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if len(values) > 1 and middle else None
