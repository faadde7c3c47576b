"""Faults: a full disk or a kill at one of the writes of some work, which is done in a fork; and files that are damaged."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from trainer_core.errors import DiskError
from trainer_core.system import durable
from trainer_core.worker import restart


def run_with_fault(work: Callable[[], object], fault: str = "") -> int:
    """Do the work in a silent fork.

    Args:
        fault: `kill:3` or `enospc:3`, at the third change on disk; empty: none.

    Returns:
        0; 1 after a DiskError and 3 after another error; minus the signal that ended it.
    """

    def meet_fault() -> int:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        durable._points = itertools.count(1)
        os.environ["TUNEBENCH_FAULT"] = fault
        try:
            work()
        except DiskError:
            return 1
        except BaseException:
            return 3
        return 0

    return restart.run_in_fork(meet_fault)


def damage_file(path: Path, dice: Random) -> str:
    """Flip one bit, cut the end off, or empty the file."""
    content = bytearray(path.read_bytes())
    match dice.choice(("flip", "flip", "cut", "empty")):
        case "flip":
            at = dice.randrange(len(content))
            content[at] ^= 1 << dice.randrange(8)
        case "cut":
            del content[dice.randrange(len(content)) :]
        case "empty":
            content.clear()
    path.write_bytes(content)
    return path.name
