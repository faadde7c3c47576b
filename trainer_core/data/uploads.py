"""A workspace's stored data: uploaded files, and manual column mappings."""

from __future__ import annotations

import filecmp
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter

from trainer_core.config.recipe import Columns
from trainer_core.errors import DiskError
from trainer_core.runs.workspace import Workspace
from trainer_core.system import durable
from trainer_core.system.durable import write_atomically
from trainer_core.system.file_lock import ProcessLock

MAPPINGS_ADAPTER = TypeAdapter(dict[str, Columns])
"""The names of a file's columns, sorted and one per line → their last mapping."""


def store_upload(workspace: Workspace, upload: Path) -> Path:
    """Store an uploaded file in the workspace under its own name, numbered if another file has that name.

    Raises:
        DiskError: there is no room for it.
    """
    name = re.sub(r"[^\w.() -]+", "_", upload.name).lstrip(".") or "data"
    for number in range(1, 1000):
        place = workspace.data / (name if number == 1 else add_number(name, number))
        if place.exists() and not filecmp.cmp(upload, place, shallow=False):
            continue
        if not place.exists():
            copy_upload(upload, place)
        return place
    raise DiskError("uploads.same_name", folder=workspace.data, name=name)


def copy_upload(upload: Path, place: Path) -> None:
    """The file appears under its name only when complete."""
    staging = place.with_name(f".{place.name}.staging")
    try:
        shutil.copyfile(upload, staging)
        durable.flush_to_disk(staging)
        durable.publish_staged(staging, place)
    except OSError as error:
        staging.unlink(missing_ok=True)
        size, why = upload.stat().st_size / 1e6, error.strerror or str(error)
        raise DiskError("uploads.not_kept", path=place, size=size, error=why) from error


def add_number(name: str, number: int) -> str:
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{number}{dot}{suffix}"


def load_mapping(workspace: Workspace, names: Iterable[str]) -> Columns | None:
    """The last mapping of a file with these columns, if any."""
    file = mappings_path(workspace)
    return MAPPINGS_ADAPTER.validate_json(file.read_bytes()).get(columns_key(names)) if file.exists() else None


def save_mapping(workspace: Workspace, names: Iterable[str], columns: Columns) -> None:
    """Save a mapping for every file with exactly these columns; an empty one removes it."""
    file = mappings_path(workspace)
    with ProcessLock(f"{file}.lock"):
        known = MAPPINGS_ADAPTER.validate_json(file.read_bytes()) if file.exists() else {}
        known = {**known, columns_key(names): columns}
        used = {names: one for names, one in known.items() if one.column_by_part}
        write_atomically(file, MAPPINGS_ADAPTER.dump_json(used, indent=1, exclude_none=True).decode())


def mappings_path(workspace: Workspace) -> Path:
    return workspace.data / "columns.json"


def columns_key(names: Iterable[str]) -> str:
    return "\n".join(sorted(names))
