"""The app's end of the token preview: a process started when first asked, and ended when nobody asks for a while."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

import orjson

from trainer_core.data.preview.protocol import (
    MeasureRequest,
    PreviewCrashed,
    PreviewLoading,
    PreviewRejected,
    TokenRowRequest,
)
from trainer_core.errors import DataError, ModelError
from trainer_core.runs.workspace import Workspace
from trainer_core.system.project import PROJECT

COMMAND = (sys.executable, "-m", "trainer_core.data.preview.child")
IDLE_SECONDS = 600.0
ANSWER_SECONDS = 180.0
"""Longer than 5,000 long rows take on a busy processor; a tokenizer made to hurt takes for ever."""


class TokenPreview:
    """One process with one question at a time. `working`: what it says it is doing."""

    def __init__(
        self, workspace: Workspace, idle_seconds: float = IDLE_SECONDS, answer_seconds: float = ANSWER_SECONDS
    ):
        self.command, self.idle_seconds = (*COMMAND, str(workspace.root)), idle_seconds
        self.answer_seconds = answer_seconds
        self.working = ""
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.timer: threading.Timer | None = None

    def ask(self, request: TokenRowRequest | MeasureRequest) -> dict[str, Any]:
        """The answer's fields (a class of `protocol.py`), in plain values.

        Raises:
            DataError: the file, the model or its template does not allow an answer, or the process ended.
        """
        with self.lock:
            process = self.ensure_process()
            deadline = threading.Timer(self.answer_seconds, process.kill)
            deadline.start()
            try:
                return self.exchange_lines(process, request)
            finally:
                deadline.cancel()

    def exchange_lines(
        self, process: subprocess.Popen[bytes], request: TokenRowRequest | MeasureRequest
    ) -> dict[str, Any]:
        assert process.stdin and process.stdout
        began = time.monotonic()
        process.stdin.write(request.model_dump_json().encode() + b"\n")
        process.stdin.flush()
        for text in process.stdout:
            name, fields = orjson.loads(text)
            self.working = fields["words"] if name == PreviewLoading.__name__ else ""
            if name != PreviewLoading.__name__:
                self.schedule_close()
                return unwrap_answer(name, fields)
        code, self.working = process.wait(), ""
        if time.monotonic() - began < self.answer_seconds:
            raise DataError(f"{request.source}: the process that shows tokens ended with code {code}. Try again.")
        raise ModelError(
            f"{request.model}: its tokens were not there after {self.answer_seconds:.0f} s, so the process that shows them was "
            "ended. Nothing was changed. Take fewer rows or another model."
        )

    def ensure_process(self) -> subprocess.Popen[bytes]:
        """The process, started anew where it is not there."""
        if self.timer:
            self.timer.cancel()
        if self.process is None or self.process.poll() is not None:
            self.working = "Loading the tokenizer"
            environment = {**os.environ, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
            self.process = subprocess.Popen(
                self.command, cwd=PROJECT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        return self.process

    def schedule_close(self) -> None:
        self.timer = threading.Timer(self.idle_seconds, self.close)
        self.timer.daemon = True
        self.timer.start()

    def close(self) -> None:
        """End the process; the next question starts another."""
        with self.lock:
            if self.process and self.process.poll() is None:
                self.process.kill()
                self.process.communicate()


def unwrap_answer(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    if name == PreviewRejected.__name__:
        raise DataError(fields["sentence"])
    if name == PreviewCrashed.__name__:
        raise RuntimeError(f"The lens failed.\n{fields['traceback']}")
    return fields
