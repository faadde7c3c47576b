"""The small parent of a training worker. It imports nothing heavy, so it outlives a lack of memory, with or without the app.

When the kernel's memory guard has ended the worker, or the worker asks for it, a fresh one goes on with less.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

AGAIN = 75
"""Exit code of a worker that wants to be started again (EX_TEMPFAIL in sysexits.h)."""
COUNTS = Path("/proc/vmstat")


def kept(
    work: Callable[[], int],
    step_down: Callable[[], bool],
    kills: Callable[[], int] | None = None,
    first: int | None = None,
    last_word: Callable[[int], None] = lambda code: None,
) -> int:
    """Run the worker in a child, again and again as long as there is a reason to. Returns the last one's exit code.

    Args:
        work: the worker's whole life; returns its exit code.
        step_down: writes down what the next worker does with less; False: nothing is left to try.
        kills: how many processes the memory guard has ended so far.
        first: a child that works already; its life is the first one.
        last_word: says for the last one what its exit code tells, if it could not say it itself.
    """
    kills, child = kills or kernel_kills, first
    while True:
        before = kills()
        code = ended(child if child is not None else forked(work))
        child = None
        guarded = code == -signal.SIGKILL and kills() > before
        if code != AGAIN and not (guarded and step_down()):
            last_word(code)
            return 1 if guarded else code


def forked(work: Callable[[], int]) -> int:
    """Have a child of its own do the `work`; its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Wait for the child's end: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def told(code: int) -> str:
    """How a process ended, by its exit code, as the end of a sentence that begins with the process."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by {next((one.name for one in signal.Signals if one == -code), f'signal {-code}')}"


def kernel_kills() -> int:
    """Processes ended by the kernel for want of memory since it was started, in all control groups; 0 where it does not say."""
    try:
        lines = COUNTS.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def end_like(code: int) -> int:
    """The exit code for this process; where a signal ended the worker, the same ends this one, so that others see it."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code
