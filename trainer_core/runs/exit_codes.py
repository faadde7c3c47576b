"""What a worker's exit status means."""

from __future__ import annotations

import signal
from collections.abc import Mapping

EXIT_RESTART = 75
"""Exit code of a worker that wants to be started again (EX_TEMPFAIL in sysexits.h)."""
NATIVE_FAILURE = "a library or the driver failed below Python"
NTSTATUS_MEANINGS: Mapping[int, str] = {
    0xC0000005: f"access violation: {NATIVE_FAILURE}",
    0xC0000374: f"heap corruption: {NATIVE_FAILURE}",
    0xC0000409: f"abort: {NATIVE_FAILURE}",
    0xC0000094: f"division by zero: {NATIVE_FAILURE}",
    0xC00000FD: f"stack overflow: {NATIVE_FAILURE}",
    0xE06D7363: f"C++ exception: {NATIVE_FAILURE}",
    0xC000001D: "illegal instruction: the processor lacks one that a library uses",
    0xC0000006: "in-page error: a file could not be read from its disk or network drive",
    0xC0000017: "no memory: main memory and page file are full",
    0xC000012D: "commitment limit: main memory and page file are full",
    0xC0000135: "DLL not found: a part of .venv or the Visual C++ runtime is missing",
    0xC0000139: "entry point not found: two parts of .venv do not fit together",
    0xC0000142: "DLL not started: its session was ending",
    0xC000013A: "Ctrl-C: its console was closed",
}
"""What Windows says about a process that it ended, by exit code (NTSTATUS, ntstatus.h)."""
FIRST_NTSTATUS, NTSTATUS_LIMIT = 0xC0000000, 0xD0000000
"""Between them an exit code is an NTSTATUS of severity error, and no program's own."""


def describe_exit(code: int) -> str:
    """How a process ended, by its exit code, as the end of a sentence that begins with the process."""
    if (number := ntstatus_of(code)) is not None:
        words = f" ({NTSTATUS_MEANINGS[number]})" if number in NTSTATUS_MEANINGS else ""
        return f"was ended by Windows with 0x{number:08X}{words}"
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by {next((one.name for one in signal.Signals if one == -code), f'signal {-code}')}"


def ntstatus_of(code: int) -> int | None:
    """The NTSTATUS that an exit code is, which some say with a sign; None where it is none."""
    number = code % 2**32
    return number if number in NTSTATUS_MEANINGS or FIRST_NTSTATUS <= number < NTSTATUS_LIMIT else None
