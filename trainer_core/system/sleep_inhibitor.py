"""Keeps the computer from going to sleep while a worker trains, where the platform lets a program ask for that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from trainer_core.texts import Text

ES_CONTINUOUS, ES_SYSTEM_REQUIRED = 0x80000000, 0x00000001
"""Windows' SetThreadExecutionState: holds until the thread asks again or ends."""
CANNOT_KEEP_AWAKE = Text("sleep.not_inhibited")
REFUSED_SECONDS = 0.2


def inhibitor_command(platform: str = sys.platform) -> list[str]:
    """The program that keeps the machine awake until its stdin closes or this process ends; none: an empty list."""
    if platform == "darwin":
        return ["caffeinate", "-i", "-w", str(os.getpid())]
    if platform.startswith("linux"):
        asked = ["--what=sleep:idle", "--mode=block", "--who=Tunebench", "--why=A model is being trained"]
        return ["systemd-inhibit", *asked, "cat"]
    return []


@contextmanager
def keep_awake(asked: list[str] | None = None) -> Iterator[Text]:
    """Keep awake as long as the block runs, and not a moment longer: a killed process takes its request with it.

    Yields:
        How it is done, or why not, for the log.
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
    """Has it given up at once, as where no service is there to ask?"""
    try:
        keeper.wait(REFUSED_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True
