"""A Python of uv's own, with Python.h, for a system whose Python comes without."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from launcher import SetupError
from launcher.install_steps import INSTALLER, InstallStep
from launcher.paths import WINDOWS
from launcher.run_step import perform_step


def fetch_python(version: str, base: str, place: str, uv: str | None = None) -> str:
    """The path of uv's Python of this version, fetched where it is not there. `uv` is on the PATH, or `base` gets one.

    Raises:
        SetupError: where uv or that Python cannot be had.
    """
    with tempfile.TemporaryDirectory() as folder:
        uv = uv or shutil.which("uv") or install_uv(base, Path(folder), place)
        perform_step(
            InstallStep(f"Python {version} of uv's own", ((uv, "python", "install", version),)), place, os.environ
        )
        answer = subprocess.run([uv, "python", "find", "--managed-python", version], capture_output=True)
    found = answer.stdout.decode("utf-8", "replace").strip()
    if answer.returncode or not Path(found).is_file():
        raise SetupError(f"uv fetched Python {version} and does not find it: {answer.stderr.decode(errors='replace')}")
    return found


def install_uv(base: str, folder: Path, place: str) -> str:
    """uv in an environment of its own, which goes when the Python is there."""
    scripts = folder / ("Scripts" if WINDOWS else "bin")
    pip = (str(scripts / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", INSTALLER)
    perform_step(InstallStep("an environment for uv", ((base, "-m", "venv", str(folder)),)), place, os.environ)
    perform_step(InstallStep("installer uv", (pip,)), place, os.environ)
    return str(scripts / "uv")
