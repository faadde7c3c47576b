"""Handles out-of-memory errors: recognises them, finds smaller settings with the same result, and offers the rest.

Half the batch with twice the accumulation is the same training: the losses differ by rounding (4.8e-7 in ten steps). Changes
that affect the result are offered, never applied automatically.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainer_core.config.recipe import STARTER, Recipe
from trainer_core.errors import error_chain
from trainer_core.methods.base import Training
from trainer_core.models.architecture import Architecture
from trainer_core.planning.presets import load_catalogue
from trainer_core.runs.events import RowLengths, SettingChanged, Stage, Suggestion
from trainer_core.runs.run_state import RunState
from trainer_core.texts import Text

MAX_AUTOMATIC_FALLBACKS = 3
"""Fallbacks taken without asking."""
OUT_OF_MEMORY_PATTERN = re.compile(
    r"out of memory"  # torch and CUDA
    r"|can't allocate memory|cannot allocate memory|not enough memory"  # the processor's allocators
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
    r"|Failed to allocate|Error .*allocat.* at line \d+ in file .*\.cu",  # bitsandbytes
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Is the error, or its cause, a lack of memory? Libraries report it in many ways."""
    return any(
        isinstance(one, MemoryError) or OUT_OF_MEMORY_PATTERN.search(str(one)) or "OutOfMemory" in type(one).__name__
        for one in error_chain(error)
    )


@dataclass(frozen=True)
class MemoryFallback:
    """Settings that take less memory and train the same. summary: as text."""

    settings: tuple[SettingChanged, ...]
    summary: Text


def next_fallback(
    recipe: Recipe,
    stage: Stage,
    taken: int,
    on_card: bool = False,
    loading: bool = False,
    shape: Architecture | None = None,
) -> MemoryFallback | None:
    """The next smaller setting that a run may take by itself; None after three, or if none is left.

    Args:
        taken: fallbacks already taken in this run.
        on_card: the run trains on a GPU; the processor keeps no layers and has only one memory.
        loading: memory ran out before the first batch, so a smaller batch does not help.
        shape: the model's; Unsloth leaves a table tied to the output head on the card. None: unknown, so offloading is tried.
    """
    return None if taken >= MAX_AUTOMATIC_FALLBACKS else remaining_fallback(recipe, stage, on_card, loading, shape)


def remaining_fallback(
    recipe: Recipe, stage: Stage, on_card: bool, loading: bool, shape: Architecture | None
) -> MemoryFallback | None:
    """Half the batch; on a card then no kept layers, then the embedding in main memory. See `next_fallback`."""
    if not loading and recipe.stage_settings(stage).batch_size > 1:
        return halve_batch(recipe.stage_settings(stage), stage)
    if on_card and not loading and recipe.memory.skip_layers != "off":
        why = Text("out_of_memory.why_no_kept_layers")
        change = SettingChanged("memory.skip_layers", recipe.memory.skip_layers, "off", why)
        return MemoryFallback((change,), Text("out_of_memory.no_kept_layers"))
    if on_card and recipe.memory.offload_embedding != "on" and not (shape and shape.tied):
        why = Text("out_of_memory.why_offloaded")
        change = SettingChanged("memory.offload_embedding", recipe.memory.offload_embedding, "on", why)
        return MemoryFallback((change,), Text("out_of_memory.offloaded"))
    return None


