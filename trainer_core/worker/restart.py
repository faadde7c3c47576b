"""The small parent that restarts a training worker. It imports nothing heavy, so it survives when memory runs out.

When the kernel's OOM killer ends the worker, or the worker asks for a restart, a new one resumes with lower settings.
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
"""SIGKILL, which Windows does not define."""
CRASH_SIGNALS = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGFPE,
    signal.SIGILL,
    getattr(signal, "SIGBUS", signal.SIGSEGV),
)
"""Signals of a crash, after which faulthandler has written a traceback into the log."""
OOM_STATUSES = (0xC0000017, 0xC000012D)


def run_with_restarts(
    work: Callable[[], int],
    step_down: Callable[[], bool],
    kills: Callable[[], int] | None = None,
    first: int | None = None,
    last_word: Callable[[int], None] = lambda code: None,
    run: Callable[[Callable[[], int]], int] | None = None,
) -> int:
    """Run the worker in a child, and restart it while there is a reason to. Returns the last one's exit code.

    Args:
        work: the whole life of a worker; returns its exit code.
        step_down: records lower settings for the next worker; False: nothing is left to try.
        kills: number of processes that the OOM killer has ended so far.
        first: pid of a child that is already running, used as the first worker.
        last_word: reports the last worker's exit code, if the worker could not.
        run: runs the work in a process of its own and returns its exit code; by default a fork.
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
    """Run `work` in a fork until it ends; returns its exit code as in `wait_for_exit`."""
    return wait_for_exit(fork_child(work))


def run_in_process(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command until it ends, on systems without fork. Its output goes to this process's.

    Returns:
        Its exit code; an NTSTATUS if Windows ended it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    return subprocess.call(command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=1, stderr=2)


def fork_child(work: Callable[[], int]) -> int:
    """Fork a child that runs `work`; returns its pid."""
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
    """Wait for a child: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_signal_exit(code: int) -> bool:
    """Is the exit code minus a signal, as on POSIX?"""
    return -128 < code < 0


def is_native_crash(code: int) -> bool:
    """Did it crash below Python, so that the end of the log shows where?"""
    return -code in CRASH_SIGNALS or ntstatus_of(code) in NATIVE_FAILURES


def count_oom_kills() -> int:
    """Processes killed for lack of memory since boot, in all control groups; 0 if the kernel does not report it."""
    try:
        lines = VMSTAT_FILE.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def exit_like(code: int) -> int:
    """The exit code for this process; if a signal ended the worker, the same signal ends this one, so that others see it.

    An NTSTATUS is returned as a signed number, because Windows' exit takes a C long: larger values would become -1.
    """
    if is_signal_exit(code):
        if -code != KILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    number = ntstatus_of(code)
    return code if number is None else number - 2**32
