"""How cost grows with size: rows in a check, points of a run, runs in a workspace."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.harness import fixtures
from bench.harness.measure import timed
from bench.harness.result import Device, Row, Target
from trainer_core import data
from trainer_core.data.stream import Checkup
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.models import starter
from trainer_core.runs.workspace import Workspace, default_workspace
from ui.payloads import run_list
from ui.server import live_updates

QUESTION = (
    "How does the cost of a check, of the live view and of the history grow? Nothing may grow faster than linearly."
)
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[Row, ...] = ()
ROW_BYTES = 300
TURNS = 3
LINEAR = Target("ours", "≤", 1.1)
"""The exponent between the two largest sizes; a tenth for chance."""


def run(device: Device, tiny: bool) -> list[Row]:
    sizes = (100, 1000) if tiny else (100, 1000, 10_000, 100_000, 300_000)
    points = sizes if tiny else (100, 1000, 10_000, 100_000)
    many = (10, 20) if tiny else (10, 100, 1000, 10_000)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        return [
            grown("Rows: check", "s", sizes, lambda rows: checked(place, rows, tokens=False)),
            grown("Rows: check with the model's tokens", "s", sizes, lambda rows: checked(place, rows, tokens=True)),
            *pairs(points, many, place),
        ]


def pairs(points: Sequence[int], many: Sequence[int], place: Path) -> list[Row]:
    """Costs that are read off one supervisor: opening it, then asking it."""
    opened = {count: watched(place / f"points-{count}", 1, count) for count in points}
    listed = {count: watched(place / f"runs-{count}", count, 20) for count in many}
    return [
        grown("Points: a run opened and folded", "s", points, lambda count: opened[count][0]),
        grown("Points: first answer to a page", "s", points, lambda count: opened[count][1]),
        grown("Runs: history opened", "s", many, lambda count: listed[count][0]),
        grown("Runs: history listed", "s", many, lambda count: listed[count][2]),
    ]


def grown(what: str, unit: str, sizes: Sequence[int], cost: Callable[[int], float]) -> Row:
    """The cost at every size, and the exponent between the two largest."""
    found = tuple((float(size), cost(size)) for size in sizes)
    (small, before), (large, after) = found[-2:]
    exponent = math.log(after / before) / math.log(large / small)
    said = ", ".join(f"{size:,.0f}: {spent:.3g} {unit}" for size, spent in found)
    return Row("growth", what, "exponent", exponent, target=LINEAR, n=1, points=found, note=said)


def checked(place: Path, rows: int, tokens: bool) -> float:
    """CPU-seconds of a check."""
    file = place / f"pairs-{rows}.jsonl"
    if not file.exists():
        fixtures.pairs(file, rows, ROW_BYTES)
    checkup = Checkup(tokenizer=starter.folder(Workspace(default_workspace())) / "tokenizer.json", length=512)
    return timed(lambda: data.check(file, checkup=checkup if tokens else None))


def watched(root: Path, count: int, points: int) -> tuple[float, float, float]:
    """CPU-seconds to open a workspace of so many runs, to answer a page that holds nothing, and to list the runs.

    The least of a few turns: what a turn costs more is the machine's doing.
    """
    workspace = Workspace(root)
    fixtures.copies(fixtures.run(workspace, "first", points), count - 1)
    turns = [turn(workspace) for _ in range(TURNS)]
    opening, answer, listing = (min(costs) for costs in zip(*turns, strict=True))
    return opening, answer, listing


def turn(workspace: Workspace) -> tuple[float, float, float]:
    kept: list[Supervisor] = []
    opening = timed(lambda: kept.append(Supervisor(workspace, device="cpu")))
    rows = run_list.Rows(kept[0])
    answer = timed(lambda: live_updates.news(kept[0], live_updates.Cursor(), rows))
    listing = timed(lambda: live_updates.news(kept[0], live_updates.Cursor(tab="runs"), rows))
    kept[0].close()
    return opening, answer, listing
