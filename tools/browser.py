"""Where a Chromium is, for tests of the page, benches and screenshots. TUNEBENCH_CHROMIUM names one; else it is looked for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

CHROMIUM_VARIABLE = "TUNEBENCH_CHROMIUM"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
NO_CHROMIUM = f"no Chromium: none of {', '.join(CHROMIUM_NAMES)} is on the PATH, and {CHROMIUM_VARIABLE} names none"


class NoBrowser(Exception):
    """There is none, or the one that is named is not there."""


def find_chromium() -> str:
    """The browser's path.

    Raises:
        NoBrowser: with what was looked for.
    """
    named = os.environ.get(CHROMIUM_VARIABLE)
    if named and not Path(named).is_file():
        raise NoBrowser(f"{CHROMIUM_VARIABLE} is {named}, and there is no such file")
    found = named or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if not found:
        raise NoBrowser(NO_CHROMIUM)
    return found
