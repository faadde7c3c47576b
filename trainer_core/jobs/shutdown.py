"""Ends runs that ignore a stop request."""

from __future__ import annotations

import time

from trainer_core.jobs import stall
from trainer_core.jobs.registry import RunRegistry
from trainer_core.jobs.run_watcher import RunWatcher
from trainer_core.jobs.spawn import WorkerSpawner
from trainer_core.runs import control, heartbeat

ASLEEP_SECONDS = 30.0
"""Longer gaps between rounds mean that the computer slept or its clock was set: no run could answer meanwhile."""


class Shutdown:
    def __init__(self, registry: RunRegistry, spawner: WorkerSpawner, patience: stall.StopTimeouts):
        self.registry, self.spawner, self.patience = registry, spawner, patience
        self.awake_since = self.last_round = time.time()

    def enforce_stop_requests(self) -> None:
        """End runs that ignored a stop request. The state is in the run folder, so another app can resume them."""
        now = time.time()
        if now - self.last_round > ASLEEP_SECONDS:
            self.awake_since = now
        self.last_round = now
        for watcher in list(self.registry.watchers.values()):
            if watcher.state.phase.is_active and (asked := control.read_control(watcher.run_dir)):
                if asked.request == "end":
                    self.terminate_run(watcher)
                elif why := stall.stop_timeout_reason(watcher.state, self.seconds_unresponsive(watcher), self.patience):
                    control.send_request(watcher.run_dir, "end", str(why))

    def seconds_unresponsive(self, watcher: RunWatcher) -> float:
        """Seconds in which a run could have answered but did not; restarts when the app starts or wakes up."""
        files = control.control_file(watcher.run_dir), watcher.run_dir / "events.jsonl"
        return min(time.time() - self.awake_since, *map(heartbeat.seconds_since_write, files))

    def terminate_run(self, watcher: RunWatcher) -> None:
        """End the processes of a run, and kill those that stay. Waits for a simultaneous start and spares that worker."""
        with self.spawner.start_lock():
            asked = control.read_control(watcher.run_dir)
            if asked and asked.request == "end":
                since = heartbeat.seconds_since_write(control.control_file(watcher.run_dir))
                heartbeat.terminate(watcher.run_dir, kill=since > self.patience.kill)
