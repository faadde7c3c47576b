"""The safe way to read a data file: in a child process that can crash, hang or grow without harm to this one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from trainer_core.data.files.limits import BYTES_PER_SECOND, CHILD_LIMITS
from trainer_core.data.files.open_file import is_text_name
from trainer_core.data.files.raw_rows import UnreadableRow
from trainer_core.data.quality.report import DataReport
from trainer_core.data.read_events import FileNote, IgnoredContent, ReadProgress, SchemaDetected, UnusableRow, UsableRow
from trainer_core.data.stream import CheckOptions, CountRequest, Preview, PreviewRequest, ReadRequest, RowCounts
from trainer_core.errors import DataError
from trainer_core.system.child_process import ChildLimits, ChildProcess, Crashed, Rejected
from trainer_core.system.format import format_gb
from trainer_core.texts import Text

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from trainer_core.config.recipe import Columns

SandboxRequest = ReadRequest | PreviewRequest | CountRequest
COMMAND = (sys.executable, "-m", "trainer_core.data.sandbox.child")
ENVIRONMENT = {"PYTHONUTF8": "1", "PYTHONWARNINGS": "ignore::SyntaxWarning", "OMP_NUM_THREADS": "1"}
ANSWER_TYPES = {
    kind.__name__: kind
    for kind in (
        FileNote, SchemaDetected, ReadProgress, UsableRow, UnreadableRow, UnusableRow, IgnoredContent, DataReport,
        Preview, RowCounts,
    )
}  # fmt: skip


class SandboxReader:
    """One child process, for one or several requests. Use as a context manager."""

    def __init__(self, limits: ChildLimits = CHILD_LIMITS, command: tuple[str, ...] = COMMAND) -> None:
        self.limits, self.child = limits, ChildProcess(command, limits, ENVIRONMENT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.close()

    def ask(self, request: SandboxRequest) -> Iterator[Any]:
        """The child's answers to a request, validated against their classes, since the child has read untrusted files.

        Raises:
            DataError: the file is refused, or reading it broke a limit or crashed the child.
        """
        request = request.with_absolute_paths()
        if not is_text_name(request.path):
            raise DataError("reader.bad_name", path=ascii(str(request.path)))
        seconds = request.total_bytes() / BYTES_PER_SECOND
        try:
            for name, fields in self.child.ask(type(request).__name__, vars(request), seconds):
                yield answer_adapter(name).validate_python(fields)
        except Rejected as error:
            raise DataError(error.text) from error
        except Crashed as crash:
            raise self.explain_crash(request.path, crash) from crash

    def explain_crash(self, path: Path, crash: Crashed) -> Exception:
        if crash.out_of_memory:
            return DataError("reader.memory", path=path, limit=format_gb(self.limits.memory_bytes))
        if crash.traceback:
            return RuntimeError(f"The reader of {path} failed.\n{crash.traceback}")
        if crash.limit:
            return DataError("reader.limit", path=path, limit=crash.limit)
        return DataError("reader.ended", path=path, exit=crash.code)

    def stop(self) -> None:
        """End the child; a waiting request gets a DataError."""
        self.child.stop(Text("reader.stopped"))


@cache
def answer_adapter(name: str) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(ANSWER_TYPES[name])


def check_dataset(
    path: Path,
    columns: Columns | None = None,
    checkup: CheckOptions | None = None,
    going: Callable[[ReadProgress], None] = lambda _: None,
    encoding: str = "",
) -> DataReport:
    """The report on a data file or folder, made in a limited child process.

    Args:
        going: receives progress a few times per second.

    Raises:
        DataError: it cannot be read, or its schema is unknown.
    """
    report = None
    with SandboxReader() as reader:
        for said in reader.ask(ReadRequest(path, columns, None, checkup or CheckOptions(), encoding)):
            if isinstance(said, ReadProgress):
                going(said)
            else:
                report = said
    assert isinstance(report, DataReport)
    return report


def preview_dataset(path: Path, encoding: str = "") -> Preview:
    """The columns of a data file, with samples, and the detected schema.

    Raises:
        DataError: the file cannot be read, or none of its first rows can.
    """
    with SandboxReader() as reader:
        return next(one for one in reader.ask(PreviewRequest(path, encoding)) if isinstance(one, Preview))
