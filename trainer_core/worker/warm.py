"""A preloaded worker: it imports the libraries and waits for its run, so that training starts at once.

The app starts `python -m trainer_core.worker.warm` and sends it one line: the run folder. It then becomes the worker of
that run, as independent of the app as any other. Without a line it ends with the app, which owns its stdin.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from trainer_core.errors import DiskError
from trainer_core.runs import heartbeat
from trainer_core.system import hardware, untrusted_files
from trainer_core.worker import restart, runner

LIBRARIES = {"cpu": ("trainer_core.training",), "cuda": ("torch", "datasets", "safetensors.torch")}
"""Preloaded imports. Importing unsloth opens the card and takes memory on it, so on CUDA it waits for the run."""


def main(work: Callable[[Path], int] = runner.main) -> int:
    """The parent: start a child that imports, wait for the run, then supervise the child like any worker."""
    reader, writer = os.pipe()
    begun = restart.fork_child(partial(wait_for_run, reader, writer, work))
    os.close(reader)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # the app has ended
        os.close(writer)
        return restart.wait_for_exit(begun)
    run_dir = Path(os.fsdecode(line[:-1]))
    with contextlib.suppress(DiskError):  # the child will meet the same error and report it
        runner.emit_importing(run_dir)
    redirect_output(run_dir)
    first: int | None = begun
    try:
        os.write(writer, line)
    except BrokenPipeError:  # the child died before the run
        restart.wait_for_exit(begun)
        first = None
    os.close(writer)
    if first:
        beat_for_child(run_dir, first)
    return runner.run_with_forks(run_dir, work, first)


def beat_for_child(run_dir: Path, child: int) -> None:
    """Write heartbeats for the child, which may still be importing, until it writes its own or has ended."""
    while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        time.sleep(heartbeat.BEAT_SECONDS)
        said = heartbeat.read_heartbeat(run_dir)
        if said and said.pid == child:
            return
        with contextlib.suppress(DiskError):
            heartbeat.write_heartbeat(run_dir)


def wait_for_run(reader: int, writer: int, work: Callable[[Path], int]) -> int:
    """The child: import, wait for the run and execute it. Returns 0 if none comes."""
    os.close(writer)
    for name in LIBRARIES["cuda" if hardware.has_card(os.environ) else "cpu"]:
        importlib.import_module(name)
    with os.fdopen(reader, "rb") as pipe:
        line = pipe.readline()
    if not line.endswith(b"\n"):
        return 0
    run_dir = Path(os.fsdecode(line[:-1]))
    redirect_output(run_dir)
    return work(run_dir)


def redirect_output(run_dir: Path) -> None:
    """Send all further output to the run's log, and detach stdin from the app."""
    sys.stdout.flush()
    sys.stderr.flush()
    with untrusted_files.open_for_append(run_dir, "worker.log") as log, open(os.devnull, "rb") as nothing:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.dup2(nothing.fileno(), 0)


if __name__ == "__main__":
    sys.exit(main())
