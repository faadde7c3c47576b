"""The power cut at every moment while checkpoints, adapters, state files, uploads, models, votes and events are written."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file

from reliability.harness import unsafe_writes
from reliability.harness.claim import Proof, TrialCount, count_trials
from reliability.harness.disk_record import Record, record_work
from reliability.harness.disk_replay import PowerCut, power_cuts, without_flushes, write_tree
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.data import uploads
from trainer_core.errors import UserError
from trainer_core.evaluation import votes
from trainer_core.models import starter
from trainer_core.runs import checkpoints, run_folder
from trainer_core.runs.event_log import EventLog, Tail
from trainer_core.runs.events import Notice
from trainer_core.runs.workspace import Workspace
from trainer_core.system import durable
from trainer_core.texts import verbatim

QUESTION = (
    "The power cut behind every operation on disk of real checkpoints, adapters, state files, uploads, models, votes and events. "
    "The operations are recorded and replayed. What was not flushed by then is lost, there or there by half, names and contents "
    "apart: the model of ALICE (OSDI 2014) with what POSIX promises and no more. Does the reader find the old or the new, whole, "
    "is what a function saved there once it has returned, and does the next write succeed? Events are not flushed: the last may "
    "be lost, and what is read must have been said. The control is the same record without its flushes, or work in place."
)
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
FILES = (*ADAPTER_FILES, "optimizer.pt", "tokenizer/vocab.json")
ORIGIN = checkpoints.CheckpointSource("dpo", 100, "data")
SAID = tuple(f"{number} " + "x" * 30 for number in range(6))
QUICK_CUTS = 24


Work = Callable[[Path], Iterator[str]]
"""Yields what was promised each time that a function of the product has returned."""
Check = Callable[[Path, Sequence[str]], str]
"""What is wrong with a folder after a power cut behind these promises, or nothing."""


@dataclass(frozen=True)
class PowerTask:
    """A claim on what a power cut leaves of some work.

    before: makes what lies on disk, flushed.
    control, control_check: None: the same work with its flushes lost; the same check.
    """

    claim: str
    work: Work
    check: Check
    before: Callable[[Path], object] = lambda place: None
    control_name: str = "the same work, its flushes lost"
    control: Work | None = None
    control_check: Check | None = None


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    for number, task in enumerate(power_tasks()):
        place = folder / str(number)
        record = record_task(place / "ours", task.before, task.work)
        control = record_task(place / "control", task.before, task.control) if task.control else without_flushes(record)
        yield Proof(
            task.claim,
            count_cuts(place / "cuts", spread_cuts(record) if quick else power_cuts(record), task.check),
            task.control_name,
            count_cuts(
                place / "control-cuts",
                spread_cuts(control) if quick else power_cuts(control, quick=True),
                task.control_check or task.check,
            ),
        )


def power_tasks() -> list[PowerTask]:
    in_place = partial(PowerTask, control_name="json.dump in place, then fsync", control=dump_state)
    lines = partial(PowerTask, control_name="lines appended, then json.loads", control=append_lines)
    return [
        PowerTask(
            "Saves in a new run: the newest or the one before is whole, the newest once its save returned",
            save_in_new_run,
            check_saves,
        ),
        PowerTask(
            "An adapter that replaces another: one of both is whole", use_other_step, check_adapter, two_adapters
        ),
        PowerTask("The same where two names cannot be swapped", publish_without_swap, check_adapter, two_adapters),
        PowerTask("A state file holds the old or the new", replace_state, check_state, first_state),
        in_place("A state file is never empty or half written", replace_state, check_state, first_state),
        PowerTask("The converted model is whole or not there", publish_model, check_model),
        PowerTask("An uploaded file is whole or not there", store_upload, check_upload, write_upload),
        PowerTask("Each vote is there once it was taken", give_votes, check_votes),
        PowerTask("The same after a vote that was killed", vote_after_kill, check_votes),
        lines(
            "Only events that were said are read, and so is the next",
            say_events,
            check_events,
            control_check=check_lines,
        ),
    ]


def record_task(place: Path, before: Callable[[Path], object], work: Work) -> Record:
    place.mkdir(parents=True)
    before(place)
    return record_work(place, work(place))


def spread_cuts(record: Record) -> Sequence[PowerCut]:
    """About QUICK_CUTS of them, spread over the record; its end is one."""
    cuts = list(power_cuts(record, quick=True))
    return cuts[:: -(len(cuts) // QUICK_CUTS + 1)]


def count_cuts(place: Path, cuts: Iterable[PowerCut], check: Check) -> TrialCount:
    trials = list[str]()
    for cut in cuts:
        write_tree(cut.tree, place)
        wrong = find_fault(partial(check, place, cut.promises))
        trials.append(f"behind operation {cut.operations}, {cut.loss}: {wrong}" if wrong else "")
        shutil.rmtree(place)
    return count_trials(trials)


def find_fault(check: Callable[[], str]) -> str:
    """What the check says, or the error of the reader. Flushes take time, and the power is not cut again."""
    with mock.patch.object(os, "fsync"):
        try:
            return check()
        except (UserError, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"


# --- checkpoints


def fill_folder(folder: Path, step: int) -> None:
    """Files as in a checkpoint: weights written in Rust, the optimiser in C++, the rest in Python, one in a folder of its own."""
    values = torch.randn(8, 8, generator=torch.Generator().manual_seed(step))
    save_file({"weight": values}, folder / "adapter_model.safetensors")
    torch.save({"state": values}, folder / "optimizer.pt")
    (folder / "adapter_config.json").write_text(json.dumps({"step": step}), encoding="utf-8")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({"words": step}), encoding="utf-8")


def save(run_dir: Path, step: int) -> None:
    with checkpoints.staged_write(checkpoints.checkpoint_dir(run_dir, "dpo", step), ORIGIN, step) as staging:
        fill_folder(staging, step)
    checkpoints.rotate_checkpoints(run_dir, "dpo")


def compare_contents(folder: Path, step: int, names: Sequence[str] = FILES) -> str:
    """Which files are not those of that step, byte for byte? The reader's own hashes are not asked."""
    expected = folder.with_name("expected")
    expected.mkdir()
    fill_folder(expected, step)
    wrong = [name for name in names if (folder / name).read_bytes() != (expected / name).read_bytes()]
    return f"{folder.name} has other contents: {wrong}" if wrong else ""


