"""The app's side of a preloaded worker."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from trainer_core.errors import DiskError
from trainer_core.runs import heartbeat
from trainer_core.system import project

IS_SUPPORTED = os.name == "posix"
"""Needs fork: the parent must stay small to survive a lack of memory (`worker/restart.py`), so the child preloads."""
MIN_FREE_BYTES = 4 * 1024**3
"""Free main memory required; the imports take about 1 GiB."""


@dataclass(frozen=True)
class WarmWorker:
    """A preloaded worker. It serves only runs that need the same `environment`."""

    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def assign(self, run_dir: Path) -> bool:
        """Make it the worker of a run. False: it has died.

        Its arguments do not name the run, so its first heartbeat is written here: the run is never without a process.
        """
        assert self.process.stdin
        try:
            with contextlib.suppress(DiskError):  # the worker will meet the same error and report it
                heartbeat.write_heartbeat(run_dir, self.process.pid)
            self.process.stdin.write(os.fsencode(run_dir.absolute()) + b"\n")
            self.process.stdin.close()
        except (OSError, psutil.NoSuchProcess):
            return False
        return self.is_alive

    def stop(self) -> None:
        """End it and wait for its exit."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def start_warm_worker(log: Path, environment: Mapping[str, str], **options: Any) -> WarmWorker:
    """Start one. `log` receives the output of the imports."""
    with log.open("wb") as file:
        command = [sys.executable, "-m", heartbeat.WARM_WORKER_MODULE]
        process = subprocess.Popen(
            command,
            cwd=project.PROJECT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            **options,
        )
    return WarmWorker(process, environment)
