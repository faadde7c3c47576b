"""The preloaded worker, as the app starts it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer_core.runs import heartbeat
from trainer_core.system import project

IS_SUPPORTED = os.name == "posix"
"""It takes a fork: the parent must stay small to survive a lack of memory (`worker/restart.py`), so the child preloads."""
MIN_FREE_BYTES = 4 * 1024**3
"""Main memory that must be available: what is imported takes about 1 GiB."""


@dataclass(frozen=True)
class WarmWorker:
    """The app's side. `environment` is what the worker was started with: it serves only runs that want the same."""

    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def assign(self, run_dir: Path) -> bool:
        """Make it the worker of a run. False: it is gone."""
        assert self.process.stdin
        try:
            self.process.stdin.write(os.fsencode(run_dir.resolve()) + b"\n")
            self.process.stdin.close()
        except OSError:
            return False
        return self.is_alive

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def start_warm_worker(log: Path, environment: Mapping[str, str], **options: Any) -> WarmWorker:
    """Start one. `log` takes what the libraries print while they are imported."""
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
