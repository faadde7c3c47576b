"""What the benches read: data files of any size, runs of any number and length. Made on the fly, the same each time."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.runs import run_folder
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import DataPrepared, Phase, PhaseChanged, RunEnded, Stage, StepsPlanned, TrainStep
from trainer_core.runs.workspace import Workspace

TEXT = (
    "water the plants on Sunday and turn each pot a little so that every side gets light "
    "a short walk after lunch helps more than another coffee because the eyes rest too"
)
POOL = 4000
"""Words drawn once; rows are slices of them, which is fast and hard to pack."""


def write_rows(file: Path, rows: Iterable[object]) -> float:
    """A JSONL file of these rows. Its size in MB."""
    with file.open("wb") as out:
        out.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    return file.stat().st_size / 1e6


def write_pair_file(file: Path, rows: int, row_bytes: int) -> float:
    """A JSONL file of preference pairs, no two alike. Its size in MB."""
    return write_rows(file, pairs_of_size(rows, row_bytes))


def pairs_of_size(rows: int, row_bytes: int) -> Iterator[dict[str, str]]:
    dice = random.Random(7)
    words = TEXT.split()
    pool = " ".join(dice.choice(words) for _ in range(POOL + row_bytes))
    half = max(10, (row_bytes - 80) // 3)
    for at in range(rows):
        one, other, third = (dice.randrange(POOL) for _ in range(3))
        yield {
            "prompt": f"{at}: {pool[one : one + half]}?",
            "chosen": f"{pool[other : other + half]}.",
            "rejected": f"{pool[third : third + half]}!",
        }


def write_chats(file: Path, rows: int, words: Sequence[int]) -> None:
    """A JSONL file of conversations, no two alike, of these numbers of words in turns; one number: every step costs the same."""
    dice, spoken = random.Random(7), TEXT.split()

    def chat(length: int) -> dict[str, object]:
        texts = [" ".join(dice.choice(spoken) for _ in range(length // 2)) for _ in range(2)]
        turns = zip(("user", "assistant"), texts, strict=True)
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    write_rows(file, (chat(words[at % len(words)]) for at in range(rows)))


def write_answer_pairs(file: Path, rows: int, words: Sequence[int]) -> None:
    """A JSONL file of preference pairs whose answers have these numbers of words in turns, both sides alike."""
    text = TEXT.split()

    def pair(at: int) -> dict[str, str]:
        said = [text[(at + word) % len(text)] for word in range(words[at % len(words)])]
        return {"prompt": f"Say {at}.", "chosen": " ".join(said), "rejected": " ".join(reversed(said))}

    write_rows(file, map(pair, range(rows)))


def make_run(workspace: Workspace, name: str, points: int, last: Phase | None = Phase.DONE) -> Path:
    """A run folder that says it made so many steps, half of them in each stage. `last` None: no last word."""
    run_dir = run_folder.create_run(workspace.runs, TrainJob(recipe=Recipe(name=name)), name)
    emit = EventLog(run_dir / "events.jsonl")
    each = max(1, points // 2)
    emit(DataPrepared(400, 400, 16, "0" * 64, ()))
    emit(StepsPlanned({"sft": each, "dpo": each}))
    for stage in ("sft", "dpo"):
        emit(PhaseChanged(Phase.TRAINING, stage=stage))
        for at in range(1, each + 1):
            emit(make_step(stage, at, each))
    if last:
        emit(RunEnded(last))
    return run_dir


def copy_run(of: Path, count: int) -> None:
    """The same run under so many other names, each a second older."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    job = (of / "run.json").read_text(encoding="utf-8")
    events = (of / "events.jsonl").read_bytes()
    for at in range(count):
        name = f"{begin + timedelta(seconds=at):%Y%m%d-%H%M%S}-copy-{at:04x}"
        folder = of.with_name(name)
        folder.mkdir()
        (folder / "run.json").write_text(job.replace(of.name, name), encoding="utf-8")
        (folder / "events.jsonl").write_bytes(events)


def make_step(stage: Stage, at: int, total: int) -> TrainStep:
    noise = random.Random(at).random()
    made = TrainStep(stage, at, total, 1 + noise / at, 1e-4, 1.0, 0.5, 900.0, 0.5 * (total - at))
    if stage == "sft":
        return made
    metrics = {"margin": 0.1 * noise, "accuracy": 0.5, "chosen": -80.0 - noise, "rejected": -90.0 + noise}
    return replace(made, metrics=metrics)
