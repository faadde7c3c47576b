"""A shortcut with an icon for each system. It opens a terminal, in which the app runs and can be ended."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher import SetupError
from launcher.paths import ROOT

LAUNCH, START = ROOT / "launch.py", ROOT / "launcher" / "start.sh"
ICON = {"win32": ROOT / "assets" / "icon.ico", "linux": ROOT / "assets" / "icon.png"}
NAME, COMMENT = "Tunebench", "Fine-tune, align and compare LLM adapters on one GPU"
SECONDS = 60
POWERSHELL = """
$shell = New-Object -ComObject WScript.Shell
$link = $shell.CreateShortcut((Join-Path ([Environment]::GetFolderPath('Desktop')) 'Tunebench.lnk'))
$link.TargetPath = $env:ComSpec
$link.Arguments = $env:TUNEBENCH_ARGUMENTS
$link.WorkingDirectory = $env:TUNEBENCH_ROOT
$link.IconLocation = $env:TUNEBENCH_ICON
$link.Save()
Write-Output $link.FullName
"""
"""Paths are passed as variables, so that no quoting is needed."""

RunCommand = Any
"""subprocess.run, or a replacement."""


def make_shortcut(
    platform: str = sys.platform,
    home: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    python: str = sys.executable,
    run: RunCommand = subprocess.run,
) -> list[Path]:
    """Create the shortcuts and return their paths. `platform` is sys.platform.

    Raises:
        SetupError: this system has no place for one.
    """
    home = home or Path.home()
    try:
        if platform == "win32":
            return [windows_link(python, environ, run)]
        if platform == "darwin":
            return [write_program(home / "Desktop" / f"{NAME}.command", mac_command(python))]
        data = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
        places = [data / "applications", linux_desktop(home, environ, run)]
        entry = desktop_entry(python)
        return [write_program(place / "tunebench.desktop", entry) for place in places if place]
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"no starter could be made: {error}") from None


def write_program(file: Path, text: str) -> Path:
    """Write an executable file, as file managers require."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)
    return file


def desktop_entry(python: str) -> str:
    """freedesktop.org, Desktop Entry Specification 1.5."""
    command = " ".join(map(exec_argument, ("/bin/sh", str(START), python, str(LAUNCH))))
    lines = {
        "Type": "Application",
        "Name": NAME,
        "Comment": COMMENT,
        "Exec": command,
        "Path": entry_string(str(ROOT)),
        "Icon": entry_string(str(ICON["linux"])),
        "Terminal": "true",
        "Categories": "Development;Science;",
    }
    return "[Desktop Entry]\n" + "".join(f"{key}={value}\n" for key, value in lines.items())


def exec_argument(word: str) -> str:
    """One argument of Exec: quoted for a shell, then as a string of the file, with % doubled."""
    quoted = "".join("\\" + letter if letter in '"`$\\' else letter for letter in word)
    return entry_string(f'"{quoted}"').replace("%", "%%")


def entry_string(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def linux_desktop(home: Path, environ: Mapping[str, str], run: RunCommand) -> Path | None:
    """The desktop folder, whose name depends on the user's language; None if there is none."""
    try:
        answer = run(
            ["xdg-user-dir", "DESKTOP"], env={**environ, "HOME": str(home)}, capture_output=True, timeout=SECONDS
        )
        named = Path(answer.stdout.decode("utf-8", "replace").strip() or home)
    except (OSError, subprocess.SubprocessError):
        named = home / "Desktop"
    return named if named.is_dir() and named != home else None  # the answer is the home folder if there is none


def mac_command(python: str) -> str:
    return f"#!/bin/sh\nexec /bin/sh {' '.join(map(shlex.quote, (str(START), python, str(LAUNCH))))}\n"


def windows_link(python: str, environ: Mapping[str, str], run: RunCommand) -> Path:
    """Create Tunebench.lnk on Windows' desktop; `cmd` keeps the window open if the start fails."""
    values = {
        "TUNEBENCH_ARGUMENTS": f'/c ""{python}" "{LAUNCH}" || pause"',
        "TUNEBENCH_ROOT": str(ROOT),
        "TUNEBENCH_ICON": str(ICON["win32"]),
    }
    command = ["powershell", "-NoProfile", "-NonInteractive", "-Command", POWERSHELL]
    done = run(command, env={**environ, **values}, capture_output=True, timeout=SECONDS)
    if done.returncode:
        raise SetupError(f"PowerShell made no starter: {done.stderr.decode('utf-8', 'replace').strip()}")
    return Path(done.stdout.decode("utf-8", "replace").strip())
