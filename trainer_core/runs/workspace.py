"""The folders of a workspace."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from trainer_core.errors import DiskError
from trainer_core.system import durable
from trainer_core.system.project import PROJECT


@dataclass(frozen=True)
class Workspace:
    """The folders of one user. Created on first use, readable by the owner only."""

    root: Path

    @property
    def runs(self) -> Path:
        return ensure_dir(self.root / "runs")

    @property
    def compare(self) -> Path:
        return ensure_dir(self.root / "compare")

    @property
    def exports(self) -> Path:
        return ensure_dir(self.root / "exports")

    @property
    def export_jobs(self) -> Path:
        return ensure_dir(self.root / "export-jobs")

    @property
    def imports(self) -> Path:
        return ensure_dir(self.root / "imports")

    @property
    def models(self) -> Path:
        return ensure_dir(self.root / "models")

    @property
    def data(self) -> Path:
        return ensure_dir(self.root / "data")

    @staticmethod
    def for_run(run_dir: Path) -> Workspace:
        return Workspace(run_dir.resolve().parent.parent)


def disk_free(workspace: Workspace) -> int:
    """Free bytes on the workspace's disk."""
    return psutil.disk_usage(str(ensure_dir(workspace.root))).free


def default_workspace() -> Path:
    """Beside the program, so that one folder holds everything, unless TUNEBENCH_WORKSPACE is set."""
    return Path(os.environ.get("TUNEBENCH_WORKSPACE", PROJECT / "workspace"))


def ensure_dir(folder: Path) -> Path:
    """The folder, created with its parents if needed, accessible to its owner only; a power cut does not take it back.

    Raises:
        DiskError: it cannot be created.
    """
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
        folder.chmod(0o700)
