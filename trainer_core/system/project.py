"""The project's folder, and the user's."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def expand_home(path: str | Path) -> Path:
    """The path, with `~` as the user's folder; unchanged where there is no home, which `Path.expanduser` does not take."""
    return Path(os.path.expanduser(path))
