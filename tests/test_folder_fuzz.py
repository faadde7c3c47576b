"""The proof `folders` with few faults, and that what it changes is all there is."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reliability.experiments.folder_fuzz import BATCH_SECONDS, SOUND, check_batch, run_in_child, step_error
from reliability.harness.folder_faults import MISSING, PLACES, VALUES, FolderFault, list_faults
from reliability.harness.sound_run import BESIDE, make_events, make_sound_files
from trainer_core.errors import ConfigError
from trainer_core.runs.events import EVENT_KINDS
from trainer_core.system.project import PROJECT


@pytest.mark.real
@pytest.mark.skipif(os.name != "posix", reason="forks, pipes and limits of processes")
def test_the_proof_holds_with_few_faults() -> None:
    command = [sys.executable, "-m", "reliability", "folders", "--quick"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "UNSLOTH_FORCE_CPU": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_the_sound_run_has_each_event_with_all_its_fields() -> None:
    seen = {type(event): event for event in make_events(done=True)}
    assert set(seen) == set(EVENT_KINDS.values())
    empty = [
        f"{kind.__name__}.{field.name}"
        for kind, event in seen.items()
        for field in dataclasses.fields(kind)
        if getattr(event, field.name) in (None, ())
    ]
    assert empty == []


def test_every_field_of_every_file_is_changed(tmp_path: Path) -> None:
    files = make_sound_files(tmp_path / "run", done=True)
    faults = list(list_faults(files))
    assert len(faults) >= 5000 and len(set(faults)) == len(faults)
    assert {fault.value for fault in faults} == {*VALUES, MISSING, *PLACES}
    assert {fault.file for fault in faults if fault.place is None} > set(files)
    for name in (
        "events.jsonl",
        "run.json",
        "scores.json",
        f"{BESIDE}events.jsonl",
        "checkpoints/dpo-000004/MANIFEST.json",
    ):
        changed = {fault.place for fault in faults if fault.file == name}
        assert len(changed) > 10, name
    recipe = json.loads(files["run.json"])["job"]["recipe"]
    assert {("job", "recipe", key) for key in recipe} <= {fault.place for fault in faults if fault.file == "run.json"}


def test_one_fault_that_takes_all_along_is_found_by_halves(tmp_path: Path) -> None:
    faults = [FolderFault("about.json", ("name",), value, done=True) for value in VALUES]
    bad = faults[5]

    def check(place: Path, files: object, batch: list[FolderFault]) -> list[str]:
        return [*[""] * len(batch), "gone" if bad in batch else ""]

    words = check_batch(tmp_path / "place", {}, faults, check)  # type: ignore[arg-type]
    assert [word for word in words if word] == [f"{bad}: gone"] and words.index(f"{bad}: gone") == 5


@pytest.mark.skipif(os.name != "posix", reason="forks, pipes and limits of processes")
def test_who_waits_for_a_pipe_and_who_dies_is_found(tmp_path: Path) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "found.json"
    os.mkfifo(pipe)
    assert run_in_child(lambda: [pipe.read_text()], file, idle=1.0) == "waits for something that does not come, 1 s"
    assert run_in_child(exceed_limit, file) == f"takes more than {BATCH_SECONDS} processor seconds"
    assert run_in_child(lambda: [str(1 / 0)], file) == "the process ended with 1"
    assert run_in_child(lambda: ["", "a word"], file) == ["", "a word"]


def exceed_limit() -> list[str]:
    """As the system ends a process that has spent its processor seconds."""
    os.kill(os.getpid(), signal.SIGXCPU)
    return []


def test_a_refusal_in_words_is_right_and_any_other_error_is_not() -> None:
    def refuse() -> None:
        raise ConfigError("run_control.no_rows", run="a-run")

    def break_down() -> None:
        raise KeyError("x")

    assert step_error(refuse, "step") == ""
    assert step_error(break_down, "step") == "step: KeyError: 'x'"
    assert sorted(SOUND)[0] < "20260101" < sorted(SOUND)[1]
