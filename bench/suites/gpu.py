"""Everything that needs a card: what a first call on one must find out, then ours beside plain TRL and a bare Unsloth script.

`PARTS` is the table: each row with the cases that it is read from (`gpu_reading.py`). `gpu_child.py` measures a case once; it is
in the results file at once (`journal.py`), so that ten minutes here and ten there make one table. `--tiny` runs every part
on models of two layers on the processor, to see that it is whole; its figures say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import product, starmap
from pathlib import Path
from typing import Any

from bench.harness.journal import BenchCall
from bench.harness.result import BenchRow, Device, Target
from bench.suites.gpu_case import GpuCase
from bench.suites.gpu_reading import (
    AFTER,
    CONTEXT,
    ERROR,
    HEAD,
    LARGE,
    MIDDLE,
    NUMBERS,
    SMALL,
    CaseNote,
    FigureSpec,
    ValuePicker,
    compile_note,
    first_aside,
    first_loss_note,
    first_margin,
    first_step,
    kept_layers,
    lane_pace,
    lanes_row,
    no_note,
    number,
    pairs_per_second,
    plan_error_row,
    proof_holds,
    proof_note,
    read_against_peer,
    read_single,
    resume_row,
    seconds_note,
    step_peak_gib,
    tokens_per_second,
    torch_reserved_gib,
    utilisation_row,
    whole,
)
from bench.suites.gpu_session import STARTER, GpuSession
from trainer_core.runs.events import Stage
from trainer_core.system import hardware

QUESTION = (
    "On a card: does all of it work, how fast, and in how much memory? Against plain TRL + PEFT + bitsandbytes, and against a "
    "bare Unsloth script."
)
DEVICES: tuple[Device, ...] = ("cuda",)
SWEEP = (1, 2, 4, 8, 16)
"""Packed rows of 2,048 tokens in a micro-batch: 2k to 32k tokens."""
TORCHES = ("2.11", "2.12", "2.13", "2.14")
QUICK: dict[str, Any] = {"warm": 3, "steps": 8}
"""Where a figure is a peak, or one of many. Elsewhere 10 steps warm up, and 10 are measured."""


def our_case(model: str, **settings: Any) -> GpuCase:
    return GpuCase(way="ours", model=model, **settings)


def packed_case(model: str, **settings: Any) -> GpuCase:
    return our_case(model, packing=True, **settings)


def plain_case(model: str, **settings: Any) -> GpuCase:
    return GpuCase(way="plain", model=model, **settings)


def bare_case(model: str, **settings: Any) -> GpuCase:
    return GpuCase(way="bare", model=model, packing=True, **settings)


def sweep_case(rows: int) -> GpuCase:
    return packed_case(MIDDLE, batch=rows, **QUICK)


def lanes_case(model: str, prompts: int, group: str = "ours", dice: bool = False) -> GpuCase:
    return GpuCase(way="lanes", model=model, batch=prompts, length=64, group=group, dice=dice)


BOTH: dict[str, Any] = {"stage": "sft+dpo", "batch": 2, "length": 1024, "warm": 2, "steps": 5}
PAIRS: dict[str, Any] = {"stage": "dpo", "batch": 2, "length": 1024, **QUICK}
WITHOUT = our_case(SMALL, precision="bf16", **BOTH)
WITH = WITHOUT.model_copy(update={"samples": 32})
WHOLE = our_case(MIDDLE, samples=32, checks=3, probe="on", skip_layers="auto", **BOTH)
UNPROBED = WHOLE.model_copy(update={"probe": "off", "samples": 0, "checks": 0})


# --- the table


def speed_figure(goal: str, what: str, mine: GpuCase, peer: GpuCase, least: float | None = None) -> FigureSpec:
    """Tokens a second beside a peer's. least: of the peer's."""
    target = Target("ratio", "≥", least) if least else None
    return FigureSpec(goal, what, "tokens/s", (mine, peer), read_against_peer(tokens_per_second), target)


def memory_figure(goal: str, what: str, mine: GpuCase, peer: GpuCase, most: float | None = None) -> FigureSpec:
    """Peak memory beside a peer's. most: of the peer's."""
    target = Target("ratio", "≤", most) if most else None
    return FigureSpec(goal, what, "GiB", (mine, peer), read_against_peer(torch_reserved_gib), target)


def dpo_figures(peer: GpuCase, words: str, most: float) -> tuple[FigureSpec, FigureSpec]:
    """DPO of the large model beside a peer. most: of the peer's peak memory."""
    mine, what = our_case(LARGE, **PAIRS), f"DPO {LARGE} NF4"
    return (
        memory_figure("G4", f"{what}: peak memory ÷ {words}", mine, peer, most),
        FigureSpec("G4", f"{what}: pairs ÷ {words}", "pairs/s", (mine, peer), read_against_peer(pairs_per_second)),
    )


