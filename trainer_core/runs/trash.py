"""What a user does with finished runs: name, note, pin, move to the trash, restore.

The app writes about.json, like control.json. The trash is a folder beside the runs, so that moving there is a rename:
instant, and reversible until the trash is emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from trainer_core.config.jobs import ImportJob
from trainer_core.config.recipe import Recipe
from trainer_core.errors import ConfigError, DiskError
from trainer_core.runs.run_folder import list_runs, read_run
from trainer_core.runs.workspace import Workspace
from trainer_core.system import durable, untrusted_files


def folder_size(folder: Path) -> int:
    """Bytes on disk; links are not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def dependents(recipes: Mapping[str, Recipe]) -> dict[str, set[str]]:
    """Run → the runs that need it: their recipe uses a model, adapter or data in its folder."""
    found: dict[str, set[str]] = {}
    for run_id, recipe in recipes.items():
        named = (recipe.model, recipe.data.chat, recipe.data.pairs, recipe.data.held_out)
        for part in {part for path in named if path for part in Path(path).parts}:
            if part in recipes and part != run_id:
                found.setdefault(part, set()).add(run_id)
    return found


def trash_run(workspace: Workspace, run_dir: Path) -> None:
    """Move a run to the trash.

    Raises:
        DiskError: a file in it is in use, or the folder is not writable.
    """
    move_run(run_dir, workspace.trash / run_dir.name)


def restore_run(workspace: Workspace, run_id: str) -> None:
    """Bring a run or an import back from the trash.

    Raises:
        ConfigError: not in the trash.
        DiskError: cannot be moved.
    """
    thrown = {untrusted_files.printable_id(folder): folder for folder in list_runs(workspace.trash)}
    if run_id not in thrown:
        raise ConfigError("trash.not_found", run=run_id)
    folder = thrown[run_id]
    move_run(folder, home_folder(workspace, folder) / folder.name)


def home_folder(workspace: Workspace, folder: Path) -> Path:
    """Where a folder of the trash belongs; a run with an unreadable run.json is shown among the runs, with the reason."""
    try:
        job = read_run(folder).job
    except ConfigError:
        return workspace.runs
    return workspace.imports if isinstance(job, ImportJob) else workspace.runs


def move_run(folder: Path, to: Path) -> None:
    try:
        durable.fault_point(to)
        durable.rename_with_retry(folder, to)
    except OSError as error:
        reason = durable.error_reason(error)
        raise DiskError("trash.not_moved", folder=str(folder), target=str(to), reason=reason) from error


def empty_trash(workspace: Workspace, discard: Callable[[Path], None] = durable.delete_via_trash) -> int:
    """Delete the trash for good. Returns the bytes freed.

    Raises:
        DiskError: a run is in use and stays whole; those before it are deleted.
    """
    place = workspace.trash.resolve()
    durable.clean_leftovers(place)  # in use the last time
    before = folder_size(place)
    for folder in list_runs(place):
        with durable.disk_errors(folder):
            discard(folder)
    return before - folder_size(place)
