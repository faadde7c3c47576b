"""What to do when memory runs out: which errors say so, which smaller settings keep the result, and what is left to offer.

Half the batch with twice the accumulation is the same training: the losses differ by rounding (4.8e-7 in ten steps). What would
change the result is never done by itself, only offered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer_core.config import Recipe, Training
from trainer_core.events import Changed, Offer, RunView, Stage

AUTOMATIC = 3
"""Rungs taken without asking."""
WORDINGS = re.compile(
    r"out of memory"  # torch and CUDA
    r"|can't allocate memory|cannot allocate memory|not enough memory"  # the processor's allocators
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
    r"|Failed to allocate|Error .*allocat.* at line \d+ in file .*\.cu",  # bitsandbytes
    re.IGNORECASE,
)


def ran_out(error: BaseException) -> bool:
    """Does the error, or what caused it, say that memory ran out? The same thing has many names."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or WORDINGS.search(str(seen)) or "OutOfMemory" in type(seen).__name__:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@dataclass(frozen=True)
class Rung:
    """Settings that take less memory and train the same: key → (before, after)."""

    batch: tuple[int, int]
    accumulation: tuple[int, int]

    def changes(self, stage: Stage, why: str) -> tuple[Changed, ...]:
        pairs = {"batch_size": self.batch, "accumulation": self.accumulation}
        return tuple(Changed(f"{stage}.{key}", str(a), str(b), why) for key, (a, b) in pairs.items())


def next_rung(settings: Training, taken: int) -> Rung | None:
    """The largest smaller batch of at most half the size that divides the effective batch; None at the ladder's end."""
    if taken >= AUTOMATIC or settings.batch_size == 1:
        return None
    whole = settings.effective_batch
    batch = next(size for size in range(settings.batch_size // 2, 0, -1) if whole % size == 0)
    return Rung((settings.batch_size, batch), (settings.accumulation, whole // batch))


def offers(recipe: Recipe, stage: Stage) -> tuple[Offer, ...]:
    """Three ways out that change the result, the mildest first."""
    settings: Training = getattr(recipe, stage)
    length = max(settings.max_length // 2, 32)
    rank = max(recipe.lora.rank // 2, 1)
    ways = [
        Offer(
            f"Cut rows at {length:,} tokens instead of {settings.max_length:,}: about half the memory for a batch.",
            {f"{stage}.max_length": length},
        ),
        Offer(f"Rank {rank} instead of {recipe.lora.rank}: smaller adapter and optimiser.", {"lora.rank": rank}),
    ]
    if recipe.precision != "nf4":
        ways.append(Offer("Keep the base in 4 bit (NF4): a quarter of its memory.", {"precision": "nf4"}))
    else:
        ways.append(Offer("Take a smaller base model: pick one with a green badge on Start.", {}))
    return tuple(ways)


def explain(stage: Stage, settings: Training, taken: int) -> str:
    """Why the run ends, with what was tried."""
    tried = f" after the batch was made smaller {taken} times" if taken else ""
    return (
        f"Memory ran out in {stage.upper()} at batch {settings.batch_size} and length {settings.max_length:,}{tried}, and "
        "nothing is left that would keep the result. Checkpoints and finished adapters are kept."
    )


def in_force(recipe: Recipe, changes: Sequence[Changed]) -> Recipe:
    """The recipe with what earlier workers of this run had to change in it."""
    for change in changes:
        stage, _, key = change.what.partition(".")
        if stage in recipe.method.stages and key in ("batch_size", "accumulation", "max_steps"):
            recipe = changed(recipe, {change.what: int(change.used)})
    return recipe


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with some values replaced, by dotted key, checked as a whole.

    Raises:
        pydantic.ValidationError: the values do not go together.
    """
    values = recipe.model_dump(mode="json")
    for dotted, value in changes.items():
        *parents, key = dotted.split(".")
        place = values
        for parent in parents:
            place = place[parent]
        place[key] = value
    return Recipe.model_validate(values)


def stage_at(view: RunView, recipe: Recipe) -> Stage:
    """The stage a run was in, by what it had saved."""
    return next((stage for stage in recipe.method.stages if stage not in view.adapters), recipe.method.stages[-1])
