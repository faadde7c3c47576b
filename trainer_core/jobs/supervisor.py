"""One device, one job: combines the parts that start, watch and end workers, and refreshes them in a loop."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from trainer_core.jobs import stall
from trainer_core.jobs.compare_control import CompareControl
from trainer_core.jobs.device import DeviceChoice, DeviceMonitor
from trainer_core.jobs.export_control import ExportControl
from trainer_core.jobs.import_control import ImportControl
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.run_control import RunControl
from trainer_core.jobs.shutdown import Shutdown
from trainer_core.jobs.spawn import WORKER_COMMAND, WorkerSpawner
from trainer_core.jobs.storage_control import StorageControl
from trainer_core.runs.workspace import Workspace
from trainer_core.system import hardware, malloc
from trainer_core.system.hardware import Machine
from trainer_core.system.redact import redact_text

ROUND_SECONDS = 1.0


class Supervisor:
    """The parts, and a loop over them once a second.

    Args:
        workspace: folder of runs, models and locks.
        command: starts a worker; the run folder is appended.
        device: "auto" takes the GPU if there is one, "cpu" never does.
        read_machine: reads the hardware once a second, from this thread only.
        ahead: preload workers, see `WorkerSpawner.preload_for`.
        session: context held open between readings.
        patience: allowed silence after a stop request, see `Shutdown`.
    """

    def __init__(
        self,
        workspace: Workspace,
        command: Sequence[str] = WORKER_COMMAND,
        device: DeviceChoice = "auto",
        read_machine: Callable[[], Machine] = hardware.detect_machine,
        ahead: bool = False,
        session: Callable[[], AbstractContextManager[None]] = hardware.nvml_session,
        patience: stall.StopTimeouts = stall.STOP_TIMEOUTS,
    ):
        self.workspace, self.session = workspace, session
        self.device = DeviceMonitor(device, read_machine)
        self.registry = RunRegistry(workspace)
        self.spawner = WorkerSpawner(self.registry, self.device, command, ahead)
        self.compare = CompareControl(self.registry, self.spawner)
        self.control = RunControl(self.registry, self.spawner, self.compare)
        self.exports = ExportControl(self.registry, self.spawner)
        self.imports = ImportControl(self.registry, self.spawner, self.compare)
        self.storage = StorageControl(self.registry, self.spawner, self.compare, self.exports, self.imports)
        self.shutdown = Shutdown(self.registry, self.spawner, patience)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="supervisor", daemon=True)
        with malloc.pause_gc():
            self.registry.refresh()
        self.control.repair_all()

    def watch(self) -> Supervisor:
        """Start the loop in a thread."""
        malloc.configure_malloc()
        self._thread.start()
        return self

    def close(self) -> None:
        """End the loop and Compare. A training run continues."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.storage.stop_move()
        self.compare.close_comparison()
        self.spawner.stop_warm_worker()

    def _loop(self) -> None:
        """Loop with NVML held open until an error: a card that returns is only visible after NVML restarts."""
        self._trimmed = time.monotonic()
        while not self._ended.is_set():
            with self.session():
                while self._turn() and not self.device.machine.problem:
                    pass

    def _turn(self) -> bool:
        """One round. False: the app ends."""
        if self._ended.wait(ROUND_SECONDS):
            return False
        if time.monotonic() > self._trimmed + malloc.TRIM_SECONDS:
            malloc.release_free_memory()
            self._trimmed = time.monotonic()
        try:
            self.device.refresh()
            self.registry.refresh()
            self.exports.refresh()
            self.shutdown.enforce_stop_requests()
            self.spawner.update_warm_worker()
        except Exception:  # shown in the sidebar; the next round may succeed
            self.registry.last_error = redact_text(traceback.format_exc())
        return True


def wait_for(condition: Callable[[], bool], seconds: float, every: float = 0.2) -> bool:
    """Wait for the condition. False: `seconds` have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(every)
    return condition()
