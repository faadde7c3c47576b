"""GGUF files of four to six bits per weight, by llama.cpp's own quantiser, from the F16 file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from trainer_core.config.export_targets import EXPORT_TARGETS
from trainer_core.errors import ModelError
from trainer_core.export.context import ExportContext
from trainer_core.system.llama_quantiser import FOLDER_VARIABLE, PROGRAM, find_quantiser

POLL_SECONDS = 0.2
F16_BITS = 16.0


def write_quantised(context: ExportContext, target: Path, key: str) -> None:
    """Quantise the F16 file.

    Raises:
        ModelError: there is no quantiser, or it failed.
        Cancelled: the user stopped the export.
    """
    kind, program = EXPORT_TARGETS[key], find_quantiser()
    if program is None:
        raise ModelError("export.no_quantiser", form=kind.file_type, program=PROGRAM, variable=FOLDER_VARIABLE)
    source = context.part_path(kind.source)
    expected = round(source.stat().st_size * kind.bits / F16_BITS)
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    process = subprocess.Popen(
        [program, source, target, kind.file_type, threads],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    try:
        while True:
            try:
                said, _ = process.communicate(timeout=POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                written = target.stat().st_size if target.exists() else 0
                context.tracker.report(written, expected)
    finally:
        process.kill()
        process.wait()
    if process.returncode or not target.exists():
        lines = said.strip().splitlines() or [f"exit code {process.returncode}"]
        raise ModelError("export.quantiser_failed", program=str(program), reason=lines[-1][:300])
