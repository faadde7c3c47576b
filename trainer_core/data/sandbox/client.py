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

from trainer_core.data.files.limits import CHILD, ChildLimits
from trainer_core.data.files.open_file import is_text
from trainer_core.data.quality.report import Report
from trainer_core.data.sandbox import protocol
from trainer_core.data.stream import Checkup, Count, Glance, Glimpse, Progress, Request
from trainer_core.errors import DataError
from trainer_core.system.project import PROJECT

if TYPE_CHECKING:
    import psutil

    from trainer_core.config.recipe import Columns

Asked = Request | Glance | Count
COMMAND = (sys.executable, "-m", "trainer_core.data.sandbox.child")


class Reader:
    """One child process, for one or several requests. Use as a context manager."""

    def __init__(self, limits: ChildLimits = CHILD, command: tuple[str, ...] = COMMAND) -> None:
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
        threading.Thread(target=self.watch, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, request: Asked) -> Iterator[Any]:
        """What the child says about a request: see `child.answered` for what each kind of request gets.

        Raises:
            DataError: the file is refused, or reading it broke a limit or the child itself.
        """
        request = request.absolute()
        if not is_text(request.path):
            raise DataError(f"{ascii(str(request.path))}: the name is not valid text. Rename the file or folder.")
        self.allowed_seconds += request.size() / self.limits.bytes_per_second
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(protocol.line(request))
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self.gone(request) from error
        for line in self.process.stdout:
            match answer := protocol.answer(line):
                case protocol.Done():
                    return
                case protocol.Refused(sentence):
                    raise DataError(sentence)
                case protocol.Broke(traceback):
                    raise RuntimeError(f"The reader of {request.path} failed.\n{traceback}")
            yield answer
        raise self.gone(request)

    def stop(self) -> None:
        """Give up; whoever waits for an answer gets a DataError."""
        self.verdict = "was stopped at your request"
        self.process.kill()

    def watch(self) -> None:
        """Ends the child where it takes more memory or processor time than any honest file needs."""
        import psutil

        while self.process.poll() is None:
            try:
                memory, seconds = taken(psutil.Process(self.process.pid))
            except psutil.Error:  # one has just ended
                memory, seconds = 0, 0.0
            if memory > self.limits.memory_bytes:
                self.verdict = f"takes more than {self.limits.memory_bytes / 2**30:.1f} GB of memory"
            elif seconds > self.allowed_seconds:
                self.verdict = f"takes more than {self.allowed_seconds:.0f} seconds of processor time"
            if self.verdict:
                self.process.kill()
            time.sleep(self.limits.watch_seconds)

    def gone(self, request: Asked) -> DataError:
        """Why the child ended without a last word."""
        code = self.process.wait()
        why = self.verdict or f"makes the reader end with code {code}; the file is damaged or made to do harm"
        return DataError(f"{request.path}: reading it {why}. Nothing of it was used.")


def taken(child: psutil.Process) -> tuple[int, float]:
    """Bytes of memory and seconds of the processor, with those of what it started: on Windows .venv's python.exe only starts the
    Python that works.

    Raises:
        psutil.Error: one of them has ended.
    """
    both = [child, *child.children()]
    times = [one.cpu_times() for one in both]
    return sum(one.memory_info().rss for one in both), sum(one.user + one.system for one in times)


def check(
    path: Path,
    columns: Columns | None = None,
    checkup: Checkup | None = None,
    going: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Everything that can be said about a data file or folder before training, found in a limited child.

    Args:
        going: hears how far it is, a few times a second.

    Raises:
        DataError: it cannot be read, or its shape is not known.
    """
    report = None
    with Reader() as reader:
        for said in reader.ask(Request(path, columns, checkup=checkup or Checkup())):
            if isinstance(said, Progress):
                going(said)
            else:
                report = said
    assert isinstance(report, Report)
    return report


def glance(path: Path) -> Glimpse:
    """The columns of a data file, with samples, and the shape that is found by itself.

    Raises:
        DataError: the file cannot be read, or none of its first rows can.
    """
    with Reader() as reader:
        return next(one for one in reader.ask(Glance(path)) if isinstance(one, Glimpse))
