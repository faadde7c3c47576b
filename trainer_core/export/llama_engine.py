"""llama.cpp as the certificate asks it: one GGUF file in a child process."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer_core.data import Message
from trainer_core.errors import ModelError
from trainer_core.export.llama_child import NextTokens, Opened, RenderedPrompt, Written
from trainer_core.system.child_process import ChildLimits, ChildProcess, Crashed, Rejected
from trainer_core.texts import NO_TEXT, Text

PACKAGE = "xllamacpp"
COMMAND = (sys.executable, "-m", "trainer_core.export.llama_child")
LIMITS = ChildLimits(answer_seconds=600)
KINDS: Mapping[str, Any] = {kind.__name__: kind for kind in (Opened, RenderedPrompt, Written, NextTokens)}


def engine_problem() -> Text:
    """Why a file cannot be tried in llama.cpp here; empty if it can."""
    return NO_TEXT if importlib.util.find_spec(PACKAGE) else Text("export.no_engine")


class LlamaEngine(AbstractContextManager["LlamaEngine"]):
    """Raises ModelError from every method if llama.cpp refuses or crashes."""

    def __init__(self, file: Path, context: int):
        self.child = ChildProcess(COMMAND, LIMITS, {"CUDA_VISIBLE_DEVICES": ""})
        fields = {"path": str(file), "context": context, "threads": max(1, (os.cpu_count() or 2) // 2)}
        self.opened: Opened = self.ask_one("open", fields)

    def __exit__(self, *_: object) -> None:
        self.child.close()

    def render(self, messages: Sequence[Message]) -> RenderedPrompt:
        found: RenderedPrompt = self.ask_one("render", {"messages": [asdict(message) for message in messages]})
        return RenderedPrompt(found.text, tuple(found.tokens))

    def write(self, ids: Sequence[int], most: int) -> Sequence[int]:
        found: Written = self.ask_one("write", {"ids": ids, "most": most})
        return found.tokens

    def follow(self, ids: Sequence[int], answer: Sequence[int]) -> list[Mapping[int, float]]:
        found = self.ask("follow", {"ids": ids, "answer": answer})
        return [{int(token): logprob for token, logprob in one.logprobs.items()} for one in found]

    def ask_one(self, request: str, fields: Mapping[str, Any]) -> Any:
        return next(iter(list(self.ask(request, fields))))

    def ask(self, request: str, fields: Mapping[str, Any]) -> Iterator[Any]:
        try:
            for name, values in self.child.ask(request, fields):
                yield KINDS[name](**values)
        except Rejected as error:
            raise ModelError(error.text) from error
        except Crashed as error:
            raise ModelError("export.engine_crashed", reason=error.reason) from error
