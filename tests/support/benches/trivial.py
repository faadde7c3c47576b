"""A bench whose figures are known."""

from pathlib import Path

from bench.harness.result import BenchRow, Device, Target, row_against_peer

QUESTION = "Is 2 less than 8?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[BenchRow, ...] = ()


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    return [row_against_peer("app", "seconds", "s", [2, 2, 2], [8, 8, 10], faster=True, target=Target("ratio", "≥", 3))]
