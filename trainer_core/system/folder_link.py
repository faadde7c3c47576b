"""A folder that lies elsewhere: a symbolic link, on Windows a junction, which needs no administrator."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trainer_core.system import untrusted_files


def make_link(link: Path, target: Path) -> None:
    """Make `link` lead to the folder `target`, an absolute path.

    Raises:
        OSError: the file system has no links, or something is in the way. A junction leads to a drive of this computer only.
    """
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        os.symlink(target, link, target_is_directory=True)


def remove_link(link: Path) -> None:
    """Remove a link, and leave what it leads to; a junction is removed as a folder."""
    if link.is_symlink():
        link.unlink()
    else:
        link.rmdir()


def missing_target(folder: Path) -> str:
    """Where a link leads in vain, such as to a drive that is not connected; empty if it leads to something or is no link."""
    return str(folder.readlink()) if untrusted_files.is_link(folder) and not folder.exists() else ""
