"""Stop, pause or end, asked through a file."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trainer_core.schema import StrictModel
from trainer_core.system import untrusted_files
from trainer_core.system.durable import write_atomically

ControlAction = Literal["stop", "pause", "end"]


class ControlRequest(StrictModel):
    """What control.json asks: that a worker keeps what it has learned and ends, that it leaves off for a while, or that its
    processes are ended from outside, and why."""

    request: ControlAction
    why: str = ""


def send_request(run_dir: Path, action: ControlAction, why: str = "") -> None:
    """Ask the worker of a run for something; it obeys after its current step."""
    write_atomically(control_file(run_dir), ControlRequest(request=action, why=why).model_dump_json())


def clear_request(run_dir: Path) -> None:
    """What was asked of an earlier worker does not hold for the next."""
    control_file(run_dir).unlink(missing_ok=True)


def control_file(run_dir: Path) -> Path:
    return run_dir / "control.json"


def read_control(run_dir: Path) -> ControlRequest | None:
    try:
        return untrusted_files.load_json_model(ControlRequest, run_dir, "control.json")[0]
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return ControlRequest(
            request="stop"
        )  # somebody asked for something: to leave off and keep everything is never wrong


def read_request(run_dir: Path) -> ControlAction | None:
    asked = read_control(run_dir)
    return asked.request if asked else None


@dataclass
class StopRequests:
    """What the user asked of a running worker. Set by the heartbeat thread, read between steps."""

    stop: threading.Event = field(default_factory=threading.Event)
    pause: threading.Event = field(default_factory=threading.Event)

    def receive(self, action: ControlAction) -> None:
        """Who is to be ended and can still leave by itself leaves as if it was asked to stop."""
        (self.pause if action == "pause" else self.stop).set()

    @property
    def should_stop(self) -> bool:
        """Is this step to be the last for now?"""
        return self.stop.is_set() or self.pause.is_set()
