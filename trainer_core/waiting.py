"""A worker that waits for its run with the libraries imported, so that nobody waits for them after the click.

The app starts `python -m trainer_core.waiting` and sends it one line: the run folder. From then on it is that run's worker, as
independent of the app as any other. Without a line it ends with the app, since its stdin is the app's.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from trainer_core import hardware, keeper, run_files, runs, worker
from trainer_core.errors import DiskError

POSSIBLE = os.name == "posix"
"""It takes a fork: the parent must stay small to outlive a lack of memory (`keeper`), so the child imports ahead of it."""
LEAST_BYTES = 4 * 1024**3
"""Main memory that must be available: what is imported takes about 1 GiB."""
LIBRARIES = {"cpu": ("trainer_core.engine",), "cuda": ("torch", "datasets", "safetensors.torch")}
"""What is imported ahead. Importing unsloth opens the card, which takes memory on it, so there it waits for the run."""


@dataclass(frozen=True)
class Waiting:
    """The app's side. `environment` is what the worker was started with: it serves only runs that want the same."""

    process: subprocess.Popen[bytes]
    environment: Mapping[str, str]

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def serve(self, run_dir: Path) -> bool:
        """Make it the worker of a run. False: it is gone."""
        assert self.process.stdin
        try:
            self.process.stdin.write(os.fsencode(run_dir.resolve()) + b"\n")
            self.process.stdin.close()
        except OSError:
            return False
        return self.lives

    def dismiss(self) -> None:
        """End it, and wait until it is gone."""
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def started(log: Path, environment: Mapping[str, str], **options: Any) -> Waiting:
    """Start one. `log` takes what the libraries print while they are imported."""
    with log.open("wb") as file:
        command = [sys.executable, "-m", runs.WAITING]
        process = subprocess.Popen(
            command,
            cwd=runs.PROJECT,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            **options,
        )
    return Waiting(process, environment)


def main(work: Callable[[Path], int] = worker.main) -> int:
    """The parent: begin a child that imports, wait for the run, and keep the child going as any worker is kept."""
    reader, writer = os.pipe()
    begun = keeper.forked(partial(wait, reader, writer, work))
    os.close(reader)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):  # the app is gone
        os.close(writer)
        return keeper.ended(begun)
    run_dir = Path(os.fsdecode(line[:-1]))
    with contextlib.suppress(DiskError):  # which the child will meet and tell
        runs.beat(run_dir)
        worker.say_importing(run_dir)
    speak_into(run_dir)
    first: int | None = begun
    try:
        os.write(writer, line)
    except BrokenPipeError:  # it did not live to see the run
        keeper.ended(begun)
        first = None
    os.close(writer)
    if first:
        stand_in(run_dir, first)
    return worker.kept(run_dir, work, first)


def stand_in(run_dir: Path, child: int) -> None:
    """Beat for the child, which may still be importing, until it beats itself or has ended."""
    while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        time.sleep(runs.BEAT_SECONDS)
        said = runs.read_heartbeat(run_dir)
        if said and said.pid == child:
            return
        with contextlib.suppress(DiskError):
            runs.beat(run_dir)


def wait(reader: int, writer: int, work: Callable[[Path], int]) -> int:
    """The child: import, wait for the run, and do it. 0 if none comes."""
    os.close(writer)
    for name in LIBRARIES["cuda" if hardware.shows_card(os.environ) else "cpu"]:
        importlib.import_module(name)
    with os.fdopen(reader, "rb") as pipe:
        line = pipe.readline()
    if not line.endswith(b"\n"):
        return 0
    run_dir = Path(os.fsdecode(line[:-1]))
    speak_into(run_dir)
    return work(run_dir)


def speak_into(run_dir: Path) -> None:
    """From now on what this process prints goes to the run's log, and it hears nothing more from the app."""
    sys.stdout.flush()
    sys.stderr.flush()
    with run_files.appended(run_dir, "worker.log") as log, open(os.devnull, "rb") as nothing:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.dup2(nothing.fileno(), 0)


if __name__ == "__main__":
    sys.exit(main())
