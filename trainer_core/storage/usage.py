"""What takes space: models, checkpoints, exports, imports, caches and the trash, and how each is freed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trainer_core.errors import ConfigError
from trainer_core.runs import checkpoints, run_folder
from trainer_core.runs.workspace import Workspace
from trainer_core.storage.folder_copy import folder_bytes
from trainer_core.storage.places import hub_cache
from trainer_core.system import durable, kernel_cache, untrusted_files

Group = Literal["models", "checkpoints", "exports", "imports", "caches", "runs", "data", "trash"]
GROUPS: tuple[Group, ...] = get_args(Group)
KEPT_GROUPS: tuple[Group, ...] = ("runs", "data")
"""What no copy exists of: the Runs tab moves a run to the trash, and a user's data are the user's."""
WORKSPACE_CACHES = ("tokens", "reference")
"""Folders of the workspace that a run fills again."""
KERNELS = "kernels"


@dataclass(frozen=True)
class StoredItem:
    """One thing that takes space; freeing it deletes `folders`."""

    group: Group
    name: str
    bytes: int
    folders: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.group}:{self.name}"

    @property
    def is_freeable(self) -> bool:
        return self.group not in KEPT_GROUPS


def list_usage(workspace: Workspace, finished_runs: Iterable[str], imports: Iterable[str]) -> list[StoredItem]:
    """Everything that takes space, the largest of each group first.

    Args:
        finished_runs: the runs whose checkpoints nothing needs any more. imports: what can be moved to the trash.
    """
    found = [
        *model_items(workspace),
        *checkpoint_items(workspace, finished_runs),
        *folder_items("exports", inner_folders(workspace.exports)),
        *(folder_item("imports", workspace.imports / name) for name in imports),
        *cache_items(workspace),
        run_item(workspace),
        StoredItem("data", "", folder_bytes(workspace.data)),
        StoredItem("trash", "", folder_bytes(workspace.trash)),
    ]
    return sorted((one for one in found if one.bytes), key=lambda one: (GROUPS.index(one.group), -one.bytes))


def folder_item(group: Group, folder: Path) -> StoredItem:
    return StoredItem(group, untrusted_files.printable_id(folder), folder_bytes(folder), (folder,))


def folder_items(group: Group, folders: Iterable[Path]) -> Iterator[StoredItem]:
    return (folder_item(group, folder) for folder in folders)


def inner_folders(parent: Path) -> list[Path]:
    """Also hidden ones, such as an export that did not end."""
    if not parent.is_dir():
        return []
    return sorted(Path(one.path) for one in os.scandir(parent) if one.is_dir(follow_symlinks=False))


def model_items(workspace: Workspace) -> Iterator[StoredItem]:
    """Those that this workspace made, and those that came from the Hub."""
    yield from folder_items("models", inner_folders(workspace.models))
    for folder in inner_folders(hub_cache()):
        kind, *words = folder.name.split("--")
        if kind in ("models", "datasets") and words:
            locks = folder.parent / ".locks" / folder.name
            yield StoredItem("models", "/".join(words), folder_bytes(folder), (folder, locks))


def checkpoint_items(workspace: Workspace, runs: Iterable[str]) -> Iterator[StoredItem]:
    for name in runs:
        folder = workspace.runs / name / checkpoints.CHECKPOINTS_FOLDER
        if not untrusted_files.is_link(folder):
            yield StoredItem("checkpoints", name, folder_bytes(folder), (folder,))


def run_item(workspace: Workspace) -> StoredItem:
    """Adapters, curves and logs of all runs, without their checkpoints."""
    runs = run_folder.list_runs(workspace.runs)
    inner = sum(folder_bytes(run / checkpoints.CHECKPOINTS_FOLDER) for run in runs)
    return StoredItem("runs", "", sum(map(folder_bytes, runs)) - inner)


def cache_items(workspace: Workspace) -> Iterator[StoredItem]:
    for name in WORKSPACE_CACHES:
        yield folder_item("caches", workspace.root / name)
    kernels = kernel_cache.kernel_cache_folder(workspace.root)
    yield StoredItem("caches", KERNELS, folder_bytes(kernels), (kernels,))


def free_item(items: Iterable[StoredItem], key: str) -> int:
    """Delete what an item names. Returns the bytes freed.

    Raises:
        ConfigError: there is no such item, or it cannot be made again.
        DiskError: it is in use and stays.
    """
    item = next((one for one in items if one.key == key), None)
    if item is None or not item.is_freeable:
        raise ConfigError("storage.no_item", key=untrusted_files.as_printable(key))
    for folder in item.folders:
        if os.path.lexists(folder):
            with durable.disk_errors(folder):
                durable.delete_via_trash(folder)
    return item.bytes
