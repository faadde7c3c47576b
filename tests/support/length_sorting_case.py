"""What length_sorting.py and reference_cache.py answer, as JSON: in a process of its own, which the import of unsloth patches.

`python -m tests.support.length_sorting_case FOLDER`.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler

BATCH, STEP = 4, 16


def orders(count: int, seed: int) -> dict[str, Any]:
    """The order of rows with and without sorting, in two epochs."""
    from trainer_core.training.length_sorting import StepSortedSampler

    draw = random.Random(seed)
    lengths = [draw.randrange(5, 500) for _ in range(count)]

    def plain() -> SeedableRandomSampler:
        return SeedableRandomSampler(lengths, data_seed=seed)

    one, other = plain(), StepSortedSampler(plain(), lengths, BATCH, STEP)
    return {"lengths": lengths, "off": [list(one), list(one)], "on": [list(other), list(other)]}


def batch(*pairs: tuple[list[int], list[int]]) -> dict[str, torch.Tensor]:
    """Pairs as TRL's collator makes a batch of them: one token of prompt, padded on the right."""
    rows = [one for one, _ in pairs] + [other for _, other in pairs]
    wide = max(map(len, rows))
    ids = torch.tensor([row + [0] * (wide - len(row)) for row in rows])
    seen = torch.tensor([[1] * len(row) + [0] * (wide - len(row)) for row in rows])
    answer = seen.clone()
    answer[:, 0] = 0
    return {"input_ids": ids, "attention_mask": seen, "completion_mask": answer}


def keys() -> dict[str, bool]:
    from trainer_core.training.reference_cache import pair_keys

    one, other, long = ([1, 5, 6], [1, 7]), ([1, 7], [1, 5, 6]), ([1] + [9] * 30, [1, 7])
    (alone,) = pair_keys(batch(one))
    longer_prompt = batch(one)
    longer_prompt["completion_mask"][:, 1] = 0
    return {
        "padding does not matter": pair_keys(batch(one, long))[0] == alone,
        "sides matter": pair_keys(batch(other))[0] != alone,
        "where the answer begins matters": pair_keys(longer_prompt)[0] != alone,
    }


def asked(file: Path, said: float, tolerance: float = 0.01) -> dict[str, Any]:
    """Two steps on the same pairs by a worker whose reference says `said`, with what earlier workers left."""
    from trainer_core.training.reference_cache import ReferenceCache

    kept, pairs, times = ReferenceCache(file, tolerance), batch(([1, 5, 6], [1, 7]), ([1, 8], [1, 9, 9])), []

    def ask() -> tuple[torch.Tensor, torch.Tensor]:
        times.append(1)
        return torch.full((2,), said), torch.full((2,), said - 1)

    columns = [kept.batch_columns(pairs, ask)["ref_chosen_logps"].tolist()]
    kept.on_step_end(None, None, None)  # type: ignore[arg-type]
    columns.append(kept.batch_columns(pairs, ask)["ref_chosen_logps"].tolist())
    kept.write()
    return {"asked": len(times), "used": columns}


def main(folder: Path) -> dict[str, Any]:
    file = folder / "reference" / "a.json"
    said = [asked(file, -3.0), asked(file, -3.001), asked(file, -4.0)]
    file.write_text('{"half": [1.0')
    said.append(asked(file, -5.0))
    said.append(asked(folder / "reference" / "nan.json", float("nan")))
    for number in range(30):
        asked(folder / "reference" / f"more-{number}.json", -3.0)
    files = len(list((folder / "reference").iterdir()))
    return {"orders": [orders(count, seed) for seed, count in enumerate((3, 16, 64, 101, 130))], "keys": keys(),
            "said": said, "files": files, "nan": (folder / "reference" / "nan.json").exists()}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
