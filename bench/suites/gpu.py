"""Everything that needs a card: what a first call on one must find out, then ours beside plain TRL and a bare Unsloth script.

`PARTS` is the table: each row with the cases that it is read from (`gpu_reading.py`). `gpu_child.py` measures a case once; it is
in the results file at once (`journal.py`), so that ten minutes here and ten there make one table. `--tiny` runs every part
on models of two layers on the processor, to see that it is whole; its figures say nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
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
    FigureSpec,
    compile_note,
    first_aside,
    first_loss_note,
    first_margin,
    first_step,
    kept_layers,
    lane_pace,
    lanes_row,
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


def lanes_case(model: str, prompts: int, tokens: int, group: str = "ours", dice: bool = False) -> GpuCase:
    return GpuCase(way="lanes", model=model, batch=prompts, length=tokens, group=group, dice=dice)


BOTH: dict[str, Any] = {"stage": "sft+dpo", "batch": 2, "length": 1024, "warm": 2, "steps": 5}
PAIRS: dict[str, Any] = {"stage": "dpo", "batch": 2, "length": 1024, **QUICK}
WITHOUT = our_case(SMALL, precision="bf16", **BOTH)
WITH = WITHOUT.model_copy(update={"samples": 32})
WHOLE = our_case(MIDDLE, samples=32, checks=3, probe="on", skip_layers="auto", **BOTH)
UNPROBED = WHOLE.model_copy(update={"probe": "off", "samples": 0, "checks": 0})
ONE_PROMPT = lanes_case(LARGE, 1, 64)


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


def stage_rows(stage: Stage) -> tuple[FigureSpec, FigureSpec]:
    """Speed and compile time of a stage of the middle model."""
    name = f"{stage.upper()} {MIDDLE} NF4"
    return (
        FigureSpec("G1", f"{name}", "tokens/s", (WHOLE,), read_single(partial(tokens_per_second, stage=stage))),
        FigureSpec(
            "G8", f"{name}: probe and first step beyond the usual step", "s", (WHOLE,),
            read_single(partial(first_step, stage=stage), compile_note),
        ),
    )  # fmt: skip


def rounding_figure(precision: str, blocks: str, answers: int) -> FigureSpec:
    """The step-0 proof on answers of so many tokens."""
    more = {**BOTH, "length": 2304, "warm": 1, "steps": 2, "answers": answers, "blocks": blocks}
    name = f"{'NF4' if precision == 'nf4' else precision}, blocks {blocks}, answers of {answers:,} tokens"
    case = our_case(MIDDLE, precision=precision, **more)
    return FigureSpec(
        "G4",
        f"First margin: {name}",
        "β·nats",
        (case,),
        read_single(first_margin, first_loss_note),
        Target("ours", "≤", 0.02),
    )


SFT = f"SFT {LARGE} NF4"
QUICK_SFT = f"SFT {MIDDLE} NF4"
PLANNED = (*map(sweep_case, SWEEP), packed_case(LARGE))
KERNEL = GpuCase(way="kernel", model=SMALL)
NOISE = GpuCase(way="noise", model=SMALL)
FIRST: Mapping[str, tuple[FigureSpec, ...]] = {
    "kernel": (
        FigureSpec("first", "A first Triton kernel", "s", (KERNEL,), read_single(partial(number, name="triton"), compile_note)),
        FigureSpec("first", "A first compiled function, both ways", "s", (KERNEL,), read_single(partial(number, name="compile"))),
    ),
    "recipe": (
        FigureSpec(
            "first", "Two layers: SFT, DPO, probe, checks and samples come to their end", "of 1",
            (our_case("tiny", precision="bf16", samples=16, checks=2, probe="on", **(BOTH | {"length": 512})),),
            read_single(whole, seconds_note), Target("ours", "≥", 1),
        ),
    ),
    "samples": tuple(
        FigureSpec(
            "G9", f"{stage.upper()} {SMALL}: memory within a step, with sample answers ÷ without", "GiB",
            (WITH, WITHOUT), read_against_peer(partial(step_peak_gib, stage=stage)), Target("ratio", "±", 0.02),
        )
        for stage in ("sft", "dpo")
    ),
    "proof": (
        FigureSpec(
            "G4", "DPO on SFT: reference and step-0 proof hold", "of 1", (WHOLE,), read_single(proof_holds, proof_note),
            Target("ours", "≥", 1),
        ),
        *stage_rows("sft"),
        *stage_rows("dpo"),
        FigureSpec(
            "G8", "First held-out check beyond the second", "s", (WHOLE,), read_single(partial(first_aside, name="checks"))
        ),
        FigureSpec(
            "G8", "First sample answers beyond the second", "s", (WHOLE,), read_single(partial(first_aside, name="samples"))
        ),
    ),
    "resume": (
        FigureSpec(
            "G6", f"{MIDDLE} NF4, killed in DPO and resumed: losses apart", "nats",
            (WHOLE.model_copy(update={"killed": "dpo"}), WHOLE), resume_row, Target("ours", "≤", 0.01),
        ),
    ),
    "kept": (
        FigureSpec(
            "G1", f"{MIDDLE} NF4, SFT and DPO: layers kept after a probe ÷ without one", "layers",
            (WHOLE, UNPROBED), read_against_peer(kept_layers), Target("ratio", "±", 0.1),
        ),
    ),
    "compare": (
        FigureSpec(
            "G7", f"Compare {LARGE} NF4, 3 lanes, one prompt: a lane with dice ÷ without", "tokens/s",
            (ONE_PROMPT.model_copy(update={"dice": True}), ONE_PROMPT), read_against_peer(lane_pace),
        ),
        FigureSpec(
            "G7", "Noise for a token of 3 lanes", "s", (NOISE,), read_single(
                partial(number, name="processor"), lambda found: f"drawn by the card: {found.numbers['card']:.2g} s"
            ),
        ),
    ),
    "rounding": tuple(
        rounding_figure(precision, blocks, answers)
        for precision in ("nf4", "bf16")
        for blocks in ("compiled", "eager")
        for answers in (64, 512, 2000)
    ),
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
        FigureSpec(
            "G7", "3 lanes × 8 prompts, one base: one adapter at a time ÷ ours", "s",
            (lanes_case(STARTER, 8, 64), lanes_case(STARTER, 8, 64, "resident")), lanes_row,
        ),
        FigureSpec(
            "G7", "3 lanes × 8 prompts: reload, one batch a lane ÷ ours", "s",
            (lanes_case(STARTER, 8, 64), lanes_case(STARTER, 8, 64, "batched")), lanes_row, Target("ratio", "≥", 6),
        ),
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
        speed_figure(
            "G1", f"{QUICK_SFT}, packed: layers kept where memory allows ÷ all recomputed",
            packed_case(MIDDLE, skip_layers="auto", **QUICK), packed_case(MIDDLE, **QUICK),
        ),
        speed_figure(
            "G1", f"{QUICK_SFT}, not packed: padding-free ÷ padded",
            our_case(MIDDLE, padding="free", **QUICK), our_case(MIDDLE, padding="padded", **QUICK),
        ),
    ),
    "attention": (
        speed_figure(
            "G1", f"{QUICK_SFT}, packed: torch's kernel ÷ row by row",
            packed_case(MIDDLE, **QUICK), packed_case(MIDDLE, attention="rows", **QUICK),
        ),
        speed_figure(
            "G1", f"{QUICK_SFT}, packed: torch's kernel ÷ xformers",
            packed_case(MIDDLE, **QUICK), packed_case(MIDDLE, attention="xformers", **QUICK),
        ),
        speed_figure(
            "G1", f"{QUICK_SFT}, plain TRL: flex ÷ SDPA",
            plain_case(MIDDLE, attention="flex", **QUICK), plain_case(MIDDLE, **QUICK),
        ),
    ),
    "torch": tuple(
        speed_figure(
            "G1", f"{QUICK_SFT}, packed: torch {one} ÷ this Python's",
            packed_case(MIDDLE, torch=one, **QUICK), packed_case(MIDDLE, **QUICK),
        )
        for one in TORCHES
    ),
    "utilisation": (
        FigureSpec("G12", f"{SFT}: utilisation", "of the peak", (packed_case(LARGE),), utilisation_row),
        FigureSpec(
            "G12", f"{QUICK_SFT}, 32k tokens a micro-batch: utilisation", "of the peak", (sweep_case(SWEEP[-1]),), utilisation_row
        ),
    ),
}  # fmt: skip
OPEN: tuple[BenchRow, ...] = tuple(figure.open_row for part in PARTS.values() for figure in part)


def resume(device: Device, tiny: bool, call: BenchCall) -> list[BenchRow]:
    """Measure what is missing of the parts asked for, and make the rows of all that is known."""
    gpu = hardware.detect_machine().best_gpu
    if not tiny and not gpu:
        raise RuntimeError("There is no card that torch can use.")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
        session = GpuSession(call, Path(scratch), tiny, gpu)
        for part in call.only or PARTS:
            for figure in PARTS[part]:
                for case in figure.cases:
                    session.measure(case)
        return [session.row(figure, device) for part in PARTS.values() for figure in part]
