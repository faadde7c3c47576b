"""Requests to stop, pause or end a run, sent through a file."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trainer_core.schema import StrictModel
from trainer_core.system import untrusted_files
from trainer_core.system.durable import disk_errors, write_atomically

ControlAction = Literal["stop", "pause", "end"]


class ControlRequest(StrictModel):
    """Contents of control.json. stop: save and finish. pause: save and exit. end: the app ends the processes."""

    request: ControlAction
    why: str = ""


def send_request(run_dir: Path, action: ControlAction, why: str = "") -> None:
    """Send a request to a run's worker; it takes effect after the current step."""
    write_atomically(control_file(run_dir), ControlRequest(request=action, why=why).model_dump_json())


def clear_request(run_dir: Path) -> None:
    """Remove a request to an earlier worker before the next one starts.

    Raises:
        DiskError: it cannot be removed, such as a folder of this name.
    """
    file = control_file(run_dir)
    with disk_errors(file):
        file.unlink(missing_ok=True)


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
        )  # an unreadable request: stopping, which saves everything, is the safe choice


def read_request(run_dir: Path) -> ControlAction | None:
    asked = read_control(run_dir)
    return asked.request if asked else None


@dataclass
class StopRequests:
    """Requests to a running worker. Set by the heartbeat thread, read between steps."""

    stop: threading.Event = field(default_factory=threading.Event)
    pause: threading.Event = field(default_factory=threading.Event)

    def receive(self, action: ControlAction) -> None:
        """A worker that is asked to end but still runs treats it as a stop."""
        (self.pause if action == "pause" else self.stop).set()

    @property
    def should_stop(self) -> bool:
        return self.stop.is_set() or self.pause.is_set()