def halve_batch(settings: Training, stage: Stage) -> MemoryFallback:
    """The largest batch of at most half the size that divides the effective batch."""
    whole, before = settings.effective_batch, settings.batch_size
    batch = next(size for size in range(before // 2, 0, -1) if whole % size == 0)
    pairs = {"batch_size": (before, batch), "accumulation": (settings.accumulation, whole // batch)}
    why = Text("out_of_memory.why_half_batch", batch=before)
    changes = tuple(SettingChanged(f"{stage}.{key}", str(a), str(b), why) for key, (a, b) in pairs.items())
    return MemoryFallback(changes, Text("out_of_memory.batch", batch=batch, accumulation=whole // batch))


def suggest_fixes(
    recipe: Recipe, stage: Stage, rows: RowLengths | None, precision: str, left: MemoryFallback | None = None
) -> tuple[Suggestion, ...]:
    """Three ways out, the mildest first: a fallback left after three, then changes to the result. `precision`: the base's real
    format, if the recipe says auto."""
    packed = precision in ("nf4", "auto")
    lighter, without = (
        (suggest_smaller_rank(recipe), suggest_attention_only())
        if packed
        else (suggest_4_bit_base(), suggest_smaller_rank(recipe))
    )
    changing = (
        suggest_shorter_rows(recipe.stage_settings(stage), stage, rows),
        lighter,
        suggest_smaller_model(recipe.model) or without,
    )
    return (suggest_same_result(left, recipe.stage_settings(stage), stage), *changing)[:3] if left else changing


def suggest_same_result(left: MemoryFallback, settings: Training, stage: Stage) -> Suggestion:
    """The remaining fallbacks as one offer."""
    if settings.batch_size == 1:
        text = Text("suggestion.use_fallback", settings=left.summary)
        return Suggestion(text, {one.what: one.used for one in left.settings})
    whole = settings.effective_batch
    text = Text("suggestion.batch_1", whole=whole, batch=settings.batch_size, accumulation=settings.accumulation)
    return Suggestion(text, {f"{stage}.batch_size": 1, f"{stage}.accumulation": whole})


def suggest_shorter_rows(settings: Training, stage: Stage, rows: RowLengths | None) -> Suggestion:
    """The length that covers 95 % of the rows, or half the present length if that is not shorter."""
    if rows and rows.most < settings.max_length and rows.most < rows.longest:
        text = Text("suggestion.cut_longest", tokens=rows.most, lost=rows.beyond)
        return Suggestion(text, {f"{stage}.max_length": max(rows.most, 32)})
    length = max(settings.max_length // 2, 32)
    text = Text("suggestion.half_length", tokens=length, before=settings.max_length)
    return Suggestion(text, {f"{stage}.max_length": length})


def suggest_smaller_rank(recipe: Recipe) -> Suggestion:
    rank = max(recipe.lora.rank // 2, 1)
    changes = {"lora.rank": rank, "lora.alpha": max(recipe.lora.alpha // 2, 1)}
    return Suggestion(Text("suggestion.half_rank", rank=rank, before=recipe.lora.rank), changes)


def suggest_4_bit_base() -> Suggestion:
    return Suggestion(Text("suggestion.base_4_bit"), {"precision": "nf4"})


def suggest_attention_only() -> Suggestion:
    return Suggestion(Text("suggestion.attention_only"), {"lora.targets": "attention"})


def suggest_smaller_model(model: str) -> Suggestion | None:
    """The largest clearly smaller model of the catalogue; None for the smallest."""
    if model == STARTER:
        return None
    known = load_catalogue().smaller_model(model)
    name = known or STARTER
    text = Text("suggestion.starter_model") if name == STARTER else Text("suggestion.smaller_model", model=name)
    return Suggestion(text, {"model": name})


def explain_out_of_memory(stage: Stage, settings: Training, taken: int, left: MemoryFallback | None = None) -> Text:
    """Why the run ends, with what was tried and what is left that would preserve the result."""
    facts = {"stage": stage.upper(), "batch": settings.batch_size, "length": settings.max_length}
    if not taken:
        return Text("out_of_memory.at_once" if left else "out_of_memory.nothing_left", **facts)
    return Text("out_of_memory.limit_reached" if left else "out_of_memory.all_tried", taken=taken, **facts)


def current_stage(view: RunState, recipe: Recipe) -> Stage:
    """The stage a run was in, from its saved adapters."""
    return next((stage for stage in recipe.method.stages if stage not in view.adapters), recipe.method.stages[-1])
