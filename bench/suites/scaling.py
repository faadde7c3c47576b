"""How cost grows with size: rows in a check, points of a run, runs in a workspace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.harness import fixtures
from bench.harness.measure import measure_seconds
from bench.harness.result import BenchRow, Device, Target
from trainer_core import data
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace
from ui.payloads import run_list
from ui.server import live_updates

QUESTION = (
    "How does the cost of a check, of the live view and of the history grow? Nothing may grow faster than linearly."
)
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[BenchRow, ...] = ()
ROW_BYTES = 300
TURNS = 3
LINEAR = Target("ours", "≤", 1.1)
"""The exponent between the two largest sizes; a tenth for chance."""


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    sizes = (100, 1000) if tiny else (100, 1000, 10_000, 100_000, 300_000)
    points = sizes if tiny else (100, 1000, 10_000, 100_000)
    many = (10, 20) if tiny else (10, 100, 1000, 10_000)
    return [
        growth_row("Rows: check", "s", sizes, lambda rows: time_data_check(place, rows)),
        *page_cost_rows(points, many, place),
    ]


def page_cost_rows(points: Sequence[int], many: Sequence[int], place: Path) -> list[BenchRow]:
    """Costs that are read off one supervisor: opening it, then asking it."""
    opened = {count: time_workspace(place / f"points-{count}", 1, count) for count in points}
    listed = {count: time_workspace(place / f"runs-{count}", count, 20) for count in many}
    return [
        growth_row("Points: a run opened and folded", "s", points, lambda count: opened[count][0]),
        growth_row("Points: first answer to a page", "s", points, lambda count: opened[count][1]),
        growth_row("Runs: history opened", "s", many, lambda count: listed[count][0]),
        growth_row("Runs: history listed", "s", many, lambda count: listed[count][2]),
    ]


def growth_row(what: str, unit: str, sizes: Sequence[int], cost: Callable[[int], float]) -> BenchRow:
    """The cost at every size, and the exponent between the two largest."""
    found = tuple((float(size), cost(size)) for size in sizes)
    (small, before), (large, after) = found[-2:]
    exponent = math.log(after / before) / math.log(large / small)
    said = ", ".join(f"{size:,.0f}: {spent:.3g} {unit}" for size, spent in found)
    return BenchRow("growth", what, "exponent", exponent, target=LINEAR, n=1, points=found, note=said)


def time_data_check(place: Path, rows: int) -> float:
    """CPU-seconds of a check."""
    file = place / f"pairs-{rows}.jsonl"
    if not file.exists():
        fixtures.write_pair_file(file, rows, ROW_BYTES)
    return measure_seconds(lambda: data.check_dataset(file))


def time_workspace(root: Path, count: int, points: int) -> tuple[float, float, float]:
    """CPU-seconds to open a workspace of so many runs, to answer a page that holds nothing, and to list the runs.

    The least of a few turns: what a turn costs more is the machine's doing.
    """
    workspace = Workspace(root)
    fixtures.copy_run(fixtures.make_run(workspace, "first", points), count - 1)
    turns = [time_turn(workspace) for _ in range(TURNS)]
    opening, answer, listing = (min(costs) for costs in zip(*turns, strict=True))
    return opening, answer, listing


def time_turn(workspace: Workspace) -> tuple[float, float, float]:
    kept: list[Supervisor] = []
    opening = measure_seconds(lambda: kept.append(Supervisor(workspace, device="cpu")))
    rows = run_list.RunRows(kept[0].registry)
    answer = measure_seconds(lambda: live_updates.page_update(kept[0], live_updates.Cursor(), rows))
    listing = measure_seconds(lambda: live_updates.page_update(kept[0], live_updates.Cursor(tab="runs"), rows))
    kept[0].close()
    return opening, answer, listing
