"""Starts worker processes, on demand or preloaded. Only this file and `warm_worker` do."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
from filelock import Timeout

from trainer_core.config.recipe import STARTER
from trainer_core.errors import BusyError, DeviceError
from trainer_core.jobs import warm_worker
from trainer_core.jobs.device import DeviceMonitor
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.warm_worker import WarmWorker
from trainer_core.models import starter
from trainer_core.runs.events import Phase
from trainer_core.runs.workspace import ensure_dir
from trainer_core.system import durable, hardware, kernel_cache, packages, project, untrusted_files
from trainer_core.system.file_lock import ProcessLock

WORKER_COMMAND = (sys.executable, "-m", "trainer_core.worker")
PRELOAD_SECONDS, IDLE_SECONDS = 2.0, 600.0
"""Start of preloading, seconds after the Start tab opens (the page is drawn by then), and longest wait of a preloaded worker."""


def is_memory_low() -> bool:
    return psutil.virtual_memory().available < warm_worker.MIN_FREE_BYTES


CREATE_NO_WINDOW, CREATE_NEW_PROCESS_GROUP = 0x08000000, 0x00000200
"""Process flags on Windows, see CreateProcess."""


def detached_options(system: str = sys.platform) -> Mapping[str, Any]:
    """Options that protect a worker from Ctrl-C and from the end of the app's console.

    On Windows it gets a hidden console: without one, each program it starts, such as a compiler, would open a window.
    """
    return (
        {"creationflags": CREATE_NO_WINDOW | CREATE_NEW_PROCESS_GROUP}
        if system == "win32"
        else {"start_new_session": True}
    )


DETACHED_OPTIONS = detached_options()


class WorkerSpawner:
    """Starts workers, one start at a time.

    Args:
        command: starts a worker; the run folder is appended.
        ahead: preload workers, see `preload_for`.
    """

    def __init__(self, registry: RunRegistry, device: DeviceMonitor, command: Sequence[str], ahead: bool):
        self.registry, self.device, self.command = registry, device, tuple(command)
        self.root = registry.workspace.root
        self.preload = ahead and warm_worker.IS_SUPPORTED
        self.waiting: WarmWorker | None = None
        self._expected: tuple[str, float] | None = None
        self._starting = threading.Lock()

    @property
    def start_lock_file(self) -> Path:
        return ensure_dir(self.root) / "start.lock"

    @property
    def move_lock_file(self) -> Path:
        """Held while models, runs or exports move to another drive, by whichever process moves them."""
        return ensure_dir(self.root) / "move.lock"

    @contextlib.contextmanager
    def start_lock(self) -> Iterator[None]:
        """One start at a time across all processes on the workspace, so that each sees the previous one.

        Raises:
            BusyError: models, runs or exports are moving to another drive.
        """
        with self._starting, ProcessLock(self.start_lock_file):
            self.require_no_move()
            yield

    def require_no_move(self) -> None:
        try:
            with ProcessLock(self.move_lock_file).acquire(timeout=0):
                return
        except Timeout:
            raise BusyError("storage.moving") from None

    def start_worker(self, run_dir: Path, model: str) -> subprocess.Popen[bytes]:
        """A trainer for a run folder: the preloaded one if it fits, else a new one."""
        kernel_cache.trim_kernel_cache(kernel_cache.kernel_cache_folder(self.root.resolve()))
        ready, self.waiting = self.waiting, None
        if ready and ready.environment == self.worker_environment(model) and ready.assign(run_dir):
            return ready.process
        if ready:
            ready.stop()
        return self.spawn_worker(run_dir, model, stdin=subprocess.DEVNULL)

    def spawn_worker(
        self, run_dir: Path, model: str, stdin: int, variables: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.Popen[bytes]:
        """A worker for a run folder. A trainer gets its own session and no pipe, so that the app cannot block it.

        Args:
            variables: instead of those of the same names in its environment.
        """
        with durable.disk_errors(run_dir / "worker.log"), untrusted_files.open_for_append(run_dir, "worker.log") as log:
            return subprocess.Popen(
                [*self.command, str(run_dir.absolute())],
                cwd=project.PROJECT,
                env={**self.worker_environment(model), **variables},
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                **DETACHED_OPTIONS,
            )

    def worker_environment(self, model: str) -> dict[str, str]:
        """A worker's environment: the device by UUID, UTF-8, no telemetry, and no network if the model is local."""
        local = model == STARTER or os.path.isdir(project.expand_home(model))
        ours = {
            "PYTHONUTF8": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(project.PROJECT), os.environ.get("PYTHONPATH", "")))),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "UNSLOTH_DISABLE_STATISTICS": "1",
            **kernel_cache.kernel_cache_environment(kernel_cache.kernel_cache_folder(self.root.resolve())),
            "TOKENIZERS_PARALLELISM": "false",
            **({"HF_HUB_OFFLINE": "1"} if local else {}),
        }
        return {**os.environ, **ours, **hardware.worker_environment(self.device.gpu)}

    def run_file_facts(self, reasons: Sequence[str], model: str) -> dict[str, object]:
        """Fields of run.json beside the job, for this model."""
        versions = dict(packages.recorded_versions())
        if model == STARTER:
            versions[starter.NAME] = starter.EDITION
        gpu = self.device.gpu
        pinned = hardware.card_number_notice(gpu, hardware.worker_environment(gpu)) if gpu else ""
        return {
            "device": gpu.name if gpu else self.device.machine.cpu.name,
            "reasons": (*reasons, *filter(None, [pinned])),
            "versions": versions,
        }

    def preload_for(self, model: str) -> None:
        """The Start tab is open: preload a worker, so that training starts at once."""
        self._expected = model, time.monotonic()

    def update_warm_worker(self) -> None:
        """Start or stop the preloaded worker, depending on whether a run is likely."""
        if not self.preload or not self._starting.acquire(blocking=False):
            return
        try:
            wanted = self.warm_worker_environment()
            if self.waiting and (self.waiting.environment != wanted or not self.waiting.is_alive):
                self.stop_warm_worker()
            if wanted and not self.waiting:
                self.waiting = warm_worker.start_warm_worker(
                    ensure_dir(self.root) / "waiting.log", wanted, **DETACHED_OPTIONS
                )
        finally:
            self._starting.release()

    def warm_worker_environment(self) -> dict[str, str] | None:
        """Environment of the worker to preload; None: preload none."""
        if self._expected is None or self.registry.active_run:
            return None
        model, since = self._expected
        comparison = self.registry.comparison
        loads = comparison is not None and comparison.state.phase is Phase.LOADING
        seconds = time.monotonic() - since
        if seconds > IDLE_SECONDS or not self.waiting and (seconds < PRELOAD_SECONDS or loads or is_memory_low()):
            return None
        try:
            return self.worker_environment(model)
        except DeviceError:
            return None

    def stop_warm_worker(self) -> None:
        if self.waiting:
            self.waiting.stop()
            self.waiting = None
