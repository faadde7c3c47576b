"""One run folder as the app sees it: what its events say, whether its worker lives, and why a dead one died."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from trainer_core.errors import ConfigError
from trainer_core.jobs import stall
from trainer_core.runs import control, exit_codes, heartbeat, run_folder
from trainer_core.runs.event_log import Tail
from trainer_core.runs.events import Phase, Status
from trainer_core.runs.run_state import RunView, fold, folded, settle, unreadable
from trainer_core.system import untrusted_files
from trainer_core.system.untrusted_files import UnsafeFile


class Watched:
    """One run folder: its tail, and the view folded from it so far."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self.process: subprocess.Popen[bytes] | None = None
        self._tail = Tail(run_dir / "events.jsonl")
        self._folded = RunView(untrusted_files.printable_id(run_dir))
        self._blocked = ""
        """Why its log cannot be read."""
        self.view = self._folded

    @classmethod
    def again(cls, run_dir: Path) -> Watched:
        """A run that is gone on with: what an earlier worker said last is not what the new one says.

        Raises:
            ConfigError: there is a log that cannot be read.
        """
        watched = cls(run_dir)
        watched.read()
        if watched._blocked:
            raise ConfigError(f"The run {watched.view.id} cannot be resumed. {watched._blocked}")
        watched._folded = fold(watched._folded, Status(Phase.QUEUED, "Going on"))
        watched.view = watched._folded
        return watched

    def look(self) -> None:
        """Read what is new, and whether its worker lives, which only a run without a last word is asked."""
        if not self.view.phase.active and not self._tail.grew():
            return
        self.read()
        view = self.settled() if self._folded.phase.active and not self._blocked else self._folded
        if self._blocked:
            view = replace(view, phase=Phase.FAILED, error=self._blocked, unreadable=self._blocked)
        self.view = view

    def settled(self) -> RunView:
        """The view of a run at work. Life is asked before the events are read, so that what was said last is not missed."""
        code = self.process.poll() if self.process else None
        lives = (self.process is not None and code is None) or heartbeat.worker_lives(self.run_dir)
        self.read()
        if not self._folded.phase.active:
            return self._folded
        if lives:
            beat, word = (heartbeat.seconds_since(self.run_dir / name) for name in ("heartbeat.json", "events.jsonl"))
            return replace(self._folded, stalled=stall.stalled(self._folded, beat, word))
        asked = control.control(self.run_dir)
        if asked and asked.request == "end":
            return replace(self._folded, phase=Phase.STOPPED, detail=f"{asked.why} {self._folded.kept}")
        return explained(settle(self._folded, lives, run_folder.last_line(self.run_dir)), code)

    def read(self) -> None:
        """Take in what is new. A log that cannot be read is what the view says until it can.

        Raises:
            OSError: one that was read before cannot be read at this moment.
        """
        try:
            self._folded, self._blocked = folded(self._folded, self._tail), ""
        except OSError as error:
            if not isinstance(error, UnsafeFile) and (self._folded.points or not isinstance(error, PermissionError)):
                raise
            self._blocked = unreadable("events.jsonl", error)


def explained(view: RunView, code: int | None) -> RunView:
    """A failed view with what the exit code tells, where nobody was left to say it: only the app that started it knows."""
    return replace(view, error=f"{view.error} It {exit_codes.told(code)}.") if code else view
