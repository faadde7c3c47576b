"""What to do when memory runs out: which errors say so, which smaller settings keep the result, and what is left to offer.

Half the batch with twice the accumulation is the same training: the losses differ by rounding (4.8e-7 in ten steps). What would
change the result is never done by itself, only offered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainer_core.config.recipe import STARTER, Recipe
from trainer_core.errors import causes
from trainer_core.methods.base import Training
from trainer_core.models.architecture import Shape
from trainer_core.planning.presets import load_catalogue
from trainer_core.runs.events import Changed, Offer, RowLengths, Stage
from trainer_core.runs.run_state import RunView

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
    return any(
        isinstance(one, MemoryError) or WORDINGS.search(str(one)) or "OutOfMemory" in type(one).__name__
        for one in causes(error)
    )


@dataclass(frozen=True)
class Rung:
    """Settings that take less memory and train the same. told: what the run goes on with, in words."""

    settings: tuple[Changed, ...]
    told: str


def next_rung(
    recipe: Recipe, stage: Stage, taken: int, on_card: bool = False, loading: bool = False, shape: Shape | None = None
) -> Rung | None:
    """The next smaller setting that a run takes by itself; None after three, or at the ladder's end.

    Args:
        taken: rungs that this run has taken already.
        on_card: the run trains on a GPU; the processor keeps no layers and has only one memory.
        loading: memory ran out before there was any batch, so a smaller one is no help.
        shape: the model's; Unsloth leaves a table on the card that is the output head as well. None: not known, so it is tried.
    """
    return None if taken >= AUTOMATIC else rung_below(recipe, stage, on_card, loading, shape)


def rung_below(recipe: Recipe, stage: Stage, on_card: bool, loading: bool, shape: Shape | None) -> Rung | None:
    """Half the batch; on a card then no kept layers, then the embedding in main memory. See `next_rung`."""
    if not loading and getattr(recipe, stage).batch_size > 1:
        return half_batch(getattr(recipe, stage), stage)
    if on_card and not loading and recipe.memory.skip_layers != "off":
        why = "memory ran out, so every layer is computed twice instead of kept; the result stays the same"
        return Rung((Changed("memory.skip_layers", recipe.memory.skip_layers, "off", why),), "no kept layers")
    if on_card and recipe.memory.offload_embedding != "on" and not (shape and shape.tied):
        why = "memory ran out, so the token table lies in main memory; the result stays the same"
        change = Changed("memory.offload_embedding", recipe.memory.offload_embedding, "on", why)
        return Rung((change,), "the embedding in main memory")
    return None


def half_batch(settings: Training, stage: Stage) -> Rung:
    """The largest smaller batch of at most half the size that divides the effective batch."""
    whole, before = settings.effective_batch, settings.batch_size
    batch = next(size for size in range(before // 2, 0, -1) if whole % size == 0)
    pairs = {"batch_size": (before, batch), "accumulation": (settings.accumulation, whole // batch)}
    why = f"memory ran out at batch {before}; the effective batch stays the same"
    changes = tuple(Changed(f"{stage}.{key}", str(a), str(b), why) for key, (a, b) in pairs.items())
    return Rung(changes, f"batch {batch} × {whole // batch}")


def offers(
    recipe: Recipe, stage: Stage, rows: RowLengths | None, precision: str, left: Rung | None = None
) -> tuple[Offer, ...]:
    """Three ways out, the mildest first: a rung that is left after three, then what changes the result. `precision`: the base's
    in fact, where auto was asked."""
    packed = precision in ("nf4", "auto")
    lighter, without = (smaller_rank(recipe), attention_only()) if packed else (four_bit(), smaller_rank(recipe))
    changing = (shorter(getattr(recipe, stage), stage, rows), lighter, smaller_model(recipe.model) or without)
    return (same_result(left, getattr(recipe, stage), stage), *changing)[:3] if left else changing


def same_result(left: Rung, settings: Training, stage: Stage) -> Offer:
    """What is left of the ladder as an offer; of the batch, all that is left at once."""
    if settings.batch_size == 1:
        return Offer(
            f"Go on with {left.told}: the result stays the same.", {one.what: one.used for one in left.settings}
        )
    whole = settings.effective_batch
    text = f"Batch 1 × {whole} instead of {settings.batch_size} × {settings.accumulation}: the result stays the same."
    return Offer(text, {f"{stage}.batch_size": 1, f"{stage}.accumulation": whole})


def shorter(settings: Training, stage: Stage, rows: RowLengths | None) -> Offer:
    """The length that 95 % of the rows stay within; half the length where that is no shorter."""
    if rows and rows.most < settings.max_length and rows.most < rows.longest:
        text = f"Cut rows at {rows.most:,} tokens, which 95 % of them stay within: {rows.beyond:.1%} of all tokens are lost."
        return Offer(text, {f"{stage}.max_length": max(rows.most, 32)})
    length = max(settings.max_length // 2, 32)
    text = f"Cut rows at {length:,} tokens instead of {settings.max_length:,}: about half the memory for a batch."
    return Offer(text, {f"{stage}.max_length": length})


def smaller_rank(recipe: Recipe) -> Offer:
    rank = max(recipe.lora.rank // 2, 1)
    changes = {"lora.rank": rank, "lora.alpha": max(recipe.lora.alpha // 2, 1)}
    return Offer(
        f"Rank {rank} instead of {recipe.lora.rank}: half the adapter, its gradients and the optimiser.", changes
    )


def four_bit() -> Offer:
    return Offer("Keep the base in 4 bit (NF4): a quarter of its memory.", {"precision": "nf4"})


def attention_only() -> Offer:
    return Offer("Adapters on the attention layers alone: fewer weights are trained.", {"lora.targets": "attention"})


def smaller_model(model: str) -> Offer | None:
    """The largest model of the catalogue that is clearly smaller; None for the smallest."""
    if model == STARTER:
        return None
    known = load_catalogue().smaller(model)
    name = known or STARTER
    size = "the included starter model, 135M weights" if name == STARTER else name
    return Offer(f"A smaller base model: {size}.", {"model": name})


def explain(stage: Stage, settings: Training, taken: int, left: Rung | None = None) -> str:
    """Why the run ends, with what was tried and what is left that would keep the result."""
    tried = f" after {taken} smaller setting{'s' * (taken != 1)}" if taken else ""
    end = "as many as a run takes by itself" if left else "and nothing is left that would keep the result"
    return (
        f"Memory ran out in {stage.upper()} at batch {settings.batch_size} and length {settings.max_length:,}{tried}, {end}. "
        "Checkpoints and finished adapters are kept."
    )


def stage_at(view: RunView, recipe: Recipe) -> Stage:
    """The stage a run was in, by what it had saved."""
    return next((stage for stage in recipe.method.stages if stage not in view.adapters), recipe.method.stages[-1])
