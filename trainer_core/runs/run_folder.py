"""The run folder, the only protocol between the app and its workers: each file and its writer.

run.json        app or CLI   the job as asked, immutable
control.json    app or CLI   the latest request: stop, pause or end now
events.jsonl    worker       all its events; the supervisor appends only when a finished run is extended
heartbeat.json  worker       every 2 s: pid, start time, run id
worker.log      worker       stdout and stderr of everything
held-out.jsonl  worker       the held-out pairs
checkpoints/    worker       to resume the run from
adapter-sft/ adapter-dpo/    the results
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field, PrivateAttr, ValidationError

from trainer_core.config.jobs import Job, TrainJob
from trainer_core.errors import ConfigError
from trainer_core.runs.workspace import ensure_dir
from trainer_core.schema import StrictModel
from trainer_core.system import durable, untrusted_files
from trainer_core.texts import Text

MAX_NAMED_KEYS = 5
"""Unknown settings that are named one by one."""
LOG_BYTES = 65_536


class RunFile(StrictModel):
    """Contents of run.json. Fields missing in other versions come from the folder, or are defaults."""

    version: int = 1
    id: str = ""
    created: str = ""
    job: Job
    device: str = ""
    reasons: tuple[str, ...] = Field(default=(), description="why the app chose what the user did not")
    versions: dict[str, str] = Field(default_factory=dict)
    _left_out: tuple[str, ...] = PrivateAttr(default=())

    @property
    def notes(self) -> tuple[Text, ...]:
        """Notes on the settings that are ignored."""
        if not self._left_out:
            return ()
        names = ", ".join(map(untrusted_files.as_printable, self._left_out[:MAX_NAMED_KEYS]))
        more = len(self._left_out) - MAX_NAMED_KEYS
        if more > 0:
            return (Text("run.more_unknown_settings", names=names, more=more),)
        return (Text("run.unknown_settings", names=names),)


def create_run(parent: Path, job: Job, name: str, **facts: Any) -> Path:
    """Create a run folder with its run.json; a power cut does not take them back.

    Raises:
        DiskError: the folder or the file cannot be written.
    """
    now = datetime.now(UTC)
    run_id = "-".join(filter(None, (now.strftime("%Y%m%d-%H%M%S"), slugify_name(name), secrets.token_hex(2))))
    run_dir = ensure_dir(parent / run_id)
    run = RunFile(id=run_id, created=now.isoformat(timespec="seconds"), job=job, **facts)
    durable.write_atomically(run_dir / "run.json", run.model_dump_json(indent=1))
    with durable.disk_errors(run_dir):
        durable.flush_to_disk(run_dir)
    return run_dir


def slugify_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32]


def read_run(run_dir: Path) -> RunFile:
    """The run.json of a folder.

    Raises:
        ConfigError: missing, not a regular file, or a value is invalid.
    """
    run_id = untrusted_files.printable_id(run_dir)
    try:
        file, left_out = untrusted_files.load_json_model(RunFile, run_dir, "run.json")
    except OSError as error:
        folder = untrusted_files.as_printable(str(run_dir))
        raise ConfigError("run_file.not_read", folder=folder, reason=error.strerror) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = untrusted_files.as_printable(".".join(str(part) for part in first["loc"]))[:200]
        raise ConfigError("run_file.bad_value", run=run_id, key=key, reason=first["msg"]) from error
    except ValueError as error:
        raise ConfigError("run_file.damaged", run=run_id, reason=str(error)) from error
    file = file.model_copy(update={"id": run_id, "created": run_start_time(run_dir, file.created)})
    file._left_out = left_out
    return file


def run_start_time(run_dir: Path, told: str = "") -> str:
    """Start of a run in ISO 8601 with seconds and zone: the given one, else from the folder's name, else the folder's
    modification time."""
    for text, read in ((told, datetime.fromisoformat), (run_dir.name[:15], parse_folder_time)):
        with suppress(ValueError):
            when = read(text)
            if 1970 <= when.year < 9999:  # leaves room for a day of any zone
                return (when if when.tzinfo else when.replace(tzinfo=UTC)).isoformat(timespec="seconds")
    return datetime.fromtimestamp(folder_mtime(run_dir), UTC).isoformat(timespec="seconds")


def parse_folder_time(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%d-%H%M%S").replace(tzinfo=UTC)


def folder_mtime(folder: Path) -> float:
    """Seconds since 1970; 0 if unknown."""
    try:
        return min(max(0.0, folder.lstat().st_mtime), 2.0**32)
    except OSError:
        return 0.0


def list_runs(parent: Path) -> list[Path]:
    """Every run folder, newest first. Links are skipped: they may lead out of the workspace."""
    found = (
        (Path(one.path) for one in os.scandir(parent) if one.is_dir(follow_symlinks=False)) if parent.is_dir() else ()
    )
    ours = (path for path in found if os.path.lexists(path / "run.json") and not untrusted_files.is_link(path))
    return sorted(ours, key=lambda path: path.name, reverse=True)


def parent_processes(worker: psutil.Process) -> Iterator[psutil.Process]:
    """Processes above a worker with the same arguments: its parent and, on Windows, the python.exe of .venv above each, which
    only starts the real Python and waits (`Popen.pid` is its pid). psutil accepts no parent that started later."""
    with suppress(psutil.Error):
        arguments, above = worker.cmdline()[1:], worker.parent()
        while above and arguments and above.cmdline()[1:] == arguments:
            yield above
            above = above.parent()


def last_log_line(run_dir: Path) -> str:
    """The last non-empty line of the worker's log, or an empty string."""
    lines = read_log_tail(run_dir, 20)
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def read_log_tail(run_dir: Path, lines: int) -> list[str]:
    """The last lines of the worker's log, from at most its last 64 KiB."""
    try:
        return (
            untrusted_files.read_tail(run_dir, "worker.log", LOG_BYTES).decode("utf-8", "replace").splitlines()[-lines:]
        )
    except OSError:
        return []


def train_job_of(run: RunFile) -> TrainJob | None:
    return run.job if isinstance(run.job, TrainJob) else None
