"""One bench in a process of its own: `python -m bench.one MODULE DEVICE full|tiny OUT` writes its rows to OUT."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from bench.journal import Call
from bench.result import ROWS, Device, Row, stamped


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

    __name__: str

    def resume(self, device: Device, tiny: bool, call: Call) -> list[Row]: ...


def found(name: str) -> Listed:
    """The bench of that name: a file here, or any module by its dotted name."""
    return cast(Listed, importlib.import_module(name if "." in name else f"bench.{name}"))


def main() -> None:
    name, device, size, out = sys.argv[1:]
    tiny = size == "tiny"
    rows = cast(Bench, found(name)).run(cast(Device, device), tiny)
    Path(out).write_bytes(ROWS.dump_json([stamped(row, cast(Device, device), tiny) for row in rows], indent=1))


if __name__ == "__main__":
    main()
