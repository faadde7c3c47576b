"""K-quants: which program makes them, what it is told, and what is said where there is none or it fails."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from trainer_core.config.export_targets import EXPORT_TARGETS, merged_source, needs_quantiser, with_sources
from trainer_core.config.jobs import ExportJob, Lane
from trainer_core.errors import ModelError
from trainer_core.export.context import ExportContext
from trainer_core.export.quantise import write_quantised
from trainer_core.export.staging import ExportStaging
from trainer_core.runs.export_events import ExportProgress
from trainer_core.runs.progress import Cancelled, ProgressTracker
from trainer_core.system.llama_quantiser import FOLDER_VARIABLE, find_quantiser

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(sys.platform == "win32", reason="the program is played by a script"),
]
PLAYED = """#!/usr/bin/env python3
import sys, time
source, target, kind, threads = sys.argv[1:]
content = open(source, "rb").read()
with open(target, "wb") as file:
    for at in range(0, len(content), 1000):
        file.write(content[at : at + 1000])
        file.flush()
        time.sleep({pause})
    file.write(kind.encode())
print("quantize time", int(threads))
sys.exit({code})
"""


@pytest.fixture
def context(tmp_path: Path) -> ExportContext:
    lane = Lane(name="DPO", adapter=str(tmp_path / "adapter"))
    job = ExportJob(model="starter", lane=lane, targets=("gguf:q4_k_m",), out=str(tmp_path / "out"), name="it")
    staging = ExportStaging(job.folder, "x")
    staging.begin()
    tracker = ProgressTracker(ExportProgress, lambda event: None, threading.Event(), seconds=0)
    found = ExportContext(job, tmp_path, "", staging, tmp_path / "jobs" / "x", lambda event: None, tracker)
    found.part_path("gguf:f16").write_bytes(b"GGUF" + bytes(2996))
    return found


def play(folder: Path, monkeypatch: pytest.MonkeyPatch, pause: float = 0.0, code: int = 0) -> None:
    """A program of that name, in the folder that the user names."""
    folder.mkdir()
    program = folder / "llama-quantize"
    program.write_text(PLAYED.format(pause=pause, code=code))
    program.chmod(0o755)
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    assert find_quantiser() == program


def test_each_is_made_from_the_f16_file() -> None:
    quants = [target for target in EXPORT_TARGETS if needs_quantiser(target)]
    assert quants == ["gguf:q6_k", "gguf:q5_k_m", "gguf:q4_k_m"]
    for target in quants:
        assert with_sources([target]) == ("adapter", "merged-f16", "gguf:f16", target)
        assert merged_source(target) == "merged-f16"


def test_the_program_gets_the_file_and_the_format(
    context: ExportContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(tmp_path / "bin", monkeypatch, pause=0.2)
    events = list[ExportProgress]()
    context.tracker.say = events.append
    write_quantised(context, tmp_path / "it.gguf", "gguf:q4_k_m")
    assert (tmp_path / "it.gguf").read_bytes() == b"GGUF" + bytes(2996) + b"Q4_K_M"
    assert any(event.done for event in events)


def test_without_one_the_error_names_the_ways_out(
    context: ExportContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ModelError) as error:
        write_quantised(context, tmp_path / "it.gguf", "gguf:q6_k")
    assert error.value.text.code == "export.no_quantiser" and error.value.text.params["form"] == "Q6_K"


def test_what_it_said_last_is_told_when_it_fails(
    context: ExportContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(tmp_path / "bin", monkeypatch, code=3)
    with pytest.raises(ModelError) as error:
        write_quantised(context, tmp_path / "it.gguf", "gguf:q5_k_m")
    assert error.value.text.params["reason"].startswith("quantize time")


def test_stopping_ends_the_program(context: ExportContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(tmp_path / "bin", monkeypatch, pause=60)
    context.tracker.cancelled.set()
    with pytest.raises(Cancelled):
        write_quantised(context, tmp_path / "it.gguf", "gguf:q4_k_m")
