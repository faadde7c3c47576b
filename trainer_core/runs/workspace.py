"""The folders of a workspace."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from trainer_core.errors import DiskError
from trainer_core.system import durable, folder_link
from trainer_core.system.project import PROJECT


@dataclass(frozen=True)
class Workspace:
    """The folders of one user. Created on first use, readable by the owner only."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.folder("runs")

    @property
    def compare(self) -> Path:
        return ensure_dir(self.root / "compare")

    @property
    def exports(self) -> Path:
        return self.folder("exports")

    @property
    def export_jobs(self) -> Path:
        return ensure_dir(self.root / "export-jobs")

    @property
    def imports(self) -> Path:
        return self.folder("imports")

    @property
    def models(self) -> Path:
        return self.folder("models")

    @property
    def trash(self) -> Path:
        """Beside the runs and imports: moving there is a rename, instant, and reversible until the trash is emptied."""
        return self.folder("trash")

    @property
    def data(self) -> Path:
        return ensure_dir(self.root / "data")

    def folder(self, name: str) -> Path:
        """A folder that may lie on another drive: then it is a link in the workspace."""
        restore_aside(self.root / name)
        return ensure_dir(self.root / name)

    @staticmethod
    def for_run(run_dir: Path) -> Workspace:
        """The workspace that names the run's folder, whatever drive it lies on."""
        return Workspace(run_dir.absolute().parent.parent)


def disk_free(workspace: Workspace) -> int:
    """Free bytes on the workspace's disk."""
    return psutil.disk_usage(str(ensure_dir(workspace.root))).free


def default_workspace() -> Path:
    """Beside the program, so that one folder holds everything, unless TUNEBENCH_WORKSPACE is set."""
    return Path(os.environ.get("TUNEBENCH_WORKSPACE", PROJECT / "workspace"))


def aside_path(folder: Path) -> Path:
    """Where a folder is for a moment while a link or a copy takes its name."""
    return folder.with_name(f".aside-{folder.name}")


def restore_aside(folder: Path) -> None:
    """Give a folder its name back if the process ended in that moment."""
    aside = aside_path(folder)
    if not os.path.lexists(folder) and os.path.lexists(aside):
        with durable.disk_errors(folder):
            durable.rename_with_retry(aside, folder)


def ensure_dir(folder: Path) -> Path:
    """The folder, created with its parents if needed, accessible to its owner only; a power cut does not take it back.

    Raises:
        DiskError: it cannot be created, or it lies on a drive that is not connected.
    """
    if target := folder_link.missing_target(folder):
        raise DiskError("workspace.drive_missing", folder=str(folder), target=target)
    try:
        durable.create_folders(folder, 0o700)
        make_private(folder)
    except OSError as error:
        raise DiskError("workspace.not_created", folder=str(folder), reason=error.strerror) from error
    return folder


def make_private(folder: Path) -> None:
    """Revoke access that an earlier version or another creator gave; a deliberately shared folder stays so."""
    about = folder.stat()
    if (
        sys.platform != "win32"
        and about.st_uid == os.getuid()
        and about.st_mode & 0o077
        and not about.st_mode & stat.S_ISVTX
    ):
        with suppress(PermissionError):  # ours, so the drive knows no permissions, such as one in NTFS
            folder.chmod(0o700)
