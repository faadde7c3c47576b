"""What a worker's exit status means."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from trainer_core.texts import Text

EXIT_RESTART = 75
"""Exit code of a worker that wants a restart (EX_TEMPFAIL in sysexits.h)."""
NATIVE_FAILURE = Text("exit.native_failure")
NATIVE_FAILURES: Mapping[int, Text] = {
    0xC0000005: Text("exit.access_violation"),
    0xC0000374: Text("exit.heap_corruption"),
    0xC0000409: Text("exit.abort"),
    0xC0000094: Text("exit.division"),
    0xC00000FD: Text("exit.stack_overflow"),
    0xE06D7363: Text("exit.cpp_exception"),
}
"""Signals raised by a crash in a library or the driver."""
NTSTATUS_MEANINGS: Mapping[int, Text] = {
    **NATIVE_FAILURES,
    0xC000001D: Text("exit.illegal_instruction"),
    0xC0000006: Text("exit.page_error"),
    0xC0000017: Text("exit.no_memory"),
    0xC000012D: Text("exit.commitment_limit"),
    0xC0000135: Text("exit.dll_missing"),
    0xC0000139: Text("exit.entry_missing"),
    0xC0000142: Text("exit.dll_failed"),
    0xC000013A: Text("exit.console_closed"),
}
"""Windows' reason for ending a process, by exit code (NTSTATUS, ntstatus.h)."""
FIRST_NTSTATUS, NTSTATUS_LIMIT = 0xC0000000, 0xD0000000
"""Range of NTSTATUS codes of severity error, which no program uses as its own."""


def describe_exit(code: int) -> Text:
    """How a process ended, by its exit code: the end of a sentence whose subject is the process."""
    if (number := ntstatus_of(code)) is not None:
        if number in NTSTATUS_MEANINGS:
            return Text("exit.known_status", number=number, meaning=NTSTATUS_MEANINGS[number])
        return Text("exit.status", number=number)
    if code >= 0:
        return Text("exit.number", number=code)
    name = next((one.name for one in signal.Signals if one == -code), "")
    return Text("exit.signal", name=name) if name else Text("exit.unknown_signal", number=-code)


def ntstatus_of(code: int) -> int | None:
    """The exit code as NTSTATUS, also from a signed number; None if it is not one."""
    number = code % 2**32
    return number if number in NTSTATUS_MEANINGS or FIRST_NTSTATUS <= number < NTSTATUS_LIMIT else None
