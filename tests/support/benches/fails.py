"""A bench that fails."""

from pathlib import Path

from bench.harness.result import BenchRow, Device

QUESTION = "What is one by nothing?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[BenchRow, ...] = ()


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    return [BenchRow("app", "x", "s", 1 / 0)]
