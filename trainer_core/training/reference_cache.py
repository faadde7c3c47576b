"""Caches the DPO reference's log-probabilities of each pair. The reference never changes, so later epochs and runs reuse them.

The reference is computed when a pair is first trained on, in the same batch, so that a first epoch is unchanged by the cache.
The cache file is in the workspace, named by a hash of everything it depends on. The first step of every worker computes the
reference anyway: the step-0 proof needs it, and the cached values are compared with it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.config.recipe import Precision
from trainer_core.runs import workspace
from trainer_core.system import durable
from trainer_core.training.held_out_eval import reference_from_rows

PairLogprobs = dict[str, tuple[float, float]]
PAIR_LOGPROBS: TypeAdapter[PairLogprobs] = TypeAdapter(PairLogprobs)
MAX_FILES = 20
"""The newest files are kept; one of 100,000 pairs takes 8 MB."""


@dataclass(frozen=True)
class ReferenceKey:
    """Everything that determines the reference's numbers, to the last bit.

    weights: name, time in ns and bytes of each file of the base. adapter: SHA-256 of the stage's starting adapter.
    """

    data: str
    model: str
    weights: Sequence[tuple[str, int, int]]
    commit: str | None
    adapter: str
    precision: Precision
    seed: int
    lora: Mapping[str, object]
    template: str
    max_length: int
    batch_size: int
    accumulation: int
    sorts_rows: bool
    devices: tuple[str, str]
    packages: Sequence[str]

    @property
    def file_name(self) -> str:
        return f"{hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:32]}.json"


class ReferenceCache(TrainerCallback):
    """The reference's log-probs of the chosen and the rejected answer, in nats, by pair.

    Args:
        file: the cache between runs; empty if missing or damaged.
        tolerance: largest error of a cached value in nats; beyond it, the whole cache is dropped.
    """

    def __init__(self, file: Path, tolerance: float):
        self.file, self.tolerance = file, tolerance
        self.known = load_cached_pairs(file)
        self.asked = 0
        """Pairs that this worker computed."""
        self.is_training = False
        """Has training begun? The memory probe runs before, in batches of its own, and is not cached."""
        self._trusted = False

    def batch_columns(self, batch: dict[str, Tensor], ask: Callable[[], tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The two columns from which TRL takes the reference's half of a batch."""
        keys = pair_keys(batch)
        if not (self._trusted and all(key in self.known for key in keys)):
            self.add_pairs(keys, ask())
        values = torch.tensor([self.known[key] for key in keys], device=batch["input_ids"].device)
        return {"ref_chosen_logps": values[:, 0], "ref_rejected_logps": values[:, 1]}

    def add_pairs(self, keys: list[str], said: tuple[Tensor, Tensor]) -> None:
        """Cache new pairs. Known ones are not replaced, so that a resumed run ends on the same bits."""
        found = dict(zip(keys, zip(*(side.tolist() for side in said), strict=True), strict=True))
        self.asked += len(keys)
        if any(self.is_off(self.known[key], found[key]) for key in found if key in self.known):
            self.known.clear()
        self.known = {**found, **self.known}

    def is_off(self, kept: tuple[float, float], live: tuple[float, float]) -> bool:
        return any(not abs(one - other) <= self.tolerance for one, other in zip(kept, live, strict=True))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.is_training = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trusted = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.write()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.write()

    def write(self) -> None:
        """Raises DiskError like every other write of a run."""
        workspace.ensure_dir(self.file.parent)
        sound = {key: values for key, values in self.known.items() if all(map(math.isfinite, values))}
        durable.write_atomically(self.file, PAIR_LOGPROBS.dump_json(sound).decode())
        for old in sorted(self.file.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-MAX_FILES]:
            old.unlink()


class CachedReference(Trainer):
    """Mixin for TRL's DPO trainer: takes the reference's half of a step from `reference`; None: computes it each time."""

    reference: ReferenceCache | None = None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        if self.reference is None or not self.reference.is_training:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        trainer: Any = self
        batch = trainer._prepare_inputs(inputs)
        columns = self.reference.batch_columns(batch, lambda: trainer.compute_ref_log_probs(trainer.model, batch))
        with reference_from_rows(self):
            return super().training_step(model, {**batch, **columns}, num_items_in_batch)


def pair_keys(batch: dict[str, Tensor]) -> list[str]:
    """A key for each pair of a collated batch: a hash of both sides' tokens and of where the answers begin."""
    parts = zip(*(batch[name].cpu() for name in ("input_ids", "attention_mask", "completion_mask")), strict=True)
    sides = [
        torch.stack([ids[seen.bool()], answer[seen.bool()]]).to(torch.int32).numpy().tobytes()
        for ids, seen, answer in parts
    ]
    half = len(sides) // 2
    pairs = zip(sides[:half], sides[half:], strict=True)
    return [hashlib.sha256(len(one).to_bytes(8, "little") + one + other).hexdigest()[:32] for one, other in pairs]


def load_cached_pairs(file: Path) -> PairLogprobs:
    """The cache of an earlier run; empty if unreadable, since all of it can be recomputed."""
    try:
        return PAIR_LOGPROBS.validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return {}
