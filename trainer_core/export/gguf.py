"""GGUF files for llama.cpp, Ollama and LM Studio, made from the merged model."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from trainer_core.config.export_targets import EXPORT_TARGETS
from trainer_core.errors import ModelError
from trainer_core.export.context import ExportContext
from trainer_core.planning.export_cost import folder_bytes
from trainer_core.system.child_process import ChildLimits, ChildProcess, Crashed, Rejected
from trainer_core.system.project import expand_home

COMMAND = (sys.executable, "-m", "trainer_core.export.gguf_child")
POLL_SECONDS = 0.2
MERGED_BITS = 16
"""Per weight of the merged model that a file is made from."""


def write_gguf(context: ExportContext, target: Path, key: str) -> None:
    """Convert the merged model by llama.cpp's code, in a child process.

    Raises:
        ModelError: llama.cpp does not know this model or its tokenizer, or the file would name a path of this computer.
        Cancelled: the user stopped the export.
    """
    kind = EXPORT_TARGETS[key]
    source = context.staging.path(kind.source)
    fields = {"folder": str(source), "target": str(target), "file_type": kind.file_type}
    run_converter(context, "convert", fields, target, round(folder_bytes(source) * kind.bits / MERGED_BITS))


def write_lora_gguf(context: ExportContext, target: Path, key: str) -> None:
    """Convert the adapter alone.

    Raises:
        ModelError: the format cannot say what this adapter does.
        Cancelled: the user stopped the export.
    """
    adapter = context.staging.path(EXPORT_TARGETS[key].source)
    fields = {"folder": str(context.base), "adapter": str(adapter), "target": str(target)}
    run_converter(context, "convert_lora", fields, target, folder_bytes(adapter))


def run_converter(context: ExportContext, request: str, fields: dict[str, str], target: Path, expected: int) -> None:
    """Run a request of the converter, with progress by the bytes of its file.

    Args:
        expected: bytes of the file in the end.
    """
    child = ChildProcess(COMMAND, ChildLimits(), {"CUDA_VISIBLE_DEVICES": ""})
    problems = list[Exception]()

    def convert() -> None:
        try:
            list(child.ask(request, fields))
        except (Rejected, Crashed) as error:
            problems.append(error)

    thread = threading.Thread(target=convert, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            written = target.stat().st_size if target.exists() else 0
            context.tracker.report(written, expected)
    finally:
        child.process.kill()  # it has answered, or is not waited for
        thread.join()
        child.close()
    if problems:
        raise explain_problem(problems[0])
    check_no_path(target, own_folders(context))


def own_folders(context: ExportContext) -> set[Path]:
    """Folders of this computer that a file could tell: the user's, and those that the export reads and writes."""
    adapters = (Path(folder).parent for folder in context.job.lane.adapter_folders)
    return {expand_home("~"), context.staging.folder, context.base.resolve(), *adapters}


def explain_problem(error: Exception) -> ModelError:
    if isinstance(error, Rejected):
        return ModelError(error.text)
    assert isinstance(error, Crashed)
    return ModelError("export.conversion_failed", reason=error.reason)


def check_no_path(file: Path, own: Iterable[Path]) -> None:
    """Refuse a file that names one of these folders, anywhere.

    Raises:
        ModelError: names the folder.
    """
    with file.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        for folder in own:
            if whole.find(os.path.join(folder, "").encode()) >= 0:
                raise ModelError("export.path_in_file", file=file.name, folder=str(folder))
