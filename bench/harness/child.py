"""A measurement in a process of its own that never outlives the one that asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from math import isinf
from pathlib import Path
from typing import Any

from trainer_core.system import project

LAST_LINES = 30


class ChildError(RuntimeError):
    """A measurement failed. The message is its last line; `log` has the last 30."""

    def __init__(self, log: Path, code: int = 1):
        self.code = code
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        lines = [line for line in text.splitlines() if line.strip()]
        super().__init__(lines[-1] if lines else "ended without a word")
        self.log = "\n".join(lines[-LAST_LINES:])


def run_child(command: Sequence[str], log: Path, seconds: float, environment: Mapping[str, str]) -> None:
    """Run a command to its end, its output in `log`.

    Raises:
        ChildError: it ended with another code than 0.
        subprocess.TimeoutExpired: it took longer than `seconds` (inf: there is no limit), and was killed.
    """
    with log.open("wb") as out:
        # nobody writes into the pipe: its end tells the child that this process is gone, however it went
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": out, "stderr": out, "start_new_session": True}
        child = subprocess.Popen(command, cwd=project.PROJECT, env={**os.environ, **environment}, **pipes)
        try:
            code = child.wait(None if isinf(seconds) else seconds)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            child.stdin.close()  # type: ignore[union-attr]  # ends what it started in its turn
    if code:
        raise ChildError(log, code)


def end_with_parent() -> None:
    """In a child of `run_child`: end at once when the parent ends, kill -9 included."""

    def wait() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock the ending interpreter wants
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
