"""Prevents the computer from sleeping while a worker trains, where the platform allows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from trainer_core.texts import Text

ES_CONTINUOUS, ES_SYSTEM_REQUIRED = 0x80000000, 0x00000001
"""Windows' SetThreadExecutionState: holds until the thread calls it again or ends."""
CANNOT_KEEP_AWAKE = Text("sleep.not_inhibited")
REFUSED_SECONDS = 0.2


def inhibitor_command(platform: str = sys.platform) -> list[str]:
    """The command that prevents sleep until its stdin closes or this process ends; empty if the platform has none."""
    if platform == "darwin":
        return ["caffeinate", "-i", "-w", str(os.getpid())]
    if platform.startswith("linux"):
        asked = ["--what=sleep:idle", "--mode=block", "--who=Tunebench", "--why=A model is being trained"]
        return ["systemd-inhibit", *asked, "cat"]
    return []


@contextmanager
def keep_awake(asked: list[str] | None = None) -> Iterator[Text]:
    """Prevent sleep while the block runs. A killed process releases its request.

    Yields:
        How sleep is prevented, or why it is not, for the log.
    """
    if sys.platform == "win32":
        import ctypes

        ctypes.windll.kernel32.SetThreadExecutionState(ES_CONTINUOUS | ES_SYSTEM_REQUIRED)
        try:
            yield Text("sleep.inhibited")
        finally:
            ctypes.windll.kernel32.SetThreadExecutionState(ES_CONTINUOUS)
        return
    asked = inhibitor_command() if asked is None else asked
    if not asked or shutil.which(asked[0]) is None:
        yield CANNOT_KEEP_AWAKE
        return
    with subprocess.Popen(asked, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as keeper:
        try:
            yield CANNOT_KEEP_AWAKE if has_exited(keeper) else Text("sleep.inhibited_by", program=asked[0])
        finally:
            keeper.kill()


def has_exited(keeper: subprocess.Popen[bytes]) -> bool:
    """Has the program exited at once, as without the service it needs?"""
    try:
        keeper.wait(REFUSED_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True
