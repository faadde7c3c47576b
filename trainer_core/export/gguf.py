"""GGUF files for llama.cpp, Ollama and LM Studio, made from the merged model."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from pathlib import Path

from trainer_core.config.export_targets import EXPORT_TARGETS
from trainer_core.errors import ModelError
from trainer_core.export.context import ExportContext, ExportStopped
from trainer_core.system.child_process import ChildLimits, ChildProcess, Crashed, Rejected
from trainer_core.system.project import expand_home
from trainer_core.texts import Text

COMMAND = (sys.executable, "-m", "trainer_core.export.gguf_child")
POLL_SECONDS = 0.2
STOPPED = Text("export.stopped")


def write_gguf(context: ExportContext, target: Path, key: str = "gguf:q8_0") -> None:
    """Convert the merged model by llama.cpp's code, in a child process.

    Raises:
        ModelError: llama.cpp does not know this model or its tokenizer, or the file would name a path of this computer.
        ExportStopped: the user stopped the export.
    """
    kind = EXPORT_TARGETS[key]
    source = context.staging.path(kind.source)
    expected = sum(path.stat().st_size for path in source.glob("*.safetensors")) * kind.bits / 16
    child = ChildProcess(COMMAND, ChildLimits(), {"CUDA_VISIBLE_DEVICES": ""})
    problems = list[Exception]()

    def convert() -> None:
        try:
            fields = {"folder": str(source), "target": str(target), "file_type": kind.file_type}
            list(child.ask("convert", fields))
        except (Rejected, Crashed) as error:
            problems.append(error)

    thread = threading.Thread(target=convert, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            written = target.stat().st_size if target.exists() else 0
            context.report(min(written, round(expected)), round(expected))
    except ExportStopped:
        child.stop(STOPPED)
        thread.join()
        raise
    finally:
        child.close()
    if problems:
        raise explain_problem(problems[0])
    check_no_path(target)


def explain_problem(error: Exception) -> ModelError:
    if isinstance(error, Rejected):
        return ModelError(error.text)
    assert isinstance(error, Crashed)
    reason = error.traceback.strip().splitlines()[-1] if error.traceback else str(error.limit or error.code)
    return ModelError("export.conversion_failed", reason=reason[:300])


def check_no_path(file: Path) -> None:
    """Refuse a file that names the user's folder or the folder it was made in, anywhere.

    Raises:
        ModelError: names the folder.
    """
    with file.open("rb") as content, mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        for folder in {str(expand_home("~")), str(file.parent)}:
            if whole.find(os.path.join(folder, "").encode()) >= 0:
                raise ModelError("export.path_in_file", file=file.name, folder=folder)
