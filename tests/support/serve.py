"""The app with a chosen worker and machine: `python -m tests.support.serve --workspace DIR --port N [--worker 20] [--gpu 24]`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import app
from tests.support.readings import replay
from tests.support.scripted import scripted_command
from trainer_core.jobs.spawn import WORKER_COMMAND
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.workspace import Workspace
from trainer_core.system.format import GIB
from trainer_core.system.hardware import Cpu, Gpu, GpuProcess, Machine, detect_machine

CPU = Cpu("Example processor", 8, 32 * GIB, 20 * GIB)


def machine(gpu_gib: float) -> Machine:
    """A card with this much memory, or none for 0. A desktop and a browser hold 2.1 GiB of it."""
    if not gpu_gib:
        return Machine(CPU, problem="")
    holders = (GpuProcess("chrome", 4_000_001, int(1.6 * GIB)), GpuProcess("Xorg", 4_000_002, int(0.5 * GIB)))
    total = int(gpu_gib * GIB)
    card = Gpu(
        0, "GPU-00000000-0000", "RTX 4090", total, total - int(2.1 * GIB), "565.77", (8, 9), 41, 38.0, 3, holders
    )
    return Machine(CPU, (card,))


def recorded(file: Path) -> Callable[[], Machine]:
    """The hardware of the recorded reading that the file names now."""
    return lambda: replace(
        detect_machine(replay(file.read_text().strip()), environ={}, devices=file.parent / "no-dev"), cpu=CPU
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is asked to end."""
    top = argparse.ArgumentParser()
    top.add_argument("--workspace", type=Path, required=True)
    top.add_argument("--port", type=int, required=True)
    top.add_argument("--worker", default="20", help="steps a second of tests.support.fake_worker, or 'real'")
    top.add_argument("--gpu", type=float, default=0, help="GiB of the pretended card; 0: none")
    top.add_argument("--reading", type=Path, help="a file that names a recorded reading; it is looked at each second")
    top.add_argument("--password", default="", help="that of --lan; without it the app is on 127.0.0.1 alone")
    top.add_argument("--own", default="", help="the page's name below .localhost")
    args = top.parse_args(arguments)
    workspace = Workspace(args.workspace.resolve())
    command = WORKER_COMMAND if args.worker == "real" else scripted_command(args.worker)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    read = recorded(args.reading) if args.reading else lambda: machine(args.gpu)
    supervisor = Supervisor(workspace, command, read_machine=read).watch()
    app.open_page(app.build_page(supervisor), args.port, workspace, args.password, args.own)
    ended.wait()
    supervisor.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
