"""Progress, remaining time and cancellation of a scoring."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from trainer_core.runs.compare_events import ScoringProgress
from trainer_core.texts import NO_TEXT, Text

REPORT_SECONDS = 1.0


class ScoringCancelled(Exception):
    """The user cancelled the scoring."""


class ScoringTracker:
    """Reports the progress of each part.

    Args:
        say: called with each report.
        cancelled: raises ScoringCancelled at the next report.
        parts: number of parts in all.
        seconds: between two reports at least.
    """

    def __init__(
        self,
        say: Callable[[ScoringProgress], None],
        cancelled: threading.Event,
        parts: int = 1,
        seconds: float = REPORT_SECONDS,
    ):
        self.say, self.cancelled, self.parts, self.seconds = say, cancelled, parts, seconds
        self.part, self.number, self.total, self.done = NO_TEXT, 0, 1, 0
        self.began = self.last = 0.0

    def begin(self, part: Text, total: int) -> None:
        """Start the next part; `total` in tokens.

        Raises:
            ScoringCancelled: the user cancelled.
        """
        self.part, self.number, self.total, self.done = part, self.number + 1, max(total, 1), 0
        self.began, self.last = time.monotonic(), 0.0
        self.add(0)

    def add(self, count: int) -> None:
        """Count this many more tokens.

        Raises:
            ScoringCancelled: the user cancelled.
        """
        self.advance_to(self.done + count)

    def advance_to(self, done: int) -> None:
        """Set the tokens done in this part.

        Raises:
            ScoringCancelled: the user cancelled.
        """
        if self.cancelled.is_set():
            raise ScoringCancelled
        self.done = min(done, self.total)
        now = time.monotonic()
        if now - self.last >= self.seconds or self.done == self.total:
            self.last = now
            left = round((now - self.began) / self.done * (self.total - self.done), 1) if self.done else None
            self.say(ScoringProgress(self.part, self.number, self.parts, self.done, self.total, left))
