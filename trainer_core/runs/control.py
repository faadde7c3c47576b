"""Stop, pause or end, asked through a file."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trainer_core.schema import Strict
from trainer_core.system import untrusted_files
from trainer_core.system.durable import write_atomically as write_atomically

Request = Literal["stop", "pause", "end"]


class Control(Strict):
    """What control.json asks: that a worker keeps what it has learned and ends, that it leaves off for a while, or that its
    processes are ended from outside, and why."""

    request: Request
    why: str = ""


def request(run_dir: Path, wish: Request, why: str = "") -> None:
    """Ask the worker of a run for something; it obeys after its current step."""
    write_atomically(control_file(run_dir), Control(request=wish, why=why).model_dump_json())


def withdraw_request(run_dir: Path) -> None:
    """What was asked of an earlier worker does not hold for the next."""
    control_file(run_dir).unlink(missing_ok=True)


def control_file(run_dir: Path) -> Path:
    return run_dir / "control.json"


def control(run_dir: Path) -> Control | None:
    try:
        return untrusted_files.load(Control, run_dir, "control.json")[0]
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Control(request="stop")  # somebody asked for something: to leave off and keep everything is never wrong


def requested(run_dir: Path) -> Request | None:
    asked = control(run_dir)
    return asked.request if asked else None


@dataclass
class Wants:
    """What the user asked of a running worker. Set by the heartbeat thread, read between steps."""

    stop: threading.Event = field(default_factory=threading.Event)
    pause: threading.Event = field(default_factory=threading.Event)

    def hear(self, wish: Request) -> None:
        """Who is to be ended and can still leave by itself leaves as if it was asked to stop."""
        (self.pause if wish == "pause" else self.stop).set()

    @property
    def to_leave(self) -> bool:
        """Is this step to be the last for now?"""
        return self.stop.is_set() or self.pause.is_set()
