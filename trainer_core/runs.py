"""The run folder, the only protocol between the app and its workers: which file holds what, and who writes it.

run.json        app or CLI   the job as it was asked, immutable
control.json    app or CLI   the latest request: stop, pause or end now
events.jsonl    worker       everything it says; the supervisor adds to it only when a finished run is made longer
heartbeat.json  worker       every 2 s: pid, birth, run id
worker.log      worker       stdout and stderr of everything
held-out.jsonl  worker       the pairs that were set aside
checkpoints/    worker       what the run can be continued from
adapter-sft/ adapter-dpo/    the results
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import Field, PrivateAttr, ValidationError

from trainer_core import run_files
from trainer_core.config import Job, Strict, TrainJob
from trainer_core.durable import write_atomically as write_atomically
from trainer_core.errors import ConfigError, DiskError

PROJECT = Path(__file__).resolve().parent.parent
BEAT_SECONDS = 2.0
WAITING = "trainer_core.waiting"
"""The program of a worker that was started before its run, which its arguments therefore do not name."""
LOOK_SECONDS = 0.5
"""How often a worker looks for a request: a stop is noticed within half a second."""
MOST_NAMED = 5
"""Settings of another version that are named one by one."""
LOG_BYTES = 65_536


class RunFile(Strict):
    """What run.json holds. What another version left out is filled in from the folder, or has its default."""

    version: int = 1
    id: str = ""
    created: str = ""
    job: Job
    device: str = ""
    reasons: tuple[str, ...] = Field(default=(), description="why the app chose what the user did not")
    versions: dict[str, str] = Field(default_factory=dict)
    _left_out: tuple[str, ...] = PrivateAttr(default=())

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the file is not used, as sentences."""
        if not self._left_out:
            return ()
        names = ", ".join(map(run_files.plain, self._left_out[:MOST_NAMED]))
        more = len(self._left_out) - MOST_NAMED
        return (
            f"run.json has settings that this version of Tunebench does not know, and leaves out: {names}"
            f"{f' and {more} more' if more > 0 else ''}. What was trained is as it was.",
        )


@dataclass(frozen=True)
class Workspace:
    """Where everything of one user lies. Created on first use, readable by the owner only."""

    root: Path

    @property
    def runs(self) -> Path:
        return made(self.root / "runs")

    @property
    def compare(self) -> Path:
        return made(self.root / "compare")

    @property
    def models(self) -> Path:
        return made(self.root / "models")

    @property
    def data(self) -> Path:
        return made(self.root / "data")

    @staticmethod
    def of(run_dir: Path) -> Workspace:
        """The workspace that a run folder lies in."""
        return Workspace(run_dir.resolve().parent.parent)


def disk_free(workspace: Workspace) -> int:
    """Bytes that the workspace's disk has left."""
    return psutil.disk_usage(str(made(workspace.root))).free


def default_workspace() -> Path:
    """Beside the program, so that one folder holds everything; TUNEBENCH_WORKSPACE names another place."""
    return Path(os.environ.get("TUNEBENCH_WORKSPACE", PROJECT / "workspace"))


def made(folder: Path) -> Path:
    """The folder, created if needed, with those above it. Nobody but its owner can look into it.

    Raises:
        DiskError: it cannot be created.
    """
    try:
        for one in (*reversed(folder.parents), folder):
            one.mkdir(mode=0o700, exist_ok=True)
        close(folder)
    except OSError as error:
        raise DiskError(
            f"{folder} cannot be created: {error.strerror}. Choose another workspace with --workspace."
        ) from error
    return folder


def close(folder: Path) -> None:
    """Take what an earlier version, or whoever made the folder, allowed others; a place that is shared on purpose stays so."""
    about = folder.stat()
    if (
        sys.platform != "win32"
        and about.st_uid == os.getuid()
        and about.st_mode & 0o077
        and not about.st_mode & stat.S_ISVTX
    ):
        folder.chmod(0o700)


def create(parent: Path, job: Job, name: str, **facts: Any) -> Path:
    """A new run folder with its run.json.

    Raises:
        DiskError: the folder or the file cannot be written.
    """
    now = datetime.now(UTC)
    run_id = "-".join(filter(None, (now.strftime("%Y%m%d-%H%M%S"), slug(name), secrets.token_hex(2))))
    run_dir = made(parent / run_id)
    run = RunFile(id=run_id, created=now.isoformat(timespec="seconds"), job=job, **facts)
    write_atomically(run_dir / "run.json", run.model_dump_json(indent=1))
    return run_dir


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32]


