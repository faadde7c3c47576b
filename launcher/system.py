"""The operating system: its distribution, and the one command that installs what is missing."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OS_RELEASE = (Path("/etc/os-release"), Path("/usr/lib/os-release"))
"""freedesktop.org, os-release(5): the second file is used if the first is missing."""
FAMILIES = ("ubuntu", "debian", "fedora", "rhel", "arch", "suse", "opensuse")
"""ID or ID_LIKE of os-release with known commands; a derivative lists its parents, nearest first."""
NVIDIA_DRIVERS = "https://www.nvidia.com/drivers"


@dataclass(frozen=True)
class System:
    """`platform` is sys.platform; `family` one of FAMILIES or empty; `title` the system's own name."""

    platform: str = "linux"
    family: str = ""
    title: str = "Linux"
    wsl: bool = False
    root: bool = False

    @property
    def sudo(self) -> str:
        return "" if self.root else "sudo "


def read_system(files: Iterable[Path] = OS_RELEASE) -> System:
    wsl = sys.platform == "linux" and "microsoft" in platform.release().lower()
    root = sys.platform != "win32" and os.geteuid() == 0
    facts = read_os_release(files) if sys.platform == "linux" else {}
    likes = [facts.get("ID", ""), *facts.get("ID_LIKE", "").split()]
    family = next((like for like in likes if like in FAMILIES), "")
    return System(sys.platform, family, facts.get("PRETTY_NAME", platform.system()), wsl, root)


def read_os_release(files: Iterable[Path]) -> dict[str, str]:
    """The assignments of the first existing file; values may be in shell quotes."""
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        return dict(
            map(parse_assignment, (line for line in text.splitlines() if "=" in line and not line.startswith("#")))
        )
    return {}


def parse_assignment(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    try:
        return name.strip(), " ".join(shlex.split(value))
    except ValueError:  # an unclosed quote
        return name.strip(), value.strip("\"' ")


def install_command(system: System, missing: Iterable[str], version: str, stock: bool) -> str:
    """The one command that installs "compiler", "header" (Python.h) and "venv"; empty if unknown.

    Args:
        version: of the Python that needs them, "3.12".
        stock: is it the system's own python3, whose packages Fedora calls python3-devel?
    """
    wanted, number = set(missing), version if not stock else "3"
    if system.family in ("ubuntu", "debian"):
        compiler = "gcc" if "header" in wanted else "gcc libc6-dev"  # python3-dev installs libc6-dev
        names = {"compiler": compiler, "header": f"python{version}-dev", "venv": f"python{version}-venv"}
        tool = "apt install"
    elif system.family in ("fedora", "rhel"):
        names, tool = {"compiler": "gcc", "header": f"python{number}-devel", "venv": ""}, "dnf install"
    elif system.family == "arch":
        names, tool = {"compiler": "gcc", "header": "python", "venv": ""}, "pacman -S --needed"
    elif system.family in ("suse", "opensuse"):
        dense = version.replace(".", "")
        names, tool = {"compiler": "gcc", "header": f"python{dense}-devel", "venv": ""}, "zypper install"
    else:
        return ""
    packages = [names[part] for part in ("compiler", "header", "venv") if part in wanted and names[part]]
    return f"{system.sudo}{tool} {' '.join(packages)}" if packages else ""


def driver_advice(system: System) -> str:
    """How to update the NVIDIA driver here: one command, or one link."""
    if system.wsl:
        return f"Update the NVIDIA driver in Windows ({NVIDIA_DRIVERS}), then `wsl --shutdown`; Linux uses that one."
    commands = {
        "ubuntu": "ubuntu-drivers install",
        "debian": "apt install nvidia-driver",
        "fedora": "dnf upgrade akmod-nvidia",
        "arch": "pacman -Syu",
        "suse": "zypper update",
        "opensuse": "zypper update",
    }
    if command := commands.get(system.family):
        return f"Update the driver: `{system.sudo}{command}`, then restart the computer."
    return f"Update the driver: {NVIDIA_DRIVERS}."
