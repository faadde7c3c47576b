"""A bench that fails."""

from bench.harness.result import Device, Row

QUESTION = "What is one by nothing?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[Row, ...] = ()


def run(device: Device, tiny: bool) -> list[Row]:
    return [Row("app", "x", "s", 1 / 0)]
