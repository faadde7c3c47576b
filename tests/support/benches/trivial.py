"""A bench whose figures are known."""

from bench.harness.result import Device, Row, Target, two_sided

QUESTION = "Is 2 less than 8?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[Row, ...] = ()


def run(device: Device, tiny: bool) -> list[Row]:
    return [two_sided("app", "seconds", "s", [2, 2, 2], [8, 8, 10], faster=True, target=Target("ratio", "≥", 3))]
