"""What takes space in plain values: where models, runs and exports lie, what can be freed, and the move under way."""

from __future__ import annotations

import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

from trainer_core.jobs.storage_control import StorageControl
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.storage.places import KINDS, StorageKind, find_place
from trainer_core.storage.usage import Group, StoredItem
from trainer_core.system.format import format_clock, format_file_size
from trainer_core.texts import Text
from ui.format import page_text
from ui.payloads.run_settings import display_name

KIND_GROUPS: dict[StorageKind, tuple[Group, ...]] = {
    "models": ("models",),
    "runs": ("runs", "checkpoints", "imports", "trash"),
    "exports": ("exports",),
}


def storage_report(supervisor: Supervisor) -> dict[str, Any]:
    """Everything that takes space, by group, and where it lies."""
    items, interrupted = supervisor.storage.list_usage(), supervisor.storage.interrupted_move
    return {
        "places": [place_row(supervisor, kind, items) for kind in KINDS],
        "groups": [
            group_row(supervisor, group, list(several)) for group, several in groupby(items, lambda item: item.group)
        ],
        "interrupted": page_text("storage.interrupted", kind=kind_label(interrupted.kind)) if interrupted else "",
    }


def place_row(supervisor: Supervisor, kind: StorageKind, items: list[StoredItem]) -> dict[str, Any]:
    place = find_place(supervisor.workspace, kind)
    where = place or supervisor.workspace.root
    return {
        "kind": kind,
        "label": kind_label(kind),
        "size": format_file_size(sum(item.bytes for item in items if item.group in KIND_GROUPS[kind])),
        "folder": str(where),
        "away": place is not None,
        "free": page_text("storage.free", free=format_file_size(free_bytes(where))),
    }


def free_bytes(folder: Path) -> int:
    """Free bytes on the folder's drive; 0 if the drive is not connected."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def kind_label(kind: StorageKind) -> str:
    return str(Text(f"storage_kinds.{kind}"))


def group_row(supervisor: Supervisor, group: Group, items: list[StoredItem]) -> dict[str, Any]:
    return {
        "title": str(Text(f"storage_groups.{group}")),
        "size": format_file_size(sum(item.bytes for item in items)),
        "lost": str(Text(f"storage_lost.{group}")),
        "items": [
            {
                "key": item.key if item.is_freeable else "",
                "name": item_name(supervisor, item),
                "size": format_file_size(item.bytes),
            }
            for item in items
        ],
    }


def item_name(supervisor: Supervisor, item: StoredItem) -> str:
    match item.group:
        case "checkpoints":
            return display_name(supervisor.registry.run_dir(item.name))
        case "imports":
            return supervisor.registry.import_name(item.name)
        case "caches":
            return str(Text(f"storage_caches.{item.name}"))
    return item.name


def move_payload(storage: StorageControl) -> dict[str, Any]:
    """The move under way or the last one; empty if there was none since the app started."""
    last = storage.last_move
    if last is None:
        return {}
    left = last.progress.seconds_left
    return {
        "active": last.is_active,
        "began": round(last.progress.began, 3),
        "label": page_text("storage.moving", kind=kind_label(last.kind)),
        "share": round(last.progress.share, 2),
        "left": page_text("storage.left", time=format_clock(left)) if last.is_active and left else "",
        "problem": str(last.problem),
        "done": "" if last.is_active or last.problem else page_text("storage.moved", kind=kind_label(last.kind)),
    }
