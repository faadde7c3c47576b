"""Checkpoints and state files: damaged, killed in every write, on a full disk."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from safetensors.torch import save as safetensors

from reliability.harness import unsafe_writes
from reliability.harness.claim import Proof, TrialCount, count_trials
from tests.support.faults import damage_file, run_with_fault
from trainer_core.runs import checkpoints
from trainer_core.runs.event_log import EventLog, Tail
from trainer_core.runs.events import Notice
from trainer_core.system import durable
from trainer_core.texts import parse_text, verbatim

QUESTION = (
    "Bits flipped and files cut in checkpoints, and each letter and digit of a manifest changed; the process killed, or the disk "
    "full, at every write, flush and rename of a checkpoint, of an adapter that replaces another and of a state file. Each "
    "control is the same work written in place, as the stock trainer, a copy, json.dump and an open log do it, with the same "
    "faults at each of its own writes; and files and manifests that are read unchecked."
)
ORIGIN = checkpoints.CheckpointSource("dpo", 10, "data")
FILES = 3
"""Weights, optimiser and trainer state: a checkpoint as the trainer leaves it, small."""
EVENTS, SAID = 25, 20
"""Points at which a log meets its fault, and how many events are said."""


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    yield prove_damage_found(folder / "damaged", 40 if quick else 500)
    yield prove_manifest_sealed(folder / "sealed")
    for fault, claim, work, control in fault_tasks():
        yield prove_fault_tolerance(folder / claim, fault, claim, work, control, quick)


def fill(folder: Path, seed: int) -> None:
    """Files like a checkpoint's: 200 KB of weights, the optimiser as a pickle of torch, the state as JSON."""
    generator = torch.Generator().manual_seed(seed)
    save_file({"weight": torch.randn(200, 250, generator=generator)}, folder / "adapter_model.safetensors")
    torch.save({"state": torch.randn(2, 200, 250, generator=generator)}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": seed}), encoding="utf-8")


def save(run_dir: Path, step: int) -> None:
    with checkpoints.staged_write(checkpoints.checkpoint_dir(run_dir, "dpo", step), ORIGIN, step) as staging:
        fill(staging, step)
    checkpoints.rotate_checkpoints(run_dir, "dpo")


# --- damage


def prove_damage_found(folder: Path, trials: int) -> Proof:
    """Every flip and cut of the newest checkpoint is seen, and the one before is taken. Control: files read as they are."""
    random, ours, silent = Random(7), list[str](), 0
    save(folder, 4)
    save(folder, 8)
    newest = checkpoints.checkpoint_dir(folder, "dpo", 8)
    kept = folder / "kept"
    shutil.copytree(newest, kept)
    for _ in range(trials):
        file = random.choice(sorted(path for path in newest.iterdir() if path.is_file()))
        damage_file(file, random)
        found = checkpoints.latest_valid(folder, "dpo", "data")
        named = found.skipped and (file.name in str(found.skipped[0]) or file.name == checkpoints.MANIFEST)
        ours.append(
            "" if found.step == 4 and named else f"{file.name}: step {found.step}, {[*map(str, found.skipped)]}"
        )
        silent += is_loadable(newest)
        shutil.rmtree(newest)
        shutil.copytree(kept, newest)
    control = TrialCount(trials, silent)
    return Proof(
        "A damaged checkpoint is never loaded, and is named", count_trials(ours), "files loaded unchecked", control
    )


def prove_manifest_sealed(folder: Path) -> Proof:
    """Each letter and digit of a manifest is changed, one at a time: names, steps, versions, hashes. Control: JSON as it is."""
    save(folder, 4)
    manifest = checkpoints.checkpoint_dir(folder, "dpo", 4) / checkpoints.MANIFEST
    text, ours, silent = manifest.read_text(encoding="utf-8"), list[str](), 0
    for at in [at for at, letter in enumerate(text) if letter.isalnum()]:
        changed = f"{text[:at]}{'1' if text[at] == '0' else '0'}{text[at + 1 :]}"
        manifest.write_text(changed, encoding="utf-8")
        found = checkpoints.latest_valid(folder, "dpo", "data")
        ours.append("" if found.folder is None else f"{changed[max(0, at - 40) : at + 1]!r} was taken")
        silent += is_json(changed)
    claim = "A manifest with another letter or digit is never believed"
    return Proof(claim, count_trials(ours), "a manifest without a hash of its own", TrialCount(len(ours), silent))


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:  # a number that begins with 0
        return False
    return True


def is_loadable(folder: Path) -> bool:
    """Do the weights and the optimiser load, whatever is in them?"""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_file(folder / "adapter_model.safetensors")
            torch.load(folder / "optimizer.pt", weights_only=True)
    except Exception:  # noqa: BLE001  (any way of not loading is a damage that was seen)
        return False
    return True


# --- at every point


@dataclass(frozen=True)
class FaultTask:
    """Something that changes what is on disk.

    before: without a fault, what was there. check: what is wrong afterwards, or nothing.
    points: so many are tried; None: until it gets through. quick_stride: with few trials one in so many.
    """

    before: Callable[[Path], None]
    do: Callable[[Path], None]
    check: Callable[[Path], str]
    points: int | None = None
    name: str = ""
    quick_stride: int = 3


def fault_tasks() -> list[tuple[str, str, FaultTask, FaultTask]]:
    """Fault, claim, our way, and the usual way."""
    saving = FaultTask(partial(save, step=4), partial(save, step=8), check_checkpoints)
    stock = FaultTask(
        partial(stock_save, step=4), partial(stock_save, step=8), stock_loads, name="stock saving, in place"
    )
    keeping = FaultTask(two_steps, partial(checkpoints.use_step, stage="dpo", step=4), check_saved_adapter)
    over = FaultTask(two_steps, copy_over, check_saved_adapter, name="files copied over those that are there")
    text = partial(FaultTask, quick_stride=1)
    state = text(partial(state_file, content="before"), partial(state_file, content="after"), whole)
    dump = text(
        partial(dump_state, content="before"), partial(dump_state, content="after"), whole, name="json.dump in place"
    )
    words = FaultTask(first_word, spoken, readable, EVENTS)
    lines = FaultTask(first_line, append_lines, check_lines, EVENTS, "lines appended, then json.loads")
    buffered = FaultTask(first_line, write_kept_file, check_lines, EVENTS, "a log left to Python's buffer")
    return [
        ("kill", "Killed at every write, flush and rename of a save", saving, stock),
        ("enospc", "Disk full at every write, flush and rename of a save", saving, stock),
        ("kill", "Killed at every write, flush and rename while an adapter replaces another", keeping, over),
        ("enospc", "Disk full at every write, flush and rename while an adapter replaces another", keeping, over),
        ("kill", "Killed at every step of writing a state file", state, dump),
        ("enospc", "Disk full at every event", words, lines),
        ("kill", "Killed at every event", words, buffered),
    ]


def prove_fault_tolerance(
    folder: Path, fault: str, claim: str, ours: FaultTask, control: FaultTask, quick: bool
) -> Proof:
    one, other = (
        count_faults(folder / name, fault, work, work.quick_stride if quick else 1)
        for name, work in (("ours", ours), ("control", control))
    )
    return Proof(claim, one, control.name, other)


def count_faults(folder: Path, fault: str, work: FaultTask, stride: int) -> TrialCount:
    """The work in a process of its own that meets the fault at point 1, 2, 3 …: so many, or until it gets through."""
    trials, point, through = list[str](), 1 - stride, False
    while not through:
        point += stride
        place = folder / str(point)
        place.mkdir(parents=True)
        work.before(place)
        done = run_with_fault(partial(work.do, place), f"{fault}:{point}") == 0
        through = done if work.points is None else point >= work.points
        wrong = work.check(place)
        trials.append(f"{fault} at {point}: {wrong}" if wrong else "")
        shutil.rmtree(place)
    return count_trials(trials)


# --- our way


def check_checkpoints(place: Path) -> str:
    """A checkpoint to go on from is there, the old one or the new, and nothing stops the next save."""
    found = checkpoints.latest_valid(place, "dpo", "data")
    if found.step not in (4, 8):
        return f"nothing to go on from: {found}"
    durable.clean_leftovers(place / checkpoints.CHECKPOINTS_FOLDER)
    save(place, 12)
    return "" if checkpoints.latest_valid(place, "dpo", "data").step == 12 else "the next save failed"


def two_steps(place: Path) -> None:
    """Steps 4 and 8 among the checkpoints, and 8 as the adapter."""
    for folder, step in ((checkpoints.checkpoint_dir(place, "dpo", 4), 4), (checkpoints.adapter_dir(place, "dpo"), 8)):
        with checkpoints.staged_write(folder, ORIGIN, step) as staging:
            fill(staging, step)
            (staging / "adapter_config.json").write_text(str(step), encoding="utf-8")


def check_saved_adapter(place: Path) -> str:
    """The adapter is whole, the one or the other, without anybody mending it; and the next start leaves nothing half done."""
    step = checkpoints.adapter_step(place, "dpo")
    if step not in (4, 8):
        return "no adapter is left"
    checkpoints.clean_run_leftovers(place)
    return (
        ""
        if checkpoints.adapter_step(place, "dpo") == step and not list(place.glob(".*"))
        else "the next start changes it"
    )


def copy_over(place: Path) -> None:
    """As one does by hand: the manifest too, last."""
    source, target = checkpoints.checkpoint_dir(place, "dpo", 4), checkpoints.adapter_dir(place, "dpo")
    for name in (*checkpoints.ADAPTER_FILES, "optimizer.pt", "trainer_state.json", checkpoints.MANIFEST):
        with unsafe_writes.open_truncated(target / name) as file:
            file.write((source / name).read_bytes())


def state_file(place: Path, content: str) -> None:
    durable.write_atomically(place / "control.json", json.dumps(content))


def whole(place: Path) -> str:
    text = (place / "control.json").read_text(encoding="utf-8")
    return "" if text in ('"before"', '"after"') else f"half a file: {text!r}"


def first_word(place: Path) -> None:
    EventLog(place / "events.jsonl")(Notice(verbatim("before")))


def spoken(place: Path) -> None:
    emit = EventLog(place / "events.jsonl")
    for number in range(SAID):
        with suppress(Exception):
            emit(Notice(verbatim(f"{number} " + "x" * 300)))


def readable(place: Path) -> str:
    return check_messages(
        place, [str(event.text) for event in Tail(place / "events.jsonl") if isinstance(event, Notice)]
    )


def check_messages(place: Path, notes: Sequence[str]) -> str:
    """All that was said before the fault, whose number is the folder's name, is there, and nothing that nobody said."""
    due = ["before", *map(str, range(min(int(place.name) - 1, SAID)))]
    found = [note.split(" ")[0] for note in notes]
    if found[: len(due)] == due and set(found) <= {"before", *map(str, range(SAID))}:
        return ""
    return f"{len(found)} events, {len(due)} were said before; the last: {notes[-1:]!r:.60}"


# --- the usual way


def stock_save(place: Path, step: int) -> None:
    """As the trainer of transformers: a folder under its own name, filled file by file."""
    folder = place / f"checkpoint-{step}"
    durable.fault_point(folder)
    folder.mkdir()
    generator = torch.Generator().manual_seed(step)
    with unsafe_writes.open_truncated(folder / "adapter_model.safetensors") as file:
        file.write(safetensors({"weight": torch.randn(200, 250, generator=generator)}))
    with unsafe_writes.open_truncated(folder / "optimizer.pt") as file:
        torch.save({"state": torch.randn(2, 200, 250, generator=generator)}, file)
    with unsafe_writes.open_text(folder / "trainer_state.json") as words:
        json.dump({"global_step": step}, words)


def stock_loads(place: Path) -> str:
    """Can what it goes on from be read? That is the folder with the highest number."""
    folder = max(place.glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]))
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{folder.name}: {type(error).__name__}"
    return "" if is_loadable(folder) else f"{folder.name} cannot be loaded"


def dump_state(place: Path, content: str) -> None:
    with unsafe_writes.open_text(place / "control.json") as file:
        json.dump(content, file)


def first_line(place: Path) -> None:
    (place / "events.jsonl").write_text(line("before"), encoding="utf-8")


def line(words: str) -> str:
    return json.dumps({"kind": "Notice", "text": words}) + "\n"


def append_lines(place: Path) -> None:
    """The file is opened for each line, and closed after it."""
    for number in range(SAID):
        with suppress(Exception), unsafe_writes.open_append(place / "events.jsonl") as file:
            file.write(line(f"{number} " + "x" * 300))


def write_kept_file(place: Path) -> None:
    """The file stays open, and what is written reaches it when the buffer is full or the file is closed."""
    with open(place / "events.jsonl", "a", encoding="utf-8") as file:
        for number in range(SAID):
            durable.fault_point(place)
            file.write(line(f"{number} " + "x" * 300))


def check_lines(place: Path) -> str:
    try:
        texts = (place / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return check_messages(place, [str(parse_text(json.loads(text)["text"])) for text in texts])
    except ValueError as error:
        return f"nothing can be read: {error}"
