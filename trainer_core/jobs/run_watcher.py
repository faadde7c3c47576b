"""A run folder as the app sees it: its events, whether its worker is alive, and why it died."""

from __future__ import annotations

import subprocess
import traceback
from dataclasses import replace
from pathlib import Path

from trainer_core.errors import ConfigError
from trainer_core.jobs import stall
from trainer_core.runs import control, exit_codes, heartbeat, run_folder
from trainer_core.runs.event_log import Tail
from trainer_core.runs.events import Phase, PhaseChanged
from trainer_core.runs.run_state import RunState, apply, apply_all, mark_dead, unreadable_reason
from trainer_core.system import untrusted_files
from trainer_core.system.redact import redact_text
from trainer_core.system.untrusted_files import UnsafeFile
from trainer_core.texts import NO_TEXT, Text


class RunWatcher:
    """Reads one run folder and folds its events into a state."""

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir
        self.process: subprocess.Popen[bytes] | None = None
        self._tail = Tail(run_dir / "events.jsonl")
        self._folded = RunState(untrusted_files.printable_id(run_dir))
        self._blocked = NO_TEXT
        """Why the log cannot be read."""
        self.state = self._folded

    @classmethod
    def for_resume(cls, run_dir: Path) -> RunWatcher:
        """A resumed run: the previous worker's last event no longer applies.

        Raises:
            ConfigError: the log cannot be read.
        """
        watched = cls(run_dir)
        watched.read_events()
        if watched._blocked:
            raise ConfigError("run_watcher.blocked", run=watched.state.id, reason=watched._blocked)
        watched._folded = apply(watched._folded, PhaseChanged(Phase.QUEUED, Text("run_watcher.resuming")))
        watched.state = watched._folded
        return watched

    def refresh(self) -> None:
        """Read new events and check that the worker is alive, unless the run has a final event."""
        if not self.state.phase.is_active and not self._tail.has_new_bytes():
            return
        self.read_events()
        view = self.current_state() if self._folded.phase.is_active and not self._blocked else self._folded
        if self._blocked:
            view = replace(view, phase=Phase.FAILED, error=self._blocked, unreadable=str(self._blocked))
        self.state = view

    def current_state(self) -> RunState:
        """The state of an active run. The process is checked before the events are read, so that no final event is missed."""
        code = self.process.poll() if self.process else None
        lives = (self.process is not None and code is None) or heartbeat.is_worker_alive(self.run_dir)
        self.read_events()
        if not self._folded.phase.is_active:
            return self._folded
        if lives:
            beat, word = (
                heartbeat.seconds_since_write(self.run_dir / name) for name in ("heartbeat.json", "events.jsonl")
            )
            return replace(self._folded, stalled=str(stall.stall_reason(self._folded, beat, word)))
        asked = control.read_control(self.run_dir)
        if asked and asked.request == "end":
            detail = Text("run.ended_on_request", why=asked.why, hint=self._folded.resume_hint)
            return replace(self._folded, phase=Phase.STOPPED, detail=detail)
        return with_exit_reason(mark_dead(self._folded, lives, run_folder.last_log_line(self.run_dir)), code)

    def read_events(self) -> None:
        """Fold in new events. While the log is unreadable, the state says so.

        Raises:
            OSError: a log that was read before cannot be read now.
        """
        try:
            self._folded, self._blocked = apply_all(self._folded, self._tail), NO_TEXT
        except OSError as error:
            if not isinstance(error, UnsafeFile) and (self._folded.points or not isinstance(error, PermissionError)):
                raise
            self._blocked = unreadable_reason("events.jsonl", error)


def refresh_watchers(watchers: dict[str, RunWatcher], parent: Path) -> str:
    """Watch every run folder in `parent`, and refresh each from its files.

    Returns:
        The traceback of the newest bug, without secrets; empty if there was none. One bad folder must not hide the others.
    """
    for run_dir in run_folder.list_runs(parent):
        if untrusted_files.printable_id(run_dir) not in watchers:
            watchers[untrusted_files.printable_id(run_dir)] = RunWatcher(run_dir)
    trouble = ""
    for watcher in list(watchers.values()):
        try:
            watcher.refresh()
        except Exception:
            trouble = redact_text(traceback.format_exc())
    return trouble


def with_exit_reason(view: RunState, code: int | None) -> RunState:
    """Add the exit code to the error of a run without a final event; only the app that started it knows the code."""
    if not code:
        return view
    return replace(view, error=Text("worker.error_and_exit", error=view.error, exit=exit_codes.describe_exit(code)))
