"""Gets uv's own Python, with Python.h, for a system whose Python lacks it."""

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
    """The path of uv's Python of this version, downloaded if missing. `uv` is on the PATH, or is installed with `base`.

    Raises:
        SetupError: uv or that Python is not available.
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
    """Install uv in a temporary environment."""
    scripts = folder / ("Scripts" if WINDOWS else "bin")
    pip = (str(scripts / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", INSTALLER)
    perform_step(InstallStep("an environment for uv", ((base, "-m", "venv", str(folder)),)), place, os.environ)
    perform_step(InstallStep("installer uv", (pip,)), place, os.environ)
    return str(scripts / "uv")
