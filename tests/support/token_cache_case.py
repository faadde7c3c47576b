"""What `test_token_cache.py` asserts, in a process that may import unsloth: `python -m tests.support.token_cache_case FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from datasets import Dataset

from tests.support import tiny
from trainer_core import training  # noqa: F401  (first: it imports unsloth)
from trainer_core.config.recipe import Recipe
from trainer_core.runs.events import Stage
from trainer_core.texts import Text, verbatim
from trainer_core.training import token_cache
from trainer_core.training.token_cache import TokenCache

TOKENIZER = tiny.tokenizer()
ROWS = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [4]}])
NOTES = [Text("tokens.reasoning_dropped", rows=1, total=2), verbatim("one cut — ü")]


def kept(folder: Path, recipe: Recipe | None = None, rows: str = "a", stage: Stage = "sft") -> TokenCache:
    return TokenCache(folder, stage, recipe or Recipe(), rows, TOKENIZER)


def the_same_again(folder: Path) -> None:
    assert kept(folder).read() is None
    kept(folder).write(ROWS, NOTES)
    found = kept(folder).read()
    assert found and found[1] == NOTES
    assert found[0][:] == {"input_ids": [[1, 2, 3], [4]], "labels": [[-100, 2, 3], [4]]}


def another_file_for_what_changes_tokens(folder: Path) -> None:
    shorter, alone = Recipe(sft={"max_length": 77}), Recipe(method="sft")
    several = [
        kept(folder),
        kept(folder, rows="b"),
        kept(folder, stage="dpo"),
        kept(folder, shorter),
        kept(folder, alone),
    ]
    usual = TOKENIZER.chat_template
    TOKENIZER.chat_template = usual + " "
    assert len({one.file for one in [*several, kept(folder)]}) == 6
    TOKENIZER.chat_template = usual
    assert kept(folder, Recipe(sft={"epochs": 5}, lora={"rank": 8})).file == kept(folder).file


def nothing_of_a_damaged_one(folder: Path) -> None:
    kept(folder).write(ROWS, NOTES)
    file = kept(folder).file
    whole = file.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 50)):
        for damaged in (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole[:at]):
            file.write_bytes(damaged)
            assert kept(folder).read() is None, at
    file.write_bytes(whole)
    assert kept(folder).read() is not None


def the_newest_where_there_is_little_room(folder: Path) -> None:
    for at, name in enumerate("abc"):
        kept(folder, rows=name).write(ROWS, NOTES)
        os.utime(kept(folder, rows=name).file, (at, at))
    token_cache.MAX_CACHE_BYTES = kept(folder).file.stat().st_size * 5 // 2
    assert kept(folder).read()  # which makes it newer than the other two
    kept(folder, rows="d").write(ROWS, NOTES)
    assert set(folder.iterdir()) == {kept(folder).file, kept(folder, rows="d").file}


if __name__ == "__main__":
    for case in (
        the_same_again,
        another_file_for_what_changes_tokens,
        nothing_of_a_damaged_one,
        the_newest_where_there_is_little_room,
    ):
        case(Path(sys.argv[1]) / case.__name__)
        print("holds", case.__name__)
