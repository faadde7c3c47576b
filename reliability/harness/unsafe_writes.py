"""Files written the usual way, in place: what the controls are made with. The faults meet them where they meet ours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from trainer_core.system import durable


def open_truncated(path: Path) -> io.BufferedWriter:
    """As `open(path, "wb")`: what was in the file is gone at once."""
    durable.fault_point(path)
    return io.BufferedWriter(InterruptibleFile(path, "wb"))


def open_text(path: Path) -> io.TextIOWrapper:
    """As `open(path, "w")`."""
    return io.TextIOWrapper(open_truncated(path), encoding="utf-8")


def open_append(path: Path) -> io.TextIOWrapper:
    """As `open(path, "a")`."""
    return io.TextIOWrapper(io.BufferedWriter(InterruptibleFile(path, "ab")), encoding="utf-8")


class InterruptibleFile(io.FileIO):
    """A file with a point before each write that reaches the system."""

    full = False
    """Of the whole process, as a disk is full for all files."""

    def write(self, data: Any) -> int:
        """A disk that becomes full takes what still fits: here half of it."""
        try:
            durable.fault_point(Path(str(self.name)))
        except OSError:
            if not InterruptibleFile.full:
                InterruptibleFile.full = True
                super().write(bytes(data)[: len(data) // 2])
            raise
        return super().write(data)
