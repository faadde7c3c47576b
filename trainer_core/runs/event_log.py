"""Appends events to a file and reads them.

One line of `events.jsonl` is one event: {"seq": 7, "at": "2026-01-31T12:00:00.123Z", "kind": "TrainStep", ...its fields}.
The log is untrusted, see `untrusted_files.py`: an invalid line becomes a notice.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from trainer_core.config.recipe import METHODS
from trainer_core.runs.events import (
    EVENT_KINDS,
    OLD_NAMES,
    AdapterSaved,
    CheckpointSaved,
    Event,
    Notice,
    RunEnded,
    RunFailed,
    upgrade_fields,
)
from trainer_core.system import durable, untrusted_files
from trainer_core.system.redact import redact_values
from trainer_core.texts import Text

RESERVE_BYTES = 64 * 1024
MAX_LINE_BYTES = 16 << 20
"""Longest event in bytes; the longest real ones, scores with all answers, are some hundred KB."""
MAX_LOG_BYTES = 1 << 30
"""Longest log in bytes: three million steps."""
MAX_UNREADABLE_NOTES = 20
"""Unreadable lines that get a notice of their own."""
MAX_AMOUNT = 1e12
"""Largest amount of seconds, tokens, bytes or counts; beyond it the line is damaged. Metrics may be anything, also NaN."""
COUNT_FIELDS = ("bytes", "tokens", "step", "total", "done", "rows")
AMOUNT_FIELDS = ("seconds", "seconds_left", "tokens_per_second", *COUNT_FIELDS)


class EventLog:
    """Appends events, one write per line, from any thread of the one process that owns the file.

    A reserve file beside the log is freed when the disk is full, so that the final events still fit.
    """

    def __init__(self, path: Path):
        self.path, self._reserve = path, path.with_name(".reserve")
        self._lock = threading.Lock()
        with durable.disk_errors(path):
            cut_partial_line(path)
            self._file = untrusted_files.open_for_append(path.parent, path.name)  # stays open until the worker ends
            self._seq = count_lines(path)
        with durable.disk_errors(self._reserve):
            self._reserve.unlink(missing_ok=True)  # a link there must not be followed
            with untrusted_files.open_for_append(path.parent, self._reserve.name) as file:
                file.write(bytes(RESERVE_BYTES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __call__(self, event: Event) -> None:
        """Append one event.

        Raises:
            DiskError: the disk is full; later events use the reserve.
        """
        with self._lock, durable.disk_errors(self.path):
            line = encode_event(event, self._seq + 1, datetime.now(UTC))
            try:
                if self._reserve.exists():  # removing it frees space
                    durable.fault_point(self.path)
                self._append(line)
            except OSError:
                self._reserve.unlink(missing_ok=True)
                if not isinstance(event, RunEnded | RunFailed):
                    raise
                self._append(line)  # a final event goes into the freed space at once
            self._seq += 1

    def _append(self, line: bytes) -> None:
        """Write the whole line or nothing: half a line would corrupt the next."""
        whole = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
        except OSError:
            self._file.truncate(whole)
            raise
        if written != len(line):
            self._file.truncate(whole)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def append_events(path: Path, events: Iterable[Event]) -> None:
    """Append to the log of a run that has no worker."""
    with EventLog(path) as log:
        for event in events:
            log(event)


def encode_event(event: Event, seq: int, at: datetime) -> bytes:
    """One event as one line, with secrets redacted."""
    head = {
        "seq": seq,
        "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "kind": type(event).__name__,
    }
    line = json.dumps(head | redact_values(asdict(event)), ensure_ascii=False)
    return f"{line}\n".encode("utf-8", "replace")


def decode_event(line: bytes) -> Event:
    """Parse one line.

    Raises:
        ValueError: not an event of this version.
    """
    return build_event(parse_event_line(line))


def parse_event_line(line: bytes) -> dict[str, Any]:
    """Kind and fields of one line; errors as in `decode_event`."""
    values = untrusted_files.parse_json(line)
    kind = str(values.get("kind")) if isinstance(values, dict) else ""
    kind = OLD_NAMES.get(kind, kind)
    if kind not in EVENT_KINDS:
        raise ValueError(f"unknown event kind {str(values.get('kind') if isinstance(values, dict) else None)[:80]!r}")
    fields_given = {key: value for key, value in values.items() if key not in ("seq", "at")}
    return upgrade_fields(kind, fields_given) | {"kind": kind}


def build_event(values: dict[str, Any]) -> Event:
    """The event with these fields; errors as in `decode_event`."""
    kind = EVENT_KINDS[values["kind"]]
    given = {key: value for key, value in values.items() if key != "kind"}
    if unknown := unknown_metrics(values):
        given["metrics"] = {name: value for name, value in values["metrics"].items() if name not in unknown}
    event: Event = event_adapter(kind).validate_python(given)
    for name in amount_fields(kind):
        value = getattr(event, name)
        least = 0 if name in COUNT_FIELDS else -MAX_AMOUNT
        if value is not None and not least <= value <= MAX_AMOUNT:  # rejects NaN too
            raise ValueError(f"{name} is {value}")
    if isinstance(event, AdapterSaved | CheckpointSaved):
        untrusted_files.check_relative_name(event.folder)
    return event


@cache
def amount_fields(kind: type) -> tuple[str, ...]:
    """Fields that hold a count or a duration."""
    return tuple(one.name for one in fields(kind) if one.name in AMOUNT_FIELDS)


def unknown_keys(values: dict[str, Any]) -> frozenset[str]:
    metrics = (f"metrics.{name}" for name in unknown_metrics(values))
    return frozenset(values).difference(field_names(EVENT_KINDS[values["kind"]])).union(metrics)


def unknown_metrics(values: dict[str, Any]) -> frozenset[str]:
    """Metrics that the method does not have; dropped, because they would take memory at every step."""
    metrics, method = values.get("metrics"), METHODS.get(str(values.get("stage")))
    if not metrics or not isinstance(metrics, dict) or method is None:
        return frozenset()
    return frozenset(metrics) - method.metric_keys


@cache
def field_names(kind: type) -> frozenset[str]:
    return frozenset({"kind", *(one.name for one in fields(kind))})


@cache
def event_adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def cut_partial_line(path: Path) -> None:
    """Remove an unterminated last line, left by a killed worker: the next event would be appended to it."""
    try:
        file = untrusted_files.open_for_update(path.parent, path.name)
    except FileNotFoundError:
        return
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) in (b"\n", b""):
            return
        file.seek(0)
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(whole)


def count_lines(path: Path) -> int:
    with untrusted_files.open_regular_file(path.parent, path.name) as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


class Tail:
    """Reads what was appended since the last read; only whole lines count."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = self._line = self._unread = 0
        self._long = False
        """Inside a line longer than MAX_LINE_BYTES."""
        self._told: set[tuple[str, frozenset[str]]] = set()

    def has_new_bytes(self) -> bool:
        return self._offset < min(untrusted_files.regular_file_size(self.path.parent, self.path.name), MAX_LOG_BYTES)

    def __iter__(self) -> Iterator[Event]:
        """The new events. An unreadable line becomes a notice, so the rest of the log still loads.

        Raises:
            UnsafeFile: not a regular file.
            OSError: it cannot be read.
        """
        if self._offset >= MAX_LOG_BYTES:
            return
        try:
            file = untrusted_files.open_regular_file(self.path.parent, self.path.name)
        except FileNotFoundError:
            return
        with file:
            file.seek(self._offset)
            while line := file.readline(MAX_LINE_BYTES):
                whole = line.endswith(b"\n")
                if not whole and len(line) < MAX_LINE_BYTES:
                    return
                self._offset += len(line)
                long, self._long = self._long or not whole, not whole
                if whole:
                    self._line += 1
                    yield from self.note_unreadable_line("log.line_too_long") if long else self.decode_line(line)
                if self._offset >= MAX_LOG_BYTES:
                    yield Notice(Text("log.too_large", name=self.path.name, megabytes=MAX_LOG_BYTES >> 20))
                    return

    def decode_line(self, line: bytes) -> Iterator[Event]:
        try:
            values = parse_event_line(line)
            event = build_event(values)
        except ValueError:
            yield from self.note_unreadable_line("log.line_damaged")
            return
        if unknown := unknown_keys(values):
            yield from self.note_unknown_keys(values["kind"], unknown)
        yield event

    def note_unknown_keys(self, kind: str, unknown: frozenset[str]) -> Iterator[Event]:
        """Reported once per kind: all events of another version have the same keys."""
        if (kind, unknown) not in self._told and len(self._told) < MAX_UNREADABLE_NOTES:
            self._told.add((kind, unknown))
            names = ", ".join(sorted(untrusted_files.as_printable(name[:80]) for name in unknown)[:5])
            yield Notice(Text("log.unknown_keys", kind=kind, names=names))

    def note_unreadable_line(self, code: str) -> Iterator[Event]:
        """One notice for each of the first unreadable lines, then one for all others."""
        self._unread += 1
        if self._unread <= MAX_UNREADABLE_NOTES:
            yield Notice(Text(code, line=self._line, name=self.path.name))
        elif self._unread == MAX_UNREADABLE_NOTES + 1:
            yield Notice(Text("log.more_damaged", line=self._line, name=self.path.name))