def packed_figures(model: str, precision: str) -> tuple[FigureSpec, FigureSpec]:
    """Ours packed beside plain TRL, and beside the bare script."""
    what, how = f"SFT {model} {'NF4' if precision == 'nf4' else precision}, packed", {"precision": precision, **QUICK}
    return (
        speed_figure("G1", f"{what} ÷ plain TRL", packed_case(model, **how), plain_case(model, **how)),
        speed_figure("G3", f"{what} ÷ bare Unsloth script", packed_case(model, **how), bare_case(model, **how)),
    )


def single_figure(
    goal: str,
    what: str,
    unit: str,
    case: GpuCase,
    pick: ValuePicker,
    target: Target | None = None,
    note: CaseNote = no_note,
) -> FigureSpec:
    """A figure of one case."""
    return FigureSpec(goal, what, unit, (case,), read_single(pick, note), target)


def stage_rows(stage: Stage) -> tuple[FigureSpec, FigureSpec]:
    """Speed and compile time of a stage of the middle model."""
    name, late = f"{stage.upper()} {MIDDLE} NF4", "probe and first step beyond the usual step"
    return (
        single_figure("G1", name, "tokens/s", WHOLE, partial(tokens_per_second, stage=stage)),
        single_figure("G8", f"{name}: {late}", "s", WHOLE, partial(first_step, stage=stage), note=compile_note),
    )


def rounding_figure(precision: str, blocks: str, answers: int) -> FigureSpec:
    """The step-0 proof on answers of so many tokens."""
    more = {**BOTH, "length": 2304, "warm": 1, "steps": 2, "answers": answers, "blocks": blocks}
    name = f"{'NF4' if precision == 'nf4' else precision}, blocks {blocks}, answers of {answers:,} tokens"
    case, most = our_case(MIDDLE, precision=precision, **more), Target("ours", "≤", 0.02)
    return single_figure("G4", f"First margin: {name}", "β·nats", case, first_margin, most, first_loss_note)


def aside_figure(what: str, name: str) -> FigureSpec:
    """A check or sample answers beside the training."""
    return single_figure("G8", f"First {what} beyond the second", "s", WHOLE, partial(first_aside, name=name))


def lever_figure(what: str, mine: GpuCase, peer: GpuCase) -> FigureSpec:
    """Short runs of SFT of the middle model that differ in one setting."""
    return speed_figure("G1", f"{QUICK_SFT}, {what}", mine, peer)


