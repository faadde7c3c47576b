"""Opens a folder in the system's file manager."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from trainer_core.errors import UserError

FILE_MANAGERS: Mapping[str, str] = {"linux": "xdg-open", "darwin": "open", "win32": "explorer"}


def open_folder(folder: Path, program: str = FILE_MANAGERS.get(sys.platform, "xdg-open")) -> None:
    """Show a folder in a file manager window that outlives the app.

    Raises:
        UserError: there is no such program, as on a server; it names the folder.
    """
    found = shutil.which(program)
    if found is None:
        raise UserError("file_manager.not_found", program=program, folder=str(folder))
    subprocess.Popen(
        [found, str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
