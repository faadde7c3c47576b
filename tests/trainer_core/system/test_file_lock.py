"""Locks between processes, and file systems that have none."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from filelock import Timeout

from trainer_core.errors import DiskError
from trainer_core.system import project
from trainer_core.system.file_lock import NO_LOCKS, ProcessLock


def lock_where(path: Path, error: Exception) -> ProcessLock:
    """A lock on a file system that answers with this error."""

    class Elsewhere(ProcessLock):
        def _acquire(self) -> None:
            raise error

    return Elsewhere(path)


@pytest.mark.parametrize("error", [*(OSError(code, "no locks") for code in NO_LOCKS), NotImplementedError()])
def test_a_file_system_without_locks_is_said(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(DiskError) as refused, lock_where(tmp_path / "x.lock", error):
        raise AssertionError("nobody holds it")
    assert refused.value.text.code == "disk.no_locks"
    assert refused.value.text.params["path"] == str(tmp_path / "x.lock")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError) as full, lock_where(tmp_path / "x.lock", OSError(errno.ENOSPC, "full")):
        raise AssertionError("nobody holds it")
    assert full.value.errno == errno.ENOSPC


def test_it_is_a_lock(tmp_path: Path) -> None:
    with ProcessLock(tmp_path / "x.lock"), pytest.raises(Timeout):
        ProcessLock(tmp_path / "x.lock").acquire(timeout=0)
    with ProcessLock(tmp_path / "x.lock").acquire(timeout=0):
        pass


def test_every_lock_of_the_app_is_one() -> None:
    root = project.PROJECT
    sources = [root / "app.py", *(root / "ui").rglob("*.py"), *(root / "trainer_core").rglob("*.py")]
    users = [path.name for path in sources if re.search(r"\bFileLock\b", path.read_text(encoding="utf-8"))]
    assert users == ["file_lock.py"]
