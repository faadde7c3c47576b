"""Exports that are killed, or meet a full disk, at every write, flush and rename."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.support.faults import run_with_fault
from trainer_core.config.jobs import ExportJob, Lane
from trainer_core.runs.checkpoints import MANIFEST, file_sha256
from trainer_core.system import durable, project

QUESTION = (
    "An adapter and a merged model with their certificate are exported from a two-layer model, killed or with a full disk at "
    "every write of a tensor, flush and rename: does the final name hold a whole export or nothing, and does the next try end "
    "on the same bytes? The control writes the same files in place."
)
TARGETS = ("adapter", "merged")
MAKE = (
    "import sys; from pathlib import Path; from tests.support import export_case as e; e.write_lane(Path(sys.argv[1]))"
)
QUICK_STEP = 33
"""Of about a hundred points. The fourth one lies where the export gets its name, or just behind."""
Work = Callable[[], object]


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    subprocess.run([sys.executable, "-c", MAKE, str(folder)], cwd=project.PROJECT, check=True, capture_output=True)
    from tests.support import export_case

    lane = Lane(name="DPO", adapter=str(folder / "adapter-dpo"))
    whole = export_case.export_job(folder, lane, TARGETS, out=str(folder / "whole"))
    if run_with_fault(partial(export_case.run_export, folder, whole)) != 0:
        raise RuntimeError("the undisturbed export failed")
    wanted = hash_files(whole.folder)
    for fault, claim in (("kill", "Killed"), ("enospc", "Disk full")):

        def export(out: Path) -> Work:
            job = whole.model_copy(update={"out": str(out)})
            return partial(export_case.run_export, folder, job, run_dir=export_case.make_run(folder, job))

        def copy(out: Path) -> Work:
            return partial(copy_in_place, whole.folder, out / whole.name)

        step = QUICK_STEP if quick else 1
        ours = try_points(folder / f"{fault}-ours", fault, whole, export, wanted, step)
        control = try_points(folder / f"{fault}-control", fault, whole, copy, wanted, 1 if quick else step)
        yield Proof(f"{claim} at every write, flush and rename of an export", ours, "files copied in place", control)


def try_points(
    folder: Path, fault: str, job: ExportJob, work: Callable[[Path], Work], wanted: dict[str, str], step: int
) -> TrialCount:
    """The work with the fault at point 1, 1 + step, … until it gets through; then the work once more, undisturbed."""
    trials, point, through = list[str](), 1, False
    while not through:
        out = folder / str(point)
        task = work(out)
        through = run_with_fault(task, f"{fault}:{point}") == 0
        wrong = describe_fault(out / job.name, wanted, through)
        if not wrong and not through and run_with_fault(task) != 0:
            wrong = "the next try failed"
        wrong = wrong or describe_fault(out / job.name, wanted, True)
        trials.append(f"{fault} at {point}: {wrong}" if wrong else "")
        shutil.rmtree(out)
        point += step
    return count_trials(trials)


def describe_fault(target: Path, wanted: dict[str, str], must_exist: bool) -> str:
    if not target.exists():
        return "there is no export" if must_exist else ""
    return "" if hash_files(target) == wanted else "the export is not whole"


def hash_files(folder: Path) -> dict[str, str]:
    """Hash of every file. A folder that its manifest does not describe has no hashes."""
    found = {path.relative_to(folder).as_posix(): file_sha256(path) for path in folder.rglob("*") if path.is_file()}
    try:
        parts = json.loads((folder / MANIFEST).read_bytes())["parts"].values()
    except (OSError, ValueError):
        return {}
    told = {name: file["sha256"] for files in parts for name, file in files.items()}
    return found if told == {name: one for name, one in found.items() if name != MANIFEST} else {}


# --- the control


def copy_in_place(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        durable.fault_point(place)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
