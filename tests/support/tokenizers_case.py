"""What the real trainers make of rows: `python -m tests.support.tokenizers_case CHATS PAIRS LENGTH OUT MODEL ...`.

In a process of its own, since unsloth patches the one it is imported in. The trainers are ours, their collators TRL's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer_core import data, training  # noqa: F401  (training first: it imports unsloth)

from datasets import Dataset  # isort: skip
from trl import DPOTrainer

from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.data import tokenize
from trainer_core.data.read_events import UsableRow
from trainer_core.data.stream import ReadRequest
from trainer_core.training import load
from trainer_core.training.token_rows import TOKEN_COLUMNS
from trainer_core.training.trainers import build_trainer


def items(path: Path) -> list[Any]:
    with data.SandboxReader() as reader:
        return [news.item for news in reader.ask(ReadRequest(path)) if isinstance(news, UsableRow)]


def batches(trainer: Any) -> list[dict[str, Any]]:
    """Every row as the collator hands it to the model, one at a time."""
    trainer._set_signature_columns_if_needed()
    columns = trainer._signature_columns
    rows = [{key: row[key] for key in columns if key in row} for row in trainer.train_dataset]
    return [{key: value.tolist() for key, value in trainer.data_collator([row]).items()} for row in rows]


def main(model: str, chats: Path, pairs: Path, length: int, scratch: Path) -> dict[str, Any]:
    recipe = Recipe(sft={"max_length": length}, dpo={"max_length": length}, lora={"rank": 2})
    base = load.load_base(model, "fp32", length, recipe.memory)
    adapted = load.add_adapter(base, recipe.lora, 0)
    loaded = data.LoadedData(tuple(items(chats)), tuple(items(pairs)), (), (), (), "")
    trainers = {}
    for stage in ("sft", "dpo"):
        rows, _ = TOKEN_COLUMNS[METHODS[stage].columns].encode(base.tokenizer, loaded, length)
        trainers[stage] = build_trainer(stage, adapted, base.tokenizer, Dataset.from_list(rows), recipe, scratch, [])
    trainers["dpo"].train_dataset = require_trl_rows(trainers["dpo"], base.tokenizer, loaded.pairs, length)
    return {stage: batches(trainer) for stage, trainer in trainers.items()}


def require_trl_rows(trainer: Any, tokenizer: Any, pairs: Sequence[data.Pair], length: int) -> Dataset:
    """The rows as TRL itself makes tokens of them; ours must be the same."""
    encoded = zip(pairs, tokenize.encode_pairs(tokenizer, pairs), strict=True)
    kept = [pair for pair, row in encoded if row.prompt < length and row.first_difference < length]
    plain = Dataset.from_list([tokenize.as_trl_row(pair) for pair in kept])
    theirs = DPOTrainer._prepare_dataset(trainer, plain, tokenizer, trainer.args, "train")
    for name in TOKEN_COLUMNS["answers"].names:
        assert list(trainer.train_dataset[name]) == list(theirs[name]), name
    return theirs


if __name__ == "__main__":
    chats, pairs, length, out, *models = sys.argv[1:]
    scratch = Path(out).parent / "scratch"
    told = {model: main(model, Path(chats), Path(pairs), int(length), scratch) for model in models}
    Path(out).write_text(json.dumps(told))
