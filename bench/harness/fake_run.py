"""A worker that makes a step a second and nothing else, until it is ended: `python -m bench.harness.fake_run RUN_DIR POINTS`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench.harness import fixtures
from trainer_core.runs import heartbeat
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Phase, PhaseChanged


def main() -> None:
    run_dir, points = Path(sys.argv[1]), int(sys.argv[2])
    emit = EventLog(run_dir / "events.jsonl")
    with heartbeat.heartbeat_thread(run_dir):
        emit(PhaseChanged(Phase.TRAINING, stage="dpo"))
        for at in range(points + 1, 2 * points):
            emit(fixtures.make_step("dpo", at, 2 * points))
            time.sleep(1)


if __name__ == "__main__":
    main()
