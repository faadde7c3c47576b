"""Tunebench's version. The number is in pyproject.toml only."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from launcher.paths import ROOT

GIT_SECONDS = 10


def read_version(root: Path = ROOT) -> str:
    """The version, "0.1.0"; found by a pattern, because Python before 3.11 cannot read TOML."""
    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def read_commit(root: Path = ROOT, git: str = "git") -> str:
    """The checked-out commit, abbreviated; empty if this is not a git checkout of its own."""
    try:
        answer = subprocess.run(
            [git, "-C", str(root), "rev-parse", "--show-toplevel", "--short", "HEAD"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_SECONDS,
        )
        top, short = answer.stdout.decode("utf-8", "replace").split("\n")[:2]
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return short if top and Path(top).resolve() == root.resolve() else ""
