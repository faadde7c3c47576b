"""One bench in a process of its own: `python -m bench.harness.run_one MODULE DEVICE full|tiny OUT` writes its rows to OUT.

It works in OUT's folder.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from bench.harness.journal import BenchCall
from bench.harness.result import ROWS, BenchRow, Device, stamp_row

SUITES = {
    "data": "data_check",
    "growth": "scaling",
    "app": "app_startup",
    "live": "live_page",
    "lanes": "compare",
    "training": "training_overhead",
    "pairs": "dpo_speedups",
    "export": "export_merge",
    "plan": "memory_estimate",
    "probe": "memory_probe",
    "picked": "auto_settings",
    "checks": "held_out_eval_cost",
    "cuda": "gpu",
}
"""Name on the command line and of its results → file in bench/suites, in the order in which they run."""


class BenchModule(Protocol):
    """What every bench file has."""

    QUESTION: str
    DEVICES: tuple[Device, ...]
    """Where it can be asked at full size."""
    OPEN: tuple[BenchRow, ...]
    """The rows to show while nothing was measured."""


class OneShotBench(BenchModule, Protocol):
    """A bench that runs from its beginning to its end."""

    def run(self, place: Path, device: Device, tiny: bool) -> list[BenchRow]: ...


@runtime_checkable
class ResumableBench(BenchModule, Protocol):
    """A bench that measures what its results file lacks."""

    def resume(self, place: Path, device: Device, tiny: bool, call: BenchCall) -> list[BenchRow]: ...


def load_bench(name: str) -> BenchModule:
    """The bench of that name, or any module by its dotted name."""
    return cast(BenchModule, importlib.import_module(name if "." in name else f"bench.suites.{SUITES[name]}"))


def main() -> None:
    name, device, size, out = sys.argv[1:]
    file, where, tiny = Path(out), cast(Device, device), size == "tiny"
    rows = cast(OneShotBench, load_bench(name)).run(file.parent, where, tiny)
    file.write_bytes(ROWS.dump_json([stamp_row(row, where, tiny) for row in rows], indent=1))


if __name__ == "__main__":
    main()
