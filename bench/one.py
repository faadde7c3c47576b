"""One bench in a process of its own: `python -m bench.one MODULE DEVICE full|tiny OUT` writes its rows to OUT."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Protocol, cast

from bench.result import ROWS, Device, Row, stamped


class Bench(Protocol):
    """What a bench file is."""

    QUESTION: str
    DEVICES: tuple[Device, ...]
    """Where it can be asked at full size."""
    OPEN: tuple[Row, ...]
    """The rows to show while nothing was measured."""

    def run(self, device: Device, tiny: bool) -> list[Row]: ...


def found(name: str) -> Bench:
    """The bench of that name: a file here, or any module by its dotted name."""
    return cast(Bench, importlib.import_module(name if "." in name else f"bench.{name}"))


def main() -> None:
    name, device, size, out = sys.argv[1:]
    tiny = size == "tiny"
    rows = found(name).run(cast(Device, device), tiny)
    Path(out).write_bytes(ROWS.dump_json([stamped(row, cast(Device, device), tiny) for row in rows], indent=1))


if __name__ == "__main__":
    main()
