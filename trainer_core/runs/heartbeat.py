"""Which process works on a run, and whether it is alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import Field

from trainer_core.errors import DiskError
from trainer_core.runs.control import StopRequests, read_request
from trainer_core.runs.run_folder import parent_processes
from trainer_core.schema import StrictModel
from trainer_core.system import untrusted_files
from trainer_core.system.durable import write_atomically

BEAT_SECONDS = 2.0
WARM_WORKER_MODULE = "trainer_core.worker.warm"
"""Module of a warm worker, which starts before its run: its arguments do not name the run."""
POLL_SECONDS = 0.5
"""How often a worker looks for a request: a stop takes effect within half a second."""


class Heartbeat(StrictModel):
    """The process that works on a run. `created` is its start in seconds since 1970."""

    pid: int = Field(ge=1, le=2**31 - 1)
    created: float
    run_id: str


def is_alive(beat: Heartbeat | None) -> bool:
    """Is the process that wrote this heartbeat alive? Also compares start and run, because pids are reused."""
    try:
        return beat is not None and find_process(beat) is not None
    except psutil.AccessDenied:
        return True


def find_process(beat: Heartbeat) -> psutil.Process | None:
    """The process that wrote this heartbeat, if it is alive.

    Raises:
        psutil.AccessDenied: the system refuses access.
    """
    try:
        process = psutil.Process(beat.pid)
        arguments = process.cmdline()  # empty for an instant during exec
        same = (
            process.status() != psutil.STATUS_ZOMBIE
            and abs(process.create_time() - beat.created) < 2  # clock corrections move it by up to a second
            and (not arguments or beat.run_id in " ".join(arguments) or WARM_WORKER_MODULE in arguments)
        )
        return process if same else None
    except psutil.NoSuchProcess:
        return None


def read_heartbeat(run_dir: Path) -> Heartbeat | None:
    try:
        return untrusted_files.load_json_model(Heartbeat, run_dir, "heartbeat.json")[0]
    except (OSError, ValueError):
        return None


def seconds_since_write(file: Path) -> float:
    """Seconds since a file was last written; 0 if it is missing."""
    try:
        return max(0.0, time.time() - file.stat().st_mtime)
    except OSError:
        return 0.0


def is_worker_alive(run_dir: Path) -> bool:
    """Does this run have a process? Before its first heartbeat a worker is found by its arguments."""
    return is_alive(read_heartbeat(run_dir)) or any(processes_named(run_dir))


def processes_named(run_dir: Path) -> Iterator[psutil.Process]:
    """Workers whose arguments name this run."""
    for process in worker_processes():
        if run_dir.name in " ".join(process.info["cmdline"]):
            yield process


def worker_processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline", "status"]):
        args = process.info["cmdline"] or []
        if "trainer_core.worker" in args or "tests.support.fake_worker" in args:
            yield process


def list_processes(run_dir: Path) -> list[psutil.Process]:
    """All processes of a run, found by pid and start time."""
    beat = read_heartbeat(run_dir)
    worker = find_process(beat) if beat else None
    found = (one for first in ([worker] if worker else processes_named(run_dir)) for one in process_family(first))
    return list(dict.fromkeys(found))


def process_family(worker: psutil.Process) -> Iterator[psutil.Process]:
    """First the worker's parent, which would report its end, then the worker, then its children."""
    yield from reversed(list(parent_processes(worker)))
    yield worker
    with suppress(psutil.Error):
        yield from worker.children(recursive=True)


def terminate(run_dir: Path, kill: bool = False) -> None:
    """Ask every process of a run to end, or kill them."""
    for process in list_processes(run_dir):
        with suppress(psutil.Error):
            process.kill() if kill else process.terminate()


def write_heartbeat(run_dir: Path, pid: int | None = None) -> None:
    """Write the heartbeat of a process, by default of this one.

    Raises:
        DiskError: the disk is full.
        psutil.NoSuchProcess: there is no process with this pid.
    """
    worker = psutil.Process(pid)
    heartbeat = Heartbeat(pid=worker.pid, created=worker.create_time(), run_id=run_dir.name)
    write_atomically(run_dir / "heartbeat.json", heartbeat.model_dump_json())


@contextmanager
def heartbeat_thread(run_dir: Path) -> Iterator[StopRequests]:
    """While the block runs, a thread writes heartbeats and reads requests."""
    wants, ended = StopRequests(), threading.Event()
    write_heartbeat(run_dir)

    def run() -> None:
        rounds = 0
        while not ended.wait(POLL_SECONDS):
            rounds += 1
            if wish := read_request(run_dir):
                wants.receive(wish)
            if rounds % round(BEAT_SECONDS / POLL_SECONDS) == 0:
                with suppress(
                    DiskError
                ):  # a missed heartbeat is harmless; the thread must survive, because it reads requests
                    write_heartbeat(run_dir)

    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield wants
    finally:
        ended.set()
        thread.join()
