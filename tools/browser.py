"""Where a Chromium is, for tests of the page, benches and screenshots. TUNEBENCH_CHROMIUM names one; else it is looked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

VARIABLE = "TUNEBENCH_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
NONE = f"no Chromium: none of {', '.join(NAMES)} is on the PATH, and {VARIABLE} names none"


class NoBrowser(Exception):
    """There is none, or the one that is named is not there."""


def chromium() -> str:
    """The browser's path.

    Raises:
        NoBrowser: with what was looked for.
    """
    named = os.environ.get(VARIABLE)
    if named and not Path(named).is_file():
        raise NoBrowser(f"{VARIABLE} is {named}, and there is no such file")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        raise NoBrowser(NONE)
    return found
