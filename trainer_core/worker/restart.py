"""The small parent that restarts a training worker. It imports nothing heavy, so it survives when memory runs out.

When the kernel's memory guard has ended the worker, or the worker asks for it, a fresh one goes on with less.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainer_core.runs.exit_codes import EXIT_RESTART, NATIVE_FAILURES, ntstatus_of

VMSTAT_FILE = Path("/proc/vmstat")
KILL = 9
"""SIGKILL, which Windows has no name for."""
CRASH_SIGNALS = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGFPE,
    signal.SIGILL,
    getattr(signal, "SIGBUS", signal.SIGSEGV),
)
"""Signals of a process to itself, after which faulthandler has written into the log where it was."""
OOM_STATUSES = (0xC0000017, 0xC000012D)


def run_with_restarts(
    work: Callable[[], int],
    step_down: Callable[[], bool],
    kills: Callable[[], int] | None = None,
    first: int | None = None,
    last_word: Callable[[int], None] = lambda code: None,
    run: Callable[[Callable[[], int]], int] | None = None,
) -> int:
    """Run the worker in a child, again and again as long as there is a reason to. Returns the last one's exit code.

    Args:
        work: the worker's whole life; returns its exit code.
        step_down: writes down what the next worker does with less; False: nothing is left to try.
        kills: how many processes the memory guard has ended so far.
        first: a child that works already; its life is the first one.
        last_word: says for the last one what its exit code tells, if it could not say it itself.
        run: has the work done in a process of its own and returns its exit code; by default a fork.
    """
    kills, child, run = kills or count_oom_kills, first, run or run_in_fork
    while True:
        before = kills()
        code = run(work) if child is None else wait_for_exit(child)
        child = None
        guarded = ntstatus_of(code) in OOM_STATUSES or (code == -KILL and kills() > before)
        if code != EXIT_RESTART and not (guarded and step_down()):
            last_word(code)
            return 1 if guarded else code


def run_in_fork(work: Callable[[], int]) -> int:
    """Have a fork do the `work`, to its end; its exit code as `ended` says it."""
    return wait_for_exit(fork_child(work))


def run_in_process(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command to its end, for systems that cannot fork: what it prints goes where this process prints.

    Returns:
        Its exit code; on Windows, where the system ended it, an NTSTATUS.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    return subprocess.call(command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=1, stderr=2)


def fork_child(work: Callable[[], int]) -> int:
    """Have a child of its own do the `work`; its pid."""
    if sys.platform == "win32":
        raise NotImplementedError("`in_process` is for systems without fork")
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


def wait_for_exit(child: int) -> int:
    """Wait for the child's end: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_signal_exit(code: int) -> bool:
    """Is the exit code minus a signal, as POSIX systems say it?"""
    return -128 < code < 0


def is_native_crash(code: int) -> bool:
    """Did it fail below Python, so that the log's end says where?"""
    return -code in CRASH_SIGNALS or ntstatus_of(code) in NATIVE_FAILURES


def count_oom_kills() -> int:
    """Processes ended by the kernel for want of memory since it was started, in all control groups; 0 where it does not say."""
    try:
        lines = VMSTAT_FILE.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def exit_like(code: int) -> int:
    """The exit code for this process; where a signal ended the worker, the same ends this one, so that others see it.

    An NTSTATUS is returned with its sign, for Windows' exit takes a C long: what is larger would become -1.
    """
    if is_signal_exit(code):
        if -code != KILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    number = ntstatus_of(code)
    return code if number is None else number - 2**32
