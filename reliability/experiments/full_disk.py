"""A whole run, and everything else that the workspace keeps, with the disk full or the process killed at each write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from reliability.harness import unsafe_writes
from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.support.fake_worker import STEPS, Script
from tests.support.faults import run_with_fault
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Columns, Recipe
from trainer_core.data import uploads
from trainer_core.errors import DiskError
from trainer_core.evaluation import votes
from trainer_core.runs import checkpoints, control, metadata, run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.metadata import RunMetadata
from trainer_core.runs.run_state import mark_dead, read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.worker import runner

QUESTION = (
    "The disk full, or the process killed, at every write, flush and rename of a scripted run with its checkpoints and adapters, "
    "and of a run's name, a request, remembered columns and votes: is the run paused with the free bytes named, does every "
    "file hold what it held or what it should, and does the run go on to its end with each step once? The control "
    "writes a document into its own file."
)
POINTS = 200
IN_PLACE = "json.dump into the file itself"
SPEED = 100_000.0


def run(place: Path, quick: bool) -> Iterator[Proof]:
    trials = 5 if quick else 20
    points = range(1, POINTS + 1, 40 if quick else 1)
    full = [live_with_fault(place, "enospc", at, run_scripted_life, check_pause_and_resume) for at in points]
    yield Proof(
        "Disk full: paused, every file whole, resumed to the end",
        count_trials(full),
        IN_PLACE,
        overwrite_control(place, "enospc", trials),
    )
    dead = [live_with_fault(place, "kill", at, run_scripted_life, check_resumed) for at in points]
    yield Proof(
        "Killed: every file whole, resumed to the end",
        count_trials(dead),
        IN_PLACE,
        overwrite_control(place, "kill", trials),
    )


def live_with_fault(
    place: Path, fault: str, at: int, work: Callable[[Path], None], check: Callable[[Path], str]
) -> str:
    """One life with a fault at its n-th write, and what is wrong afterwards."""
    folder = place / f"{fault}-{at}"
    folder.mkdir()
    run_with_fault(partial(work, folder), f"{fault}:{at}")
    wrong = check(folder)
    shutil.rmtree(folder)
    return f"{fault} at write {at}: {wrong}" if wrong else ""


def run_scripted_life(folder: Path) -> None:
    """Everything else first, so that the run's writes come at every point as well; what fails is said and left."""
    workspace = Workspace(folder)
    run_dir = run_folder.create_run(workspace.runs, TrainJob(recipe=Recipe(name="full")), "full")
    for write in (
        lambda: metadata.write_metadata(run_dir, RunMetadata(name="Mine", note="ü" * 500)),
        lambda: uploads.save_mapping(workspace, ("a", "b"), Columns(prompt="a", chosen="b")),
        lambda: votes.append_record(votes.votes_path(workspace), votes.Undo(vote="x", at="2026-01-01T00:00:00+00:00")),
        lambda: runner.run_job(run_dir, lambda job: Script(job, SPEED).run),
        lambda: control.send_request(run_dir, "pause"),
    ):
        with suppress(DiskError):
            write()


def resume_after_fault(folder: Path) -> None:
    """As the app does when a run is resumed."""
    run_dir = only_run(folder)
    assert run_dir
    control.clear_request(run_dir)
    runner.run_job(run_dir, lambda job: Script(job, SPEED).run)


def only_run(folder: Path) -> Path | None:
    return next(iter(run_folder.list_runs(folder / "runs")), None)


# --- what is wrong


def check_pause_and_resume(folder: Path) -> str:
    run_dir = only_run(folder)
    view = read_run_state(run_dir) if run_dir else None
    if view and view.phase not in (Phase.DONE, Phase.PAUSED):
        return f"the run is {view.phase.value}: {view.error}"
    if view and view.phase is Phase.PAUSED and not view.detail.params["reason"].params["free"]:
        return f"paused without the bytes: {view.detail}"
    return check_resumed(folder)


def check_resumed(folder: Path) -> str:
    """Every file is whole, and the run comes to its end with each step once."""
    if wrong := check_files_whole(folder):
        return wrong
    run_dir = only_run(folder)
    if run_dir is None:
        return ""  # it was never there: the app says so at its start
    if not mark_dead(read_run_state(run_dir), False, "").phase.is_resumable:
        return check_files_whole(folder) if read_run_state(run_dir).phase is Phase.DONE else "it cannot be resumed"
    run_with_fault(partial(resume_after_fault, folder))
    view, total = read_run_state(run_dir), sum(STEPS.values())
    if view.phase is not Phase.DONE or len({(point.stage, point.step) for point in view.points}) != total:
        return f"resumed, it is {view.phase.value} with {len(view.points)} of {total} steps: {view.error}"
    return check_files_whole(folder)


SCRIPTED = "adapter_config.json"
"""The scripted worker's adapters are their own names; what counts is the seal of their folders."""


def check_files_whole(folder: Path) -> str:
    """Every line and every document can be read, and each sealed folder holds what its seal says."""
    for path in sorted(folder.rglob("*.json*")):
        if path.suffix in (".json", ".jsonl") and not path.name.startswith(".") and path.name != SCRIPTED:
            try:
                for line in documents(path):
                    json.loads(line)
            except ValueError as error:
                return f"{path.name}: {error}"
    for seal in folder.rglob(checkpoints.MANIFEST):
        if not any(part.startswith(".") for part in seal.relative_to(folder).parts):
            checkpoints.verify(seal.parent)
    return ""


def documents(path: Path) -> list[bytes]:
    """The lines of a log, but for a last one that a kill cut short; the whole of any other file."""
    text = path.read_bytes()
    return text.split(b"\n")[:-1] if path.suffix == ".jsonl" else [text]


# --- the control


def overwrite_control(place: Path, fault: str, trials: int) -> TrialCount:
    """The same faults, and a document that is written with json.dump."""
    return TrialCount(
        trials,
        sum(bool(live_with_fault(place, fault, at, write_in_place, check_files_whole)) for at in range(1, trials + 1)),
    )


def write_in_place(folder: Path) -> None:
    """A state of 16 KB written again and again into its own file."""
    for number in range(20):
        with unsafe_writes.open_text(folder / "state.json") as file:
            json.dump({"state": number, "rows": list(range(3000))}, file)