def read_run(run_dir: Path) -> RunFile:
    """The run.json of a folder.

    Raises:
        ConfigError: it is missing or no regular file, or a value in it cannot be.
    """
    try:
        file, left_out = run_files.load(RunFile, run_dir, "run.json")
    except OSError as error:
        raise ConfigError(
            f"{run_files.plain(str(run_dir))}: no readable run.json ({error.strerror}), so this is not a run folder."
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = run_files.plain(".".join(str(part) for part in first["loc"]))[:200]
        name = run_files.printable_id(run_dir)
        raise ConfigError(f"{name}/run.json: {key}: {first['msg']}. It was made by another version.") from error
    except ValueError as error:
        raise ConfigError(
            f"{run_files.printable_id(run_dir)}/run.json cannot be read: {error}. It was damaged, or made by another version."
        ) from error
    file = file.model_copy(update={"id": run_files.printable_id(run_dir), "created": began(run_dir, file.created)})
    file._left_out = left_out
    return file


def began(run_dir: Path, told: str = "") -> str:
    """When a run began, in ISO's spelling with seconds and zone: as it was told, or else as the folder's name says, or else when
    the folder was changed last."""
    for text, read in ((told, datetime.fromisoformat), (run_dir.name[:15], from_name)):
        with suppress(ValueError):
            when = read(text)
            if 1970 <= when.year < 9999:  # with room for a day of any zone
                return (when if when.tzinfo else when.replace(tzinfo=UTC)).isoformat(timespec="seconds")
    return datetime.fromtimestamp(changed_at(run_dir), UTC).isoformat(timespec="seconds")


def from_name(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%d-%H%M%S").replace(tzinfo=UTC)


def changed_at(folder: Path) -> float:
    """Seconds since 1970; 0 where that is not known."""
    try:
        return min(max(0.0, folder.lstat().st_mtime), 2.0**32)
    except OSError:
        return 0.0


def folders(parent: Path) -> list[Path]:
    """Every run folder, newest first. Links are skipped: they may lead out of the workspace."""
    found = (
        (Path(one.path) for one in os.scandir(parent) if one.is_dir(follow_symlinks=False)) if parent.is_dir() else ()
    )
    ours = (path for path in found if os.path.lexists(path / "run.json") and not run_files.is_link(path))
    return sorted(ours, key=lambda path: path.name, reverse=True)


Request = Literal["stop", "pause", "end"]


class Control(Strict):
    """What control.json asks: that a worker keeps what it has learned and ends, that it leaves off for a while, or that its
    processes are ended from outside, and why."""

    request: Request
    why: str = ""


def request(run_dir: Path, wish: Request, why: str = "") -> None:
    """Ask the worker of a run for something; it obeys after its current step."""
    write_atomically(control_file(run_dir), Control(request=wish, why=why).model_dump_json())


def withdraw_request(run_dir: Path) -> None:
    """What was asked of an earlier worker does not hold for the next."""
    control_file(run_dir).unlink(missing_ok=True)


def control_file(run_dir: Path) -> Path:
    return run_dir / "control.json"


def control(run_dir: Path) -> Control | None:
    try:
        return run_files.load(Control, run_dir, "control.json")[0]
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Control(request="stop")  # somebody asked for something: to leave off and keep everything is never wrong


def requested(run_dir: Path) -> Request | None:
    asked = control(run_dir)
    return asked.request if asked else None


class Heartbeat(Strict):
    """Which process works on a run. `created` is the process's birth in seconds since 1970."""

    pid: int = Field(ge=1, le=2**31 - 1)
    created: float
    run_id: str


def alive(beat: Heartbeat | None) -> bool:
    """Is the process that wrote this heartbeat still the same process, working on the same run? A pid alone is reused."""
    try:
        return beat is not None and process_of(beat) is not None
    except psutil.AccessDenied:
        return True


def process_of(beat: Heartbeat) -> psutil.Process | None:
    """The process that wrote this heartbeat, if it still lives.

    Raises:
        psutil.AccessDenied: the system does not say.
    """
    try:
        process = psutil.Process(beat.pid)
        arguments = process.cmdline()  # empty for an instant while the process is between two programs (exec)
        same = (
            process.status() != psutil.STATUS_ZOMBIE
            and abs(process.create_time() - beat.created) < 2  # clock corrections move it by up to a second
            and (not arguments or beat.run_id in " ".join(arguments) or WAITING in arguments)
        )
        return process if same else None
    except psutil.NoSuchProcess:
        return None


def read_heartbeat(run_dir: Path) -> Heartbeat | None:
    try:
        return run_files.load(Heartbeat, run_dir, "heartbeat.json")[0]
    except (OSError, ValueError):
        return None


def seconds_since(file: Path) -> float:
    """Seconds since a file was written last; 0 where there is none yet."""
    try:
        return max(0.0, time.time() - file.stat().st_mtime)
    except OSError:
        return 0.0


def worker_lives(run_dir: Path) -> bool:
    """Is there a process for this run? Before its first heartbeat a worker is known by its arguments."""
    return alive(read_heartbeat(run_dir)) or any(named(run_dir))


def named(run_dir: Path) -> Iterator[psutil.Process]:
    """Workers whose arguments name this run."""
    for process in worker_processes():
        if run_dir.name in " ".join(process.info["cmdline"]):
            yield process


def worker_processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline", "status"]):
        args = process.info["cmdline"] or []
        if "trainer_core.worker" in args or "tests.fake_worker" in args:
            yield process


def processes(run_dir: Path) -> list[psutil.Process]:
    """All that works on a run, known by pid and birth."""
    beat = read_heartbeat(run_dir)
    worker = process_of(beat) if beat else None
    found = (one for first in ([worker] if worker else named(run_dir)) for one in family(first))
    return list(dict.fromkeys(found))


def family(worker: psutil.Process) -> Iterator[psutil.Process]:
    """Its keeper first, for it would tell of the worker's end; the worker; and what it started."""
    yield from reversed(list(keepers(worker)))
    yield worker
    with suppress(psutil.Error):
        yield from worker.children(recursive=True)


def keepers(worker: psutil.Process) -> Iterator[psutil.Process]:
    """The processes above a worker with the same arguments: its keeper, and on Windows the python.exe of .venv above each, which
    only starts Python's own and waits, and of which `Popen.pid` is. psutil takes no parent that was born later."""
    with suppress(psutil.Error):
        arguments, above = worker.cmdline()[1:], worker.parent()
        while above and arguments and above.cmdline()[1:] == arguments:
            yield above
            above = above.parent()


def end(run_dir: Path, kill: bool = False) -> None:
    """Ask every process of a run to end, or kill them."""
    for process in processes(run_dir):
        with suppress(psutil.Error):
            process.kill() if kill else process.terminate()


@dataclass
class Wants:
    """What the user asked of a running worker. Set by the heartbeat thread, read between steps."""

    stop: threading.Event = field(default_factory=threading.Event)
    pause: threading.Event = field(default_factory=threading.Event)

    def hear(self, wish: Request) -> None:
        """Who is to be ended and can still leave by itself leaves as if it was asked to stop."""
        (self.pause if wish == "pause" else self.stop).set()

    @property
    def to_leave(self) -> bool:
        """Is this step to be the last for now?"""
        return self.stop.is_set() or self.pause.is_set()


def beat(run_dir: Path) -> None:
    """Say that this process works on the run.

    Raises:
        DiskError: the disk is full.
    """
    me = psutil.Process()
    heartbeat = Heartbeat(pid=me.pid, created=me.create_time(), run_id=run_dir.name)
    write_atomically(run_dir / "heartbeat.json", heartbeat.model_dump_json())


@contextmanager
def beating(run_dir: Path) -> Iterator[Wants]:
    """Write heartbeats and watch for requests from a thread, as long as the block runs."""
    wants, ended = Wants(), threading.Event()
    beat(run_dir)

    def run() -> None:
        rounds = 0
        while not ended.wait(LOOK_SECONDS):
            rounds += 1
            if wish := requested(run_dir):
                wants.hear(wish)
            if rounds % round(BEAT_SECONDS / LOOK_SECONDS) == 0:
                with suppress(
                    DiskError
                ):  # a beat is only seen by others; the thread must live, for it hears the requests
                    beat(run_dir)

    thread = threading.Thread(target=run, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield wants
    finally:
        ended.set()
        thread.join()


def last_line(run_dir: Path) -> str:
    """The last line of the worker's log that says something, or nothing."""
    lines = log_tail(run_dir, 20)
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def log_tail(run_dir: Path, lines: int) -> list[str]:
    """The last lines of the worker's log, from at most its last 64 KiB."""
    try:
        return run_files.tail(run_dir, "worker.log", LOG_BYTES).decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []


def train_job(run: RunFile) -> TrainJob | None:
    return run.job if isinstance(run.job, TrainJob) else None
