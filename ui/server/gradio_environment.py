"""Gradio's variables, which it reads when it is imported. Imports nothing of Gradio, so that it can come before."""

from __future__ import annotations

import tempfile
from collections.abc import MutableMapping
from pathlib import Path


def replace_settings(environ: MutableMapping[str, str], home: Path | None = None) -> dict[str, str]:
    """Remove all settings of Gradio, and return ours: those of another program could open folders or an address to others.

    Dropped files lie in a folder that only the user can read, until they are moved into the workspace; Gradio's own lies in the
    system's temporary folder, where the first user's folder locks out the second.

    Args:
        home: of the user; None: the one of the environment.
    """
    for name in [name for name in environ if name.startswith("GRADIO_")]:
        del environ[name]
    return {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(private_folder(home))}


def private_folder(home: Path | None) -> Path:
    try:
        folder = (home or Path.home()) / ".cache" / "tunebench" / "uploads"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except (OSError, RuntimeError):  # no home, or none that can be written
        return Path(tempfile.mkdtemp(prefix="tunebench-"))
    return folder
