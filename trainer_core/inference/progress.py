"""Progress of a scoring, the time left, and its cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from trainer_core.runs.compare_events import ScoringProgress
from trainer_core.texts import NO_TEXT, Text

REPORT_SECONDS = 1.0


class ScoringCancelled(Exception):
    """The user wants no score any more."""


class ScoringTracker:
    """Tells how far each part is, at most once a second.

    Args:
        say: hears of it.
        cancelled: ends it.
        parts: how many there will be.
        seconds: between two words.
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
        """The next part, of so many tokens.

        Raises:
            Stopped: cancelled.
        """
        self.part, self.number, self.total, self.done = part, self.number + 1, max(total, 1), 0
        self.began, self.last = time.monotonic(), 0.0
        self.add(0)

    def add(self, count: int) -> None:
        """So many more are done.

        Raises:
            Stopped: cancelled.
        """
        self.advance_to(self.done + count)

    def advance_to(self, done: int) -> None:
        """So many are done in all.

        Raises:
            Stopped: cancelled.
        """
        if self.cancelled.is_set():
            raise ScoringCancelled
        self.done = min(done, self.total)
        now = time.monotonic()
        if now - self.last >= self.seconds or self.done == self.total:
            self.last = now
            left = round((now - self.began) / self.done * (self.total - self.done), 1) if self.done else None
            self.say(ScoringProgress(self.part, self.number, self.parts, self.done, self.total, left))
