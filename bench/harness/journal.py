"""The results file of what is measured on a card: one JSON line for each measurement, on the disk as soon as it is made.

A call that is cut loses the measurement at work and nothing else; the next call with the same file measures what is missing.
The table is made from the file.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainer_core.errors import UserError
from trainer_core.runs.event_log import cut_partial_line
from trainer_core.system import durable
from trainer_core.texts import verbatim

MIN_CASE_SECONDS = 30.0
"""With less than this left of the budget nothing is begun."""


class JournalError(UserError):
    """The results file cannot be used."""


@dataclass(frozen=True)
class JournalEntry:
    """One measurement.

    Args:
        key: what was measured.
        value: what came out.
        where: the machine and the versions of what ran there; "card" and "torch" among them.
    """

    key: dict[str, Any]
    value: dict[str, Any]
    where: dict[str, str]
    date: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())


class Journal:
    """A results file, open for one process at a time.

    Args:
        again: what earlier calls measured stays in the file, but is not used.

    Raises:
        JournalError: another process uses it, or it holds something else.
    """

    def __init__(self, file: Path, again: bool = False):
        self.file = file.resolve()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.file.with_name(f".{self.file.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise JournalError(verbatim(f"{file} is in use by another call. Wait for its end.")) from None
        self._adding = threading.Lock()
        cut_partial_line(self.file)
        self.entries = [] if again else list(read_journal(self.file))

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, key: Mapping[str, Any], card: str, torch: str) -> JournalEntry | None:
        """The newest measurement of this on this card with this torch."""
        for entry in reversed(self.entries):
            if (
                entry.key == key
                and entry.where["card"] == card
                and plain_version(entry.where["torch"]) == plain_version(torch)
            ):
                return entry
        return None

    def add(self, entry: JournalEntry) -> None:
        """Append a measurement, from any thread. When this returns, a power cut does not lose it."""
        line = json.dumps(asdict(entry)).encode() + b"\n"
        with self._adding, durable.disk_errors(self.file), self.file.open("ab", buffering=0) as out:
            out.write(line)
            os.fsync(out.fileno())
        self.entries.append(entry)


def read_journal(file: Path) -> list[JournalEntry]:
    """The measurements of a results file. A last line that was written by half is left out.

    Raises:
        JournalError: a line before it is no measurement.
    """
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    found = list[JournalEntry]()
    for number, line in enumerate(lines, 1):
        try:
            if line:
                found.append(JournalEntry(**json.loads(line)))
        except (ValueError, TypeError):
            if any(lines[number:]):
                raise JournalError(
                    verbatim(f"{file}, line {number}: this is not a measurement. Name another file.")
                ) from None
    return found


def plain_version(full: str) -> str:
    """`2.13.0+cpu` → `2.13.0`."""
    return full.split("+")[0]


@dataclass(frozen=True)
class BenchCall:
    """What one command asks of a bench that can be continued.

    Args:
        journal: what was measured, and where more goes.
        only: parts (cuda) or GB of emulated cards (picked); empty: all.
        until: on time.monotonic()'s clock; nothing is begun in the last 30 s before it.
    """

    journal: Journal
    only: tuple[str, ...] = ()
    until: float = inf

    @property
    def seconds_left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    @property
    def is_over(self) -> bool:
        return self.seconds_left < MIN_CASE_SECONDS
