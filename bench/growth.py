"""How does the cost grow with the data, the points of a curve and the number of runs? Nothing may grow worse than linearly."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import app, data_check, parts
from bench.result import RESULTS, Device, Row
from trainer_core.data import check
from trainer_core.events import Step, read_view
from trainer_core.supervisor import Supervisor
from ui.history import Rows

QUESTION = "The slope of cost against size on logarithmic axes over the upper half of the sizes: 1 is linear."
DEVICES = ("cpu",)
STEEPEST = 1.15
"""Linear with room for noise and caches."""

Points = list[tuple[int, float]]


def run(device: Device, tiny: bool) -> Iterator[Row]:
    top = {"rows": 1000, "points": 1000, "runs": 30} if tiny else {"rows": 1_000_000, "points": 100_000, "runs": 3_000}
    curves = {
        "Check of a file, by rows": measured(sizes(100, top["rows"]), rows_checked),
        "A run's events read, by steps": measured(sizes(100, top["points"]), events_read),
        "All runs read and listed, by runs": measured(sizes(10, top["runs"]), runs_listed),
    }
    for name, points in curves.items():
        value = slope(points)
        spread = ", ".join(f"{size:,}: {1000 * seconds:,.0f} ms" for size, seconds in points)
        yield Row(name, "slope ≤ 1.15", value=value, met=value <= STEEPEST, note=spread)
    if not tiny:
        drawn(curves, RESULTS / "growth.svg")


def sizes(low: int, high: int) -> list[int]:
    return [10**power for power in range(round(math.log10(low)), int(math.log10(high)) + 1)] + (
        [high] if 10 ** int(math.log10(high)) != high else []
    )


def measured(wanted: Sequence[int], cost: Callable[[int], float]) -> Points:
    return [(size, cost(size)) for size in wanted]


def slope(points: Points) -> float:
    """Between the middle and the end, where fixed costs no longer hide the growth."""
    (low, first), (high, last) = points[(len(points) - 1) // 2], points[-1]
    return math.log(last / first) / math.log(high / low)


def rows_checked(count: int) -> float:
    """Seconds of a check of so many pairs of about 180 bytes."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for number in range(count):
                words = data_check.WORDS[number % 3000]
                file.write(
                    f'{{"prompt": "What is {words} {number}?", "chosen": "It is {number}.", "rejected": "No {words}."}}\n'
                )
        began = time.perf_counter()
        check(path)
        return time.perf_counter() - began


def events_read(count: int) -> float:
    """Seconds to read a run of so many steps from its events."""
    from trainer_core.events import EventLog

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        emit = EventLog(Path(folder) / "events.jsonl")
        for step in range(1, count + 1):
            emit(Step("sft", step, count, 1 / step, 1e-4, 1.0, 0.5, 900.0, 1.0))
        began = time.perf_counter()
        assert len(read_view(Path(folder)).points) == count
        return time.perf_counter() - began


def runs_listed(count: int) -> float:
    with parts.workspace() as workspace:
        app.many(workspace, count)
        began = time.perf_counter()
        assert len(Rows(Supervisor(workspace, device="cpu"))()) == count
        return time.perf_counter() - began


def drawn(curves: dict[str, Points], path: Path) -> None:
    """All curves on logarithmic axes, as an SVG of their own, and a dashed line of slope 1."""
    width, height, left, low = 640, 360, 60, 320
    colours = ("#0f766e", "#b45309", "#475569")

    def x(size: float) -> float:
        return left + (math.log10(size) - 1) / 5 * (width - left - 20)

    def y(seconds: float) -> float:
        return low - (math.log10(max(seconds, 1e-4)) + 4) / 6.5 * (low - 20)

    lines = [
        f'<polyline points="{x(10)},{y(1e-4)} {x(1e6)},{y(10)}" stroke="#999" stroke-dasharray="4 4" fill="none"/>'
    ]
    for colour, (name, points), at in zip(colours, curves.items(), range(3), strict=True):
        path_points = " ".join(f"{x(size):.1f},{y(seconds):.1f}" for size, seconds in points)
        lines.append(f'<polyline points="{path_points}" stroke="{colour}" stroke-width="2" fill="none"/>')
        lines.append(f'<text x="{left + 10}" y="{30 + 18 * at}" fill="{colour}">{name}</text>')
    for power in range(1, 7):
        lines.append(f'<text x="{x(10**power)}" y="{low + 20}" text-anchor="middle">10^{power}</text>')
    for power in range(-4, 3):
        lines.append(f'<text x="{left - 8}" y="{y(10**power) + 4}" text-anchor="end">10^{power} s</text>')
    style = 'font-family="sans-serif" font-size="12"'
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {style}>{"".join(lines)}</svg>\n',
        encoding="utf-8",
    )