def save_in_new_run(place: Path) -> Iterator[str]:
    run_dir = run_folder.create_run(place / "workspace" / "runs", TrainJob(recipe=Recipe(name="cut")), "cut")
    yield "0"
    for step in (4, 8, 12):
        save(run_dir, step)
        yield str(step)


def check_saves(place: Path, promises: Sequence[str]) -> str:
    due = int(promises[-1]) if promises else 0
    run_dir = next(iter(run_folder.list_runs(place / "workspace" / "runs")), None)
    if run_dir is None:
        return f"the run is gone, with step {due}" if promises else ""
    found = checkpoints.latest_valid(run_dir, "dpo", "data")
    if found.step not in (due, due + 4):
        return f"step {found.step} is found, {due} was saved: {[*map(str, found.skipped)]}"
    if found.folder and (wrong := compare_contents(found.folder, found.step)):
        return wrong
    run_folder.read_run(run_dir)  # raises if run.json is damaged
    checkpoints.clean_run_leftovers(run_dir)
    save(run_dir, 20)
    checkpoints.verify(checkpoints.checkpoint_dir(run_dir, "dpo", 20))
    return ""


# --- adapters


def two_adapters(place: Path) -> None:
    """Step 4 among the checkpoints, and step 8 as the adapter."""
    for folder, step in ((place / "checkpoints" / "dpo-000004", 4), (place / "adapter-dpo", 8)):
        with checkpoints.staged_write(folder, ORIGIN, step) as staging:
            fill_folder(staging, step)


def use_other_step(place: Path) -> Iterator[str]:
    checkpoints.use_step(place, "dpo", 4)
    yield "4"


def publish_without_swap(place: Path) -> Iterator[str]:
    checkpoints.back_up_adapter(place, "dpo")
    staging = place / ".staging-adapter-dpo"
    staging.mkdir()
    fill_folder(staging, 4)
    checkpoints.write_manifest(staging, ORIGIN, 4)
    durable.publish_staged(staging, place / "adapter-dpo", swap=lambda one, other: False)
    yield "4"


def check_adapter(place: Path, promises: Sequence[str]) -> str:
    """The one or the other, the chosen one once the function returned, with the one before laid aside."""
    checkpoints.clean_run_leftovers(place)
    adapter, aside = place / "adapter-dpo", place / "adapter-dpo-000008"
    step = checkpoints.adapter_step(place, "dpo")
    if step is None or step not in ((4,) if promises else (4, 8)):
        return f"the adapter is of step {step}"
    if step == 4 and (not aside.is_dir() or checkpoints.verify(aside).step != 8):
        return "the adapter of step 8 is not laid aside"
    return compare_contents(adapter, step, ADAPTER_FILES)


# --- state files, uploads and the converted model


def first_state(place: Path) -> None:
    (place / "state.json").write_text(json.dumps("before" * 5), encoding="utf-8")


def replace_state(place: Path) -> Iterator[str]:
    for number in (1, 2):
        durable.write_atomically(place / "state.json", json.dumps(f"after {number}" * 10))
        yield str(number)


