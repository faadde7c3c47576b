"""One bench in a process of its own: `python -m bench.harness.run_one MODULE DEVICE full|tiny OUT` writes its rows to OUT."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from bench.harness.journal import Call
from bench.harness.result import ROWS, Device, Row, stamped

SUITES = {
    "data": "data_check",
    "growth": "scaling",
    "app": "app_startup",
    "live": "live_page",
    "lanes": "compare",
    "training": "training_overhead",
    "pairs": "dpo_speedups",
    "plan": "memory_estimate",
    "probe": "memory_probe",
    "picked": "auto_settings",
    "checks": "held_out_eval_cost",
    "cuda": "gpu",
}
"""Name on the command line and of its results → file in bench/suites, in the order in which they run."""


class Listed(Protocol):
    """What every bench file has."""

    QUESTION: str
    DEVICES: tuple[Device, ...]
    """Where it can be asked at full size."""
    OPEN: tuple[Row, ...]
    """The rows to show while nothing was measured."""


class Bench(Listed, Protocol):
    """A bench that runs from its beginning to its end."""

    def run(self, device: Device, tiny: bool) -> list[Row]: ...


@runtime_checkable
class Continued(Listed, Protocol):
    """A bench that measures what its results file lacks."""

    def resume(self, device: Device, tiny: bool, call: Call) -> list[Row]: ...


def found(name: str) -> Listed:
    """The bench of that name, or any module by its dotted name."""
    return cast(Listed, importlib.import_module(name if "." in name else f"bench.suites.{SUITES[name]}"))


def main() -> None:
    name, device, size, out = sys.argv[1:]
    tiny = size == "tiny"
    rows = cast(Bench, found(name)).run(cast(Device, device), tiny)
    Path(out).write_bytes(ROWS.dump_json([stamped(row, cast(Device, device), tiny) for row in rows], indent=1))


if __name__ == "__main__":
    main()
