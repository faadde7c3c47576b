"""Checkpoints and state files: damaged, killed in every write, on a full disk."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file

from reliability.proof import Count, Proof, counted
from trainer_core import checkpoints, durable
from trainer_core.event_log import EventLog, Tail
from trainer_core.events import Noted

QUESTION = (
    "Bits flipped and files cut in checkpoints; the process killed, or the disk full, at every write, flush and rename of a "
    "checkpoint and of a state file."
)
ORIGIN = checkpoints.Origin("dpo", 10, "data")
FILES = 3
"""Weights, optimiser and trainer state: a checkpoint as the trainer leaves it, small."""


def run(quick: bool) -> Iterator[Proof]:
    with tempfile.TemporaryDirectory(prefix="proof-") as name:
        folder = Path(name)
        yield damaged(folder / "damaged", 40 if quick else 500)
        yield stopped(folder / "killed", "kill", "Killed at every write, flush and rename of a save", saved, sound)
        yield stopped(folder / "full", "enospc", "Disk full at every write, flush and rename of a save", saved, sound)
        yield stopped(folder / "state", "kill", "Killed at every step of writing a state file", stated, whole)
        yield stopped(folder / "words", "enospc", "Disk full at every event", spoken, readable, points=25)
        yield stopped(folder / "dead", "kill", "Killed at every event", spoken, readable, points=25)


def fill(folder: Path, seed: int) -> None:
    """Files like a checkpoint's: 200 KB of weights, the optimiser as a pickle of torch, the state as JSON."""
    generator = torch.Generator().manual_seed(seed)
    save_file({"weight": torch.randn(200, 250, generator=generator)}, folder / "adapter_model.safetensors")
    torch.save({"state": torch.randn(2, 200, 250, generator=generator)}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": seed}), encoding="utf-8")


def save(run_dir: Path, step: int) -> None:
    with checkpoints.written(checkpoints.place(run_dir, "dpo", step), ORIGIN, step) as staging:
        fill(staging, step)
    checkpoints.rotate(run_dir, "dpo")


# --- damage


def damaged(folder: Path, trials: int) -> Proof:
    """Every flip and cut of the newest checkpoint is seen, and the one before is taken. Control: files read as they are."""
    random, ours, silent = Random(7), list[str](), 0
    save(folder, 4)
    save(folder, 8)
    newest = checkpoints.place(folder, "dpo", 8)
    kept = folder / "kept"
    shutil.copytree(newest, kept)
    for _ in range(trials):
        file = harmed(newest, random)
        found = checkpoints.newest(folder, "dpo", "data")
        named = found.skipped and (file.name in found.skipped[0] or file.name == checkpoints.MANIFEST)
        ours.append("" if found.step == 4 and named else f"{file.name}: step {found.step}, {found.skipped}")
        silent += loads(newest)
        shutil.rmtree(newest)
        shutil.copytree(kept, newest)
    control = Count(trials, silent)
    return Proof("A damaged checkpoint is never loaded, and is named", counted(ours), "files loaded unchecked", control)


def harmed(folder: Path, random: Random) -> Path:
    """One of its files with a bit flipped, or cut short."""
    file = random.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    content = bytearray(file.read_bytes())
    if random.random() < 0.7:
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    else:
        del content[random.randrange(len(content)) :]
    file.write_bytes(bytes(content))
    return file


def loads(folder: Path) -> bool:
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


def stopped(
    folder: Path,
    fault: str,
    claim: str,
    work: Callable[[Path], None],
    check: Callable[[Path], str],
    points: int | None = None,
) -> Proof:
    """The work in a process of its own that meets the fault at point 1, 2, 3 …: so many, or until it gets through."""
    trials, point, through = list[str](), 0, False
    while not through:
        point += 1
        place = folder / str(point)
        place.mkdir(parents=True)
        done = forked(place, f"{fault}:{point}", work)
        through = done if points is None else point == points
        trials.append(check(place))
        shutil.rmtree(place)
    return Proof(claim, counted(trials), control_name="see below: stock saving")


def forked(place: Path, fault: str, work: Callable[[Path], None]) -> bool:
    """Did the work get through in a fork that meets this fault?"""
    child = os.fork()
    if child == 0:
        prepare(place, work)
        os.environ["TUNEBENCH_FAULT"] = fault
        try:
            work(place)
        except Exception:  # noqa: BLE001  (what it leaves behind is what counts)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def prepare(place: Path, work: Callable[[Path], None]) -> None:
    """What was there before, without a fault."""
    if work is saved:
        save(place, 4)
    elif work is stated:
        durable.write_atomically(place / "control.json", "before")
    else:
        EventLog(place / "events.jsonl")(Noted("before"))


def saved(place: Path) -> None:
    save(place, 8)


def sound(place: Path) -> str:
    """A checkpoint to go on from is there, the old one or the new, and nothing stops the next save."""
    found = checkpoints.newest(place, "dpo", "data")
    if found.step not in (4, 8):
        return f"nothing to go on from: {found}"
    durable.sweep(place / checkpoints.FOLDER)
    save(place, 12)
    return "" if checkpoints.newest(place, "dpo", "data").step == 12 else "the next save failed"


def stated(place: Path) -> None:
    durable.write_atomically(place / "control.json", "after")


def whole(place: Path) -> str:
    text = (place / "control.json").read_text(encoding="utf-8")
    return "" if text in ("before", "after") else f"half a file: {text!r}"


def spoken(place: Path) -> None:
    emit = EventLog(place / "events.jsonl")
    for number in range(20):
        with suppress(Exception):
            emit(Noted(f"{number} " + "x" * 300))


def readable(place: Path) -> str:
    notes = [event.text for event in Tail(place / "events.jsonl") if isinstance(event, Noted)]
    torn = [note for note in notes if "cannot be read" in note]
    return torn[0] if torn else "" if notes and notes[0] == "before" else "what was said first is lost"
