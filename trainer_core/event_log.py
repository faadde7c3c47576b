"""The file that events are appended to and read from.

One line of `events.jsonl` is one event: {"seq": 7, "at": "2026-01-31T12:00:00.123Z", "kind": "Step", ...its fields}.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from trainer_core import durable
from trainer_core.events import KINDS, Ended, Event, Failed, Noted
from trainer_core.redact import without_secrets

RESERVE_BYTES = 64 * 1024


class EventLog:
    """Appends events, one write per line, from any thread of the one process that owns the file.

    A reserve lies beside the file, so that a full disk can still be said: it is given up for the last words.
    """

    def __init__(self, path: Path):
        self.path, self._reserve = path, path.with_name(".reserve")
        cut_torn_tail(path)
        self._seq = path.read_bytes().count(b"\n") if path.exists() else 0
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (open as long as the worker lives)
        self._lock = threading.Lock()
        with durable.disk_errors(self._reserve):
            self._reserve.write_bytes(bytes(RESERVE_BYTES))

    def __call__(self, event: Event) -> None:
        """Append one event.

        Raises:
            DiskError: the disk is full; what is said from now on goes into the reserve.
        """
        with self._lock, durable.disk_errors(self.path):
            line = encode(event, self._seq + 1, datetime.now(UTC))
            try:
                if self._reserve.exists():  # given up, it has made room
                    durable.point(self.path)
                self._append(line)
            except OSError:
                self._reserve.unlink(missing_ok=True)
                if not isinstance(event, Ended | Failed):
                    raise
                self._append(line)  # a last word is said at once into the room that this left
            self._seq += 1

    def _append(self, line: bytes) -> None:
        """All of the line or nothing of it: half a line would swallow the next."""
        whole = self.path.stat().st_size
        try:
            written = self._file.write(line)
        except OSError:
            os.truncate(self.path, whole)
            raise
        if written != len(line):
            os.truncate(self.path, whole)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def encode(event: Event, seq: int, at: datetime) -> bytes:
    """One event as one line, without secrets."""
    head = {
        "seq": seq,
        "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "kind": type(event).__name__,
    }
    line = json.dumps(head | without_secrets(asdict(event)), ensure_ascii=False)
    return f"{line}\n".encode("utf-8", "replace")


def decode(line: bytes) -> Event:
    """The event of one line.

    Raises:
        ValueError: the line is no event of this version.
    """
    values = json.loads(line)
    kind = values.pop("kind", "") if isinstance(values, dict) else ""
    if kind not in KINDS:
        raise ValueError(f"unknown event kind {kind!r}")
    fields = {key: value for key, value in values.items() if key not in ("seq", "at")}
    return adapter(KINDS[kind]).validate_python(fields)


@cache
def adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def cut_torn_tail(path: Path) -> None:
    """Remove a last line without its newline: a killed worker leaves one, and the next event would be glued to it."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


class Tail:
    """Reads what was appended since the last time; only whole lines count."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = self._line = 0

    def grew(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > self._offset

    def __iter__(self) -> Iterator[Event]:
        """The new events. A line that is none becomes a note about itself, so that it hides neither the rest nor other runs."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self._line += 1
                try:
                    yield decode(line)
                except ValueError:
                    yield Noted(
                        f"Line {self._line} of {self.path.name} cannot be read: it was damaged, or written by another version of "
                        "Tunebench. Adapters and checkpoints are as they were."
                    )