SFT = f"SFT {LARGE} NF4"
QUICK_SFT = f"SFT {MIDDLE} NF4"
PLANNED = (*map(sweep_case, SWEEP), packed_case(LARGE))
KERNEL = GpuCase(way="kernel", model=SMALL)
NOISE = GpuCase(way="noise", model=SMALL)
HOLDS = Target("ours", "≥", 1)
RECIPE = our_case("tiny", precision="bf16", samples=16, checks=2, probe="on", **(BOTH | {"length": 512}))
QUICK_CASE = packed_case(MIDDLE, **QUICK)
FIRST: Mapping[str, tuple[FigureSpec, ...]] = {
    "kernel": (
        single_figure("first", "A first Triton kernel", "s", KERNEL, partial(number, name="triton"), note=compile_note),
        single_figure("first", "A first compiled function, both ways", "s", KERNEL, partial(number, name="compile")),
    ),
    "recipe": (
        single_figure("first", "Two layers: SFT, DPO, probe, checks and samples come to their end", "of 1", RECIPE, whole, HOLDS,
                      seconds_note),
    ),
    "samples": tuple(
        FigureSpec("G9", f"{stage.upper()} {SMALL}: memory within a step, with sample answers ÷ without", "GiB", (WITH, WITHOUT),
                   read_against_peer(partial(step_peak_gib, stage=stage)), Target("ratio", "±", 0.02))
        for stage in ("sft", "dpo")
    ),
    "proof": (
        single_figure("G4", "DPO on SFT: reference and step-0 proof hold", "of 1", WHOLE, proof_holds, HOLDS, proof_note),
        *stage_rows("sft"),
        *stage_rows("dpo"),
        aside_figure("held-out check", "checks"),
        aside_figure("sample answers", "samples"),
    ),
    "resume": (
        FigureSpec("G6", f"{MIDDLE} NF4, killed in DPO and resumed: losses apart", "nats",
                   (WHOLE.model_copy(update={"killed": "dpo"}), WHOLE), resume_row, Target("ours", "≤", 0.01)),
    ),
    "kept": (
        FigureSpec("G1", f"{MIDDLE} NF4, SFT and DPO: layers kept after a probe ÷ without one", "layers", (WHOLE, UNPROBED),
                   read_against_peer(kept_layers), Target("ratio", "±", 0.1)),
    ),
    "compare": (
        FigureSpec("G7", f"Compare {LARGE} NF4, 3 lanes, one prompt: a lane with dice ÷ without", "tokens/s",
                   (lanes_case(LARGE, 1, dice=True), lanes_case(LARGE, 1)), read_against_peer(lane_pace)),
        single_figure("G7", "Noise for a token of 3 lanes", "s", NOISE, partial(number, name="processor"),
                      note=lambda found: f"drawn by the card: {found.numbers['card']:.2g} s"),
    ),
    "rounding": tuple(starmap(rounding_figure, product(("nf4", "bf16"), ("compiled", "eager"), (64, 512, 2000)))),
}  # fmt: skip
"""What a first call on a card is for, in this order (`--first`)."""
PARTS: Mapping[str, tuple[FigureSpec, ...]] = {
    **FIRST,
    "sft": (
        speed_figure("G1", f"{SFT}, packed, mixed lengths ÷ plain TRL", packed_case(LARGE), plain_case(LARGE), 2.5),
        memory_figure("G1", f"{SFT}: peak memory ÷ plain TRL", packed_case(LARGE), plain_case(LARGE)),
        speed_figure("G3", f"{SFT} ÷ bare Unsloth script", packed_case(LARGE), bare_case(LARGE), 0.99),
        speed_figure("G1", f"{SFT}, not packed ÷ plain TRL", our_case(LARGE), plain_case(LARGE), 1.5),
    ),
    "dpo": (
        *dpo_figures(plain_case(LARGE, **PAIRS), "plain TRL", 0.9),
        *dpo_figures(GpuCase(way="logits", model=LARGE, **PAIRS), "full 32-bit logits", 0.6),
    ),
    "lanes": (
        FigureSpec("G7", "3 lanes × 8 prompts, one base: one adapter at a time ÷ ours", "s",
                   (lanes_case(STARTER, 8), lanes_case(STARTER, 8, "resident")), lanes_row),
        FigureSpec("G7", "3 lanes × 8 prompts: reload, one batch a lane ÷ ours", "s",
                   (lanes_case(STARTER, 8), lanes_case(STARTER, 8, "batched")), lanes_row, Target("ratio", "≥", 6)),
    ),
    "memory": (
        FigureSpec("G9", ERROR, "%", PLANNED, plan_error_row, Target("ours", "≤", 10)),
        FigureSpec("G9", NUMBERS, "numbers", PLANNED, plan_error_row),
        FigureSpec("G9", HEAD, "GiB", PLANNED, plan_error_row),
        FigureSpec("G9", CONTEXT, "GiB", PLANNED, plan_error_row),
        FigureSpec("G9", AFTER, "%", PLANNED, plan_error_row, Target("ours", "≤", 5)),
    ),
    "batches": tuple(
        speed_figure("G1", f"{QUICK_SFT}: {2 * rows}k ÷ 2k tokens a micro-batch", sweep_case(rows), sweep_case(1))
        for rows in SWEEP[1:]
    ),
    "small": (
        *packed_figures(MIDDLE, "nf4"),
        *packed_figures(MIDDLE, "bf16"),
        *packed_figures(LARGE, "bf16"),
        *packed_figures(SMALL, "bf16"),
        *packed_figures(SMALL, "nf4"),
    ),
    "levers": (
        lever_figure("packed: layers kept where memory allows ÷ all recomputed", packed_case(MIDDLE, skip_layers="auto", **QUICK),
                     QUICK_CASE),
        lever_figure("not packed: padding-free ÷ padded", our_case(MIDDLE, padding="free", **QUICK),
                     our_case(MIDDLE, padding="padded", **QUICK)),
    ),
    "attention": (
        lever_figure("packed: torch's kernel ÷ row by row", QUICK_CASE, packed_case(MIDDLE, attention="rows", **QUICK)),
        lever_figure("packed: torch's kernel ÷ xformers", QUICK_CASE, packed_case(MIDDLE, attention="xformers", **QUICK)),
        lever_figure("plain TRL: flex ÷ SDPA", plain_case(MIDDLE, attention="flex", **QUICK), plain_case(MIDDLE, **QUICK)),
    ),
    "torch": tuple(
        lever_figure(f"packed: torch {one} ÷ this Python's", packed_case(MIDDLE, torch=one, **QUICK), QUICK_CASE)
        for one in TORCHES
    ),
    "utilisation": (
        FigureSpec("G12", f"{SFT}: utilisation", "of the peak", (packed_case(LARGE),), utilisation_row),
        FigureSpec("G12", f"{QUICK_SFT}, 32k tokens a micro-batch: utilisation", "of the peak", (sweep_case(SWEEP[-1]),),
                   utilisation_row),
    ),
}  # fmt: skip
OPEN: tuple[BenchRow, ...] = tuple(figure.open_row for part in PARTS.values() for figure in part)


def resume(place: Path, device: Device, tiny: bool, call: BenchCall) -> list[BenchRow]:
    """Measure what is missing of the parts asked for, and make the rows of all that is known."""
    gpu = hardware.detect_machine().best_gpu
    if not tiny and not gpu:
        raise RuntimeError("There is no card that torch can use.")
    session = GpuSession(call, place, tiny, gpu)
    for part in call.only or PARTS:
        for figure in PARTS[part]:
            for case in figure.cases:
                session.measure(case)
    return [session.row(figure, device) for part in PARTS.values() for figure in part]
