"""What a person does with runs that are over: name them, note something, pin them, throw them away and get them back.

about.json in the run folder is the app's, like control.json. The trash is a folder beside the runs, so that throwing away is a
rename: instant, and undone as easily until the trash is emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from trainer_core.config.recipe import Recipe
from trainer_core.errors import ConfigError, DiskError
from trainer_core.runs.run_folder import folders
from trainer_core.runs.workspace import Workspace, made
from trainer_core.system import durable, untrusted_files


def size_bytes(folder: Path) -> int:
    """What a folder takes on disk, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def children(recipes: Mapping[str, Recipe]) -> dict[str, set[str]]:
    """Run → the runs that need it: their recipe names something in its folder (a model, an adapter, data)."""
    found: dict[str, set[str]] = {}
    for run_id, recipe in recipes.items():
        named = (recipe.model, recipe.data.chat, recipe.data.pairs, recipe.data.held_out)
        for part in {part for path in named if path for part in Path(path).parts}:
            if part in recipes and part != run_id:
                found.setdefault(part, set()).add(run_id)
    return found


def trash(workspace: Workspace) -> Path:
    return made(workspace.root / "trash")


def throw_away(workspace: Workspace, run_dir: Path) -> None:
    """Move a run to the trash.

    Raises:
        DiskError: it cannot be moved: a file in it is in use, or the folder is not ours to change.
    """
    move(run_dir, trash(workspace) / run_dir.name)


def restore(workspace: Workspace, run_id: str) -> None:
    """Bring a run back from the trash.

    Raises:
        ConfigError: it is not there.
        DiskError: it cannot be moved.
    """
    thrown = {untrusted_files.printable_id(folder): folder for folder in folders(trash(workspace))}
    if run_id not in thrown:
        raise ConfigError(f"There is no run {run_id} in the trash.")
    move(thrown[run_id], workspace.runs / thrown[run_id].name)


def move(folder: Path, to: Path) -> None:
    try:
        durable.point(to)
        durable.rename(folder, to)
    except OSError as error:
        raise DiskError(f"{folder} cannot be moved to {to}: {durable.reason(error)}. Nothing was changed.") from error


def empty(workspace: Workspace, discard: Callable[[Path], None] = durable.discard) -> int:
    """Delete what is in the trash for good. Returns the bytes that are free now.

    Raises:
        DiskError: a run is in use, and still there whole; those before it are gone.
    """
    place = trash(workspace)
    durable.sweep(place)  # what was in use the last time
    before = size_bytes(place)
    for folder in folders(place):
        with durable.disk_errors(folder):
            discard(folder)
    return before - size_bytes(place)
