"""Progress, remaining time and cancellation of work in parts: a scoring, an export."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from trainer_core.texts import NO_TEXT, Text

REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class PartProgress:
    """`done` of `total` in part `number` of `parts`, in a unit of the work.

    seconds_left: to the end of this part, None before the first measurement.
    """

    part: Text
    number: int
    parts: int
    done: int
    total: int
    seconds_left: float | None


class Cancelled(Exception):
    """The user cancelled the work."""


P = TypeVar("P", bound=PartProgress)


class ProgressTracker(Generic[P]):
    """Reports the progress of each part. Every method but the first raises Cancelled once the user has cancelled.

    Args:
        kind: the event of a report.
        say: called with each report.
        parts: number of parts in all.
        seconds: between two reports at least.
    """

    def __init__(
        self,
        kind: type[P],
        say: Callable[[P], None],
        cancelled: threading.Event,
        parts: int = 1,
        seconds: float = REPORT_SECONDS,
    ):
        self.kind, self.say, self.cancelled, self.parts, self.seconds = kind, say, cancelled, parts, seconds
        self.part, self.number, self.total, self.done = NO_TEXT, 0, 1, 0
        self.began = self.last = 0.0

    def begin(self, part: Text, total: int = 1) -> None:
        """Start the next part."""
        self.part, self.number, self.total, self.done = part, self.number + 1, max(total, 1), 0
        self.began, self.last = time.monotonic(), 0.0
        self.add(0)

    def add(self, count: int) -> None:
        """Count this many more."""
        self.advance_to(self.done + count)

    def report(self, done: int, total: int) -> None:
        """Set what is done of a part whose total shows later."""
        self.total = max(total, 1)
        self.advance_to(done)

    def advance_to(self, done: int) -> None:
        """Set what is done in this part."""
        if self.cancelled.is_set():
            raise Cancelled
        self.done = min(done, self.total)
        now = time.monotonic()
        if now - self.last >= self.seconds or self.done == self.total:
            self.last = now
            left = round((now - self.began) / self.done * (self.total - self.done), 1) if self.done else None
            self.say(self.kind(self.part, self.number, self.parts, self.done, self.total, left))
