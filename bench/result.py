"""What a measurement says, and how all of them become BENCHMARKS.md, which nobody writes by hand."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from trainer_core.hardware import cpu_name
from trainer_core.runs import PROJECT

RESULTS = PROJECT / "bench" / "results"
TABLE = PROJECT / "BENCHMARKS.md"
VERSIONS = ("torch", "unsloth", "trl", "transformers", "peft", "bitsandbytes", "gradio")
NOT_MEASURED = "not measured"

Device = Literal["cpu", "cuda"]
Holds = Callable[[float], bool]


@dataclass(frozen=True)
class Sample:
    """Repetitions of one quantity: how many, the median, and half the distance between the quartiles."""

    n: int
    median: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Of at least one value."""
        if len(values) == 1:
            return cls(1, values[0], 0.0)
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(len(values), statistics.median(values), (high - low) / 2)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    goal: what is wanted, in words. ours, peer: in `unit`; peer is what it is compared with, if anything. value: the figure
    that the goal is about, most often their ratio. met: does it reach the goal; None where there is no goal or no figure.
    """

    what: str
    goal: str = ""
    unit: str = ""
    ours: Sample | None = None
    peer: Sample | None = None
    peer_name: str = ""
    value: float | None = None
    met: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Result:
    """What one bench found, where and when."""

    name: str
    question: str
    device: Device
    machine: str
    date: str
    seconds: float
    rows: tuple[Row, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    tiny: bool = False


def ratio(
    what: str, goal: str, unit: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, holds: Holds | None
) -> Row:
    """A row whose figure is ours ÷ peer's, by the medians of interleaved repetitions."""
    mine, other = Sample.of(ours), Sample.of(peer)
    value = mine.median / other.median
    return Row(what, goal, unit, mine, other, peer_name, value, holds(value) if holds else None)


def figure(what: str, goal: str, unit: str, values: Sequence[float], holds: Holds | None = None, note: str = "") -> Row:
    """A row about one quantity of ours."""
    mine = Sample.of(values)
    return Row(what, goal, unit, mine, None, "", mine.median, holds(mine.median) if holds else None, note)


def interleaved(
    n: int, parts: Mapping[str, Callable[[], Any]], clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each part, in turn n times after one turn that does not count, so that a slow minute meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(n + 1):
        for name, part in parts.items():
            began = clock()
            part()
            if turn:
                seconds[name].append(clock() - began)
    return seconds


def machine(device: Device) -> str:
    """What it ran on, in words."""
    if device == "cuda":
        import torch

        return f"{torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else NOT_MEASURED
    return f"{cpu_name() or platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    return datetime.now(UTC).date().isoformat()


def write(result: Result) -> Path:
    """Keep a result beside the others; the newest of a bench and device counts."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{result.name}-{result.device}.json"
    path.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return path


def table(results: Sequence[Mapping[str, Any]], asked: Mapping[str, Mapping[Device, str]]) -> str:
    """All results as Markdown.

    Args:
        results: as read from their files.
        asked: bench → the devices it is for, each with its question. What has no result is listed as not measured.
    """
    lines = [
        "# Benchmarks",
        "",
        "Made by `python -m bench`; not written by hand. A ratio compares two things measured in turn in one run on one "
        "machine; ± is half the distance between the quartiles. bench/NOTES.md tells what was tried.",
    ]
    for name, devices in asked.items():
        for device, question in devices.items():
            found = next((one for one in results if (one["name"], one["device"]) == (name, device)), None)
            lines += ["", f"## {name} ({device})", "", question, ""]
            lines += section(found) if found else [f"*{NOT_MEASURED}: no such device was at hand.*"]
    return "\n".join(lines) + "\n"


def section(found: Mapping[str, Any]) -> list[str]:
    head = ["| What | Goal | Ours | Compared with | Figure | Reached |", "|---|---|---|---|---|---|"]
    rows = [
        f"| {row['what']} | {row['goal']} | {shown(row['ours'], row['unit'])} | {peer(row)} | {number(row['value'])} "
        f"| {verdict(row)} |"
        for row in found["rows"]
    ]
    tiny = " Tiny sizes, to try the script; the figures mean nothing." if found["tiny"] else ""
    noted = "; ".join(f"{name} {one}" for name, one in found["versions"].items())
    return [*head, *rows, "", f"{found['machine']}, {found['date']}, {found['seconds']:.0f} s; {noted}.{tiny}"]


def verdict(row: Mapping[str, Any]) -> str:
    word = {True: "yes", False: "**no**", None: "" if row["value"] is not None else NOT_MEASURED}[row["met"]]
    return f"{word} {row['note']}".strip()


def peer(row: Mapping[str, Any]) -> str:
    return f"{row['peer_name']}: {shown(row['peer'], row['unit'])}" if row["peer"] else ""


def shown(sample: Mapping[str, Any] | None, unit: str) -> str:
    if sample is None:
        return ""
    spread = f" ± {number(sample['spread'])}" if sample["n"] > 1 else ""
    return f"{number(sample['median'])}{spread} {unit} (n = {sample['n']})"


def number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
