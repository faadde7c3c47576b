"""The app's side of the token preview: a process started at the first request, ended when idle."""

from __future__ import annotations

import sys
from typing import Any

from trainer_core.data.preview.protocol import MeasureRequest, TokenRowRequest
from trainer_core.errors import DataError, ModelError
from trainer_core.runs.workspace import Workspace
from trainer_core.system.child_process import ChildLimits, ChildProcess, Crashed, Rejected, SharedChild
from trainer_core.system.format import format_gb

COMMAND = (sys.executable, "-m", "trainer_core.data.preview.child")
ENVIRONMENT = {
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # the child hides torch from transformers
}
IDLE_SECONDS = 600.0
ANSWER_SECONDS = 180.0
"""Enough for 5,000 long rows on a busy processor; a malicious tokenizer takes forever."""
CHILD_LIMITS = ChildLimits(memory_bytes=6 << 30, answer_seconds=ANSWER_SECONDS, watch_seconds=0.2)
"""The process takes 300 MB and 20,000 rows; the one that it starts to convert the starter takes 2 GB."""


class TokenPreview:
    """One process that handles one request at a time."""

    def __init__(self, workspace: Workspace, idle_seconds: float = IDLE_SECONDS, limits: ChildLimits = CHILD_LIMITS):
        command, self.limits = (*COMMAND, str(workspace.root)), limits
        self.shared = SharedChild(lambda: ChildProcess(command, self.limits, ENVIRONMENT), idle_seconds)

    def ask(self, request: TokenRowRequest | MeasureRequest) -> dict[str, Any]:
        """The answer's fields (a class of `protocol.py`) as plain values.

        Raises:
            DataError: the file, the model or its template does not allow an answer, or the process ended.
            ModelError: the request took too long or too much memory.
        """
        try:
            with self.shared.ask(type(request).__name__, request.model_dump()) as answers:
                return [fields for _, fields in answers][0]
        except Rejected as error:
            raise DataError(error.text) from error
        except Crashed as crash:
            raise self.explain_crash(request, crash) from crash

    def explain_crash(self, request: TokenRowRequest | MeasureRequest, crash: Crashed) -> Exception:
        if crash.traceback:
            return RuntimeError(f"The lens failed.\n{crash.traceback}")
        if not crash.limit:
            return DataError("preview.ended", path=request.source, exit=crash.code)
        if crash.limit.code == "child.memory":
            return ModelError("preview.memory", model=request.model, limit=format_gb(self.limits.memory_bytes))
        return ModelError("preview.late", model=request.model, seconds=self.limits.answer_seconds)

    def close(self) -> None:
        """End the process; the next request starts another."""
        self.shared.close()
