"""The safe way to read a data file: in a child process that may crash, hang or grow without harm to this one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from trainer_core.data.files.limits import CHILD_LIMITS, ChildLimits
from trainer_core.data.files.open_file import is_text_name
from trainer_core.data.quality.report import DataReport
from trainer_core.data.read_events import ReadProgress
from trainer_core.data.sandbox import protocol
from trainer_core.data.stream import CheckOptions, CountRequest, Preview, PreviewRequest, ReadRequest
from trainer_core.errors import DataError
from trainer_core.system.format import format_gb
from trainer_core.system.project import PROJECT

if TYPE_CHECKING:
    import psutil

    from trainer_core.config.recipe import Columns

SandboxRequest = ReadRequest | PreviewRequest | CountRequest
COMMAND = (sys.executable, "-m", "trainer_core.data.sandbox.child")


class SandboxReader:
    """One child process, for one or several requests. Use as a context manager."""

    def __init__(self, limits: ChildLimits = CHILD_LIMITS, command: tuple[str, ...] = COMMAND) -> None:
        self.limits, self.verdict = limits, ""
        self.allowed_seconds = limits.cpu_seconds
        environment = {
            **os.environ,
            "PYTHONUTF8": "1",
            "PYTHONWARNINGS": "ignore::SyntaxWarning",
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        threading.Thread(target=self.enforce_limits, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, request: SandboxRequest) -> Iterator[Any]:
        """What the child says about a request: see `child.answered` for what each kind of request gets.

        Raises:
            DataError: the file is refused, or reading it broke a limit or the child itself.
        """
        request = request.with_absolute_paths()
        if not is_text_name(request.path):
            raise DataError(f"{ascii(str(request.path))}: the name is not valid text. Rename the file or folder.")
        self.allowed_seconds += request.total_bytes() / self.limits.bytes_per_second
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(protocol.encode_line(request))
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self.explain_exit(request) from error
        for line in self.process.stdout:
            match answer := protocol.decode_answer_line(line):
                case protocol.Finished():
                    return
                case protocol.Rejected(sentence):
                    raise DataError(sentence)
                case protocol.Crashed(traceback):
                    raise RuntimeError(f"The reader of {request.path} failed.\n{traceback}")
            yield answer
        raise self.explain_exit(request)

    def stop(self) -> None:
        """Give up; whoever waits for an answer gets a DataError."""
        self.verdict = "was stopped at your request"
        self.process.kill()

    def enforce_limits(self) -> None:
        """Ends the child where it takes more memory or processor time than any honest file needs."""
        import psutil

        while self.process.poll() is None:
            try:
                memory, seconds = process_usage(psutil.Process(self.process.pid))
            except psutil.Error:  # one has just ended
                memory, seconds = 0, 0.0
            if memory > self.limits.memory_bytes:
                self.verdict = f"takes more than {format_gb(self.limits.memory_bytes)} of memory"
            elif seconds > self.allowed_seconds:
                self.verdict = f"takes more than {self.allowed_seconds:.0f} seconds of processor time"
            if self.verdict:
                self.process.kill()
            time.sleep(self.limits.watch_seconds)

    def explain_exit(self, request: SandboxRequest) -> DataError:
        """Why the child ended without a last word."""
        code = self.process.wait()
        why = self.verdict or f"makes the reader end with code {code}; the file is damaged or made to do harm"
        return DataError(f"{request.path}: reading it {why}. Nothing of it was used.")


def process_usage(child: psutil.Process) -> tuple[int, float]:
    """Bytes of memory and seconds of the processor, with those of what it started: on Windows .venv's python.exe only starts the
    Python that works.

    Raises:
        psutil.Error: one of them has ended.
    """
    both = [child, *child.children()]
    times = [one.cpu_times() for one in both]
    return sum(one.memory_info().rss for one in both), sum(one.user + one.system for one in times)


def check_dataset(
    path: Path,
    columns: Columns | None = None,
    checkup: CheckOptions | None = None,
    going: Callable[[ReadProgress], None] = lambda _: None,
) -> DataReport:
    """Everything that can be said about a data file or folder before training, found in a limited child.

    Args:
        going: hears how far it is, a few times a second.

    Raises:
        DataError: it cannot be read, or its shape is not known.
    """
    report = None
    with SandboxReader() as reader:
        for said in reader.ask(ReadRequest(path, columns, checkup=checkup or CheckOptions())):
            if isinstance(said, ReadProgress):
                going(said)
            else:
                report = said
    assert isinstance(report, DataReport)
    return report


def preview_dataset(path: Path) -> Preview:
    """The columns of a data file, with samples, and the shape that is found by itself.

    Raises:
        DataError: the file cannot be read, or none of its first rows can.
    """
    with SandboxReader() as reader:
        return next(one for one in reader.ask(PreviewRequest(path)) if isinstance(one, Preview))