def check_state(place: Path, promises: Sequence[str]) -> str:
    text = (place / "state.json").read_text(encoding="utf-8")
    known = [json.dumps("before" * 5), *(json.dumps(f"after {number}" * 10) for number in (1, 2))]
    return "" if text in known[: len(promises) + 2] else f"neither the old nor the new: {text[:40]!r}"


def dump_state(place: Path) -> Iterator[str]:
    for number in (1, 2):
        with unsafe_writes.open_text(place / "state.json") as file:
            json.dump(f"after {number}" * 10, file)
            file.flush()
            os.fsync(file.fileno())
        yield str(number)


UPLOAD = b'{"prompt": "a", "completion": "b"}\n' * 5


def write_upload(place: Path) -> None:
    (place / "mine.jsonl").write_bytes(UPLOAD)


def store_upload(place: Path) -> Iterator[str]:
    uploads.store_upload(Workspace(place / "workspace"), place / "mine.jsonl")
    yield "stored"


def check_upload(place: Path, promises: Sequence[str]) -> str:
    stored = place / "workspace" / "data" / "mine.jsonl"
    if not stored.exists():
        return "the file is gone" if promises else ""
    return "" if stored.read_bytes() == UPLOAD else "the file is damaged"


class SavedPart:
    """Stands for the model and its tokenizer, whose files lie in one folder."""

    def save_pretrained(self, folder: Path, safe_serialization: bool = False) -> None:
        name = "model.safetensors" if safe_serialization else "tokenizer.json"
        (folder / name).write_text(name * 5, encoding="utf-8")


def publish_model(place: Path) -> Iterator[str]:
    (place / ".converted").mkdir()
    starter.publish_model(SavedPart(), SavedPart(), place / ".converted", place / "model")
    yield "converted"


def check_model(place: Path, promises: Sequence[str]) -> str:
    """A folder with what made it is taken as it is, without another look."""
    folder = place / "model"
    if not folder.exists():
        return "the model is gone" if promises else ""
    json.loads((folder / "SOURCE.json").read_text(encoding="utf-8"))
    names = ("model.safetensors", "tokenizer.json")
    wrong = [name for name in names if (folder / name).read_text(encoding="utf-8") != name * 5]
    return f"damaged: {wrong}" if wrong else ""


# --- votes and events


def give_votes(place: Path, numbers: Sequence[str] = ("0", "1", "2")) -> Iterator[str]:
    for number in numbers:
        path = votes.votes_path(Workspace(place / "workspace"))
        votes.append_record(path, votes.Undo(vote=number, at="2026-01-01T00:00:00+00:00"))
        yield number


class Killed(BaseException):
    """Ends a function where a kill would: no handler of errors runs."""


def vote_after_kill(place: Path) -> Iterator[str]:
    """A vote is written and its process killed before the line is flushed; the next ones are taken."""
    folder_flush = os.fsync

    def flush_or_die(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Killed
        folder_flush(descriptor)

    with mock.patch.object(os, "fsync", flush_or_die), suppress(Killed):
        list(give_votes(place, ("0",)))
    yield from give_votes(place, ("1", "2"))


def check_votes(place: Path, promises: Sequence[str]) -> str:
    """All that was taken is there, in its order, and the one under way or killed is or is not."""
    path = place / "workspace" / "votes" / "votes.jsonl"
    found = [record.vote for record in votes.read_vote_records(path) if isinstance(record, votes.Undo)]
    if not set(promises) <= set(found) or found != ["0", "1", "2"][: len(found)]:
        return f"votes {found}, taken were {[*promises]}"
    list(give_votes(place, ["next"]))
    return "" if len(votes.read_vote_records(path)) == len(found) + 1 else "the next vote is not there"


def say_events(place: Path) -> Iterator[str]:
    with EventLog(place / "events.jsonl") as emit:
        for text in SAID:
            emit(Notice(verbatim(text)))
            yield text


def check_events(place: Path, promises: Sequence[str]) -> str:
    """What is read was said, in its order; a damaged line may be noted. The next event is read."""
    with EventLog(place / "events.jsonl") as emit:
        emit(Notice(verbatim("next")))
    notices = [event.text for event in Tail(place / "events.jsonl") if isinstance(event, Notice)]
    texts = [str(text) for text in notices if text.code == verbatim("").code]
    return "" if texts == [*SAID[: len(texts) - 1], "next"] else f"{texts} was read"


def append_lines(place: Path) -> Iterator[str]:
    with unsafe_writes.open_append(place / "events.jsonl") as file:
        for text in SAID:
            file.write(json.dumps(text) + "\n")
            file.flush()
            yield text


def check_lines(place: Path, promises: Sequence[str]) -> str:
    path = place / "events.jsonl"
    texts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return "" if texts == [*SAID[: len(texts)]] else f"{texts} was read"
