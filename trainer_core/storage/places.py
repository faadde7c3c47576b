"""Where the models, runs and exports of a workspace lie.

Each has its folders in the workspace. A folder that was moved to another drive is a link there, so every path stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from trainer_core.runs.workspace import Workspace
from trainer_core.system import untrusted_files

StorageKind = Literal["models", "runs", "exports"]
KINDS: tuple[StorageKind, ...] = get_args(StorageKind)
FOLDERS: dict[StorageKind, tuple[str, ...]] = {
    "models": ("models",),
    "runs": ("runs", "imports", "trash"),
    "exports": ("exports",),
}
"""Runs and imports move with the trash: moving there is a rename, which stays on one drive."""
HUB = "hub"
"""Name of the Hub's cache in a new place."""


def hub_cache() -> Path:
    """The folder of the models that came from the Hub; other programs use it too."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def storage_folders(workspace: Workspace, kind: StorageKind) -> dict[str, Path]:
    """The folders that move together, by their names in a new place."""
    own = {name: workspace.root / name for name in FOLDERS[kind]}
    return {**own, HUB: hub_cache()} if kind == "models" else own


def find_place(workspace: Workspace, kind: StorageKind) -> Path | None:
    """The folder that they were moved to; None: they lie in the workspace."""
    first = workspace.root / FOLDERS[kind][0]
    return first.resolve().parent if untrusted_files.is_link(first) else None
