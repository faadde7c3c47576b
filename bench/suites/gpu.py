"""Everything that needs a card: what a first call on one must find out, then ours beside plain TRL and a bare Unsloth script.

`PARTS` is the table: each row with the cases that it is read from (`cuda_reading`). `cuda_child` measures a case, once, and it is
in the results file at once (`journal`), so that ten minutes here and ten minutes there make one table. `--tiny` runs every part
on models of two layers on the processor, to see that it is whole; its figures say nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness.journal import Call
from bench.harness.result import Device, Row, Target
from bench.suites.gpu_case import Case
from bench.suites.gpu_reading import (
    AFTER,
    CONTEXT,
    ERROR,
    HEAD,
    LARGE,
    MIDDLE,
    NUMBERS,
    SMALL,
    Figure,
    beside,
    beside_lanes,
    compile_note,
    first_aside,
    first_loss_note,
    first_margin,
    first_step,
    kept_layers,
    lane_pace,
    number,
    pairs_per_second,
    peak,
    planned,
    proof_holds,
    proof_note,
    resumed,
    seconds_note,
    single,
    step_peak,
    tokens_per_second,
    utilised,
    whole,
)
from bench.suites.gpu_session import STARTER, Session
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


def ours(model: str, **settings: Any) -> Case:
    return Case(way="ours", model=model, **settings)


def packed(model: str, **settings: Any) -> Case:
    return ours(model, packing=True, **settings)


def plain(model: str, **settings: Any) -> Case:
    return Case(way="plain", model=model, **settings)


def bare(model: str, **settings: Any) -> Case:
    return Case(way="bare", model=model, packing=True, **settings)


def swept(rows: int) -> Case:
    return packed(MIDDLE, batch=rows, **QUICK)


def lanes(model: str, prompts: int, tokens: int, group: str = "ours", dice: bool = False) -> Case:
    return Case(way="lanes", model=model, batch=prompts, length=tokens, group=group, dice=dice)


BOTH: dict[str, Any] = {"stage": "sft+dpo", "batch": 2, "length": 1024, "warm": 2, "steps": 5}
PAIRS: dict[str, Any] = {"stage": "dpo", "batch": 2, "length": 1024, **QUICK}
WITHOUT = ours(SMALL, precision="bf16", **BOTH)
WITH = WITHOUT.model_copy(update={"samples": 32})
WHOLE = ours(MIDDLE, samples=32, checks=3, probe="on", skip_layers="auto", **BOTH)
UNPROBED = WHOLE.model_copy(update={"probe": "off", "samples": 0, "checks": 0})
ONE_PROMPT = lanes(LARGE, 1, 64)


# --- the table


def speed(goal: str, what: str, mine: Case, peer: Case, least: float | None = None) -> Figure:
    """Tokens a second beside a peer's. least: of the peer's."""
    target = Target("ratio", "≥", least) if least else None
    return Figure(goal, what, "tokens/s", (mine, peer), beside(tokens_per_second), target)


def size(goal: str, what: str, mine: Case, peer: Case, most: float | None = None) -> Figure:
    """Peak memory beside a peer's. most: of the peer's."""
    target = Target("ratio", "≤", most) if most else None
    return Figure(goal, what, "GiB", (mine, peer), beside(peak), target)


def preferred(peer: Case, words: str, most: float) -> tuple[Figure, Figure]:
    """DPO of the large model beside a peer. most: of the peer's peak memory."""
    mine, what = ours(LARGE, **PAIRS), f"DPO {LARGE} NF4"
    return (
        size("G4", f"{what}: peak memory ÷ {words}", mine, peer, most),
        Figure("G4", f"{what}: pairs ÷ {words}", "pairs/s", (mine, peer), beside(pairs_per_second)),
    )


def beside_both(model: str, precision: str) -> tuple[Figure, Figure]:
    """Ours packed beside plain TRL, and beside the bare script."""
    what, how = f"SFT {model} {'NF4' if precision == 'nf4' else precision}, packed", {"precision": precision, **QUICK}
    return (
        speed("G1", f"{what} ÷ plain TRL", packed(model, **how), plain(model, **how)),
        speed("G3", f"{what} ÷ bare Unsloth script", packed(model, **how), bare(model, **how)),
    )


def stage_rows(stage: Stage) -> tuple[Figure, Figure]:
    """Speed and compile time of a stage of the middle model."""
    name = f"{stage.upper()} {MIDDLE} NF4"
    return (
        Figure("G1", f"{name}", "tokens/s", (WHOLE,), single(partial(tokens_per_second, stage=stage))),
        Figure(
            "G8", f"{name}: probe and first step beyond the usual step", "s", (WHOLE,),
            single(partial(first_step, stage=stage), compile_note),
        ),
    )  # fmt: skip


def rounding(precision: str, blocks: str, answers: int) -> Figure:
    """The step-0 proof on answers of so many tokens."""
    more = {**BOTH, "length": 2304, "warm": 1, "steps": 2, "answers": answers, "blocks": blocks}
    name = f"{'NF4' if precision == 'nf4' else precision}, blocks {blocks}, answers of {answers:,} tokens"
    case = ours(MIDDLE, precision=precision, **more)
    return Figure(
        "G4",
        f"First margin: {name}",
        "β·nats",
        (case,),
        single(first_margin, first_loss_note),
        Target("ours", "≤", 0.02),
    )


SFT = f"SFT {LARGE} NF4"
QUICK_SFT = f"SFT {MIDDLE} NF4"
PLANNED = (*map(swept, SWEEP), packed(LARGE))
KERNEL = Case(way="kernel", model=SMALL)
NOISE = Case(way="noise", model=SMALL)
FIRST: Mapping[str, tuple[Figure, ...]] = {
    "kernel": (
        Figure("first", "A first Triton kernel", "s", (KERNEL,), single(partial(number, name="triton"), compile_note)),
        Figure("first", "A first compiled function, both ways", "s", (KERNEL,), single(partial(number, name="compile"))),
    ),
    "recipe": (
        Figure(
            "first", "Two layers: SFT, DPO, probe, checks and samples come to their end", "of 1",
            (ours("tiny", precision="bf16", samples=16, checks=2, probe="on", **(BOTH | {"length": 512})),),
            single(whole, seconds_note), Target("ours", "≥", 1),
        ),
    ),
    "samples": tuple(
        Figure(
            "G9", f"{stage.upper()} {SMALL}: memory within a step, with sample answers ÷ without", "GiB",
            (WITH, WITHOUT), beside(partial(step_peak, stage=stage)), Target("ratio", "±", 0.02),
        )
        for stage in ("sft", "dpo")
    ),
    "proof": (
        Figure(
            "G4", "DPO on SFT: reference and step-0 proof hold", "of 1", (WHOLE,), single(proof_holds, proof_note),
            Target("ours", "≥", 1),
        ),
        *stage_rows("sft"),
        *stage_rows("dpo"),
        Figure("G8", "First held-out check beyond the second", "s", (WHOLE,), single(partial(first_aside, name="checks"))),
        Figure("G8", "First sample answers beyond the second", "s", (WHOLE,), single(partial(first_aside, name="samples"))),
    ),
    "resume": (
        Figure(
            "G6", f"{MIDDLE} NF4, killed in DPO and resumed: losses apart", "nats",
            (WHOLE.model_copy(update={"killed": "dpo"}), WHOLE), resumed, Target("ours", "≤", 0.01),
        ),
    ),
    "kept": (
        Figure(
            "G1", f"{MIDDLE} NF4, SFT and DPO: layers kept after a probe ÷ without one", "layers",
            (WHOLE, UNPROBED), beside(kept_layers), Target("ratio", "±", 0.1),
        ),
    ),
    "compare": (
        Figure(
            "G7", f"Compare {LARGE} NF4, 3 lanes, one prompt: a lane with dice ÷ without", "tokens/s",
            (ONE_PROMPT.model_copy(update={"dice": True}), ONE_PROMPT), beside(lane_pace),
        ),
        Figure(
            "G7", "Noise for a token of 3 lanes", "s", (NOISE,), single(
                partial(number, name="processor"), lambda found: f"drawn by the card: {found.numbers['card']:.2g} s"
            ),
        ),
    ),
    "rounding": tuple(
        rounding(precision, blocks, answers)
        for precision in ("nf4", "bf16")
        for blocks in ("compiled", "eager")
        for answers in (64, 512, 2000)
    ),
}  # fmt: skip
"""What a first call on a card is for, in this order (`--first`)."""
PARTS: Mapping[str, tuple[Figure, ...]] = {
    **FIRST,
    "sft": (
        speed("G1", f"{SFT}, packed, mixed lengths ÷ plain TRL", packed(LARGE), plain(LARGE), 2.5),
        size("G1", f"{SFT}: peak memory ÷ plain TRL", packed(LARGE), plain(LARGE)),
        speed("G3", f"{SFT} ÷ bare Unsloth script", packed(LARGE), bare(LARGE), 0.99),
        speed("G1", f"{SFT}, not packed ÷ plain TRL", ours(LARGE), plain(LARGE), 1.5),
    ),
    "dpo": (
        *preferred(plain(LARGE, **PAIRS), "plain TRL", 0.9),
        *preferred(Case(way="logits", model=LARGE, **PAIRS), "full 32-bit logits", 0.6),
    ),
    "lanes": (
        Figure(
            "G7", "3 lanes × 8 prompts, one base: one adapter at a time ÷ ours", "s",
            (lanes(STARTER, 8, 64), lanes(STARTER, 8, 64, "resident")), beside_lanes,
        ),
        Figure(
            "G7", "3 lanes × 8 prompts: reload, one batch a lane ÷ ours", "s",
            (lanes(STARTER, 8, 64), lanes(STARTER, 8, 64, "batched")), beside_lanes, Target("ratio", "≥", 6),
        ),
    ),
    "memory": (
        Figure("G9", ERROR, "%", PLANNED, planned, Target("ours", "≤", 10)),
        Figure("G9", NUMBERS, "numbers", PLANNED, planned),
        Figure("G9", HEAD, "GiB", PLANNED, planned),
        Figure("G9", CONTEXT, "GiB", PLANNED, planned),
        Figure("G9", AFTER, "%", PLANNED, planned, Target("ours", "≤", 5)),
    ),
    "batches": tuple(
        speed("G1", f"{QUICK_SFT}: {2 * rows}k ÷ 2k tokens a micro-batch", swept(rows), swept(1)) for rows in SWEEP[1:]
    ),
    "small": (
        *beside_both(MIDDLE, "nf4"),
        *beside_both(MIDDLE, "bf16"),
        *beside_both(LARGE, "bf16"),
        *beside_both(SMALL, "bf16"),
        *beside_both(SMALL, "nf4"),
    ),
    "levers": (
        speed(
            "G1", f"{QUICK_SFT}, packed: layers kept where memory allows ÷ all recomputed",
            packed(MIDDLE, skip_layers="auto", **QUICK), packed(MIDDLE, **QUICK),
        ),
        speed(
            "G1", f"{QUICK_SFT}, not packed: padding-free ÷ padded",
            ours(MIDDLE, padding="free", **QUICK), ours(MIDDLE, padding="padded", **QUICK),
        ),
    ),
    "attention": (
        speed(
            "G1", f"{QUICK_SFT}, packed: torch's kernel ÷ row by row",
            packed(MIDDLE, **QUICK), packed(MIDDLE, attention="rows", **QUICK),
        ),
        speed(
            "G1", f"{QUICK_SFT}, packed: torch's kernel ÷ xformers",
            packed(MIDDLE, **QUICK), packed(MIDDLE, attention="xformers", **QUICK),
        ),
        speed(
            "G1", f"{QUICK_SFT}, plain TRL: flex ÷ SDPA",
            plain(MIDDLE, attention="flex", **QUICK), plain(MIDDLE, **QUICK),
        ),
    ),
    "torch": tuple(
        speed(
            "G1", f"{QUICK_SFT}, packed: torch {one} ÷ this Python's",
            packed(MIDDLE, torch=one, **QUICK), packed(MIDDLE, **QUICK),
        )
        for one in TORCHES
    ),
    "utilisation": (
        Figure("G12", f"{SFT}: utilisation", "of the peak", (packed(LARGE),), utilised),
        Figure("G12", f"{QUICK_SFT}, 32k tokens a micro-batch: utilisation", "of the peak", (swept(SWEEP[-1]),), utilised),
    ),
}  # fmt: skip
OPEN: tuple[Row, ...] = tuple(figure.open for part in PARTS.values() for figure in part)


def resume(device: Device, tiny: bool, call: Call) -> list[Row]:
    """Measure what is missing of the parts asked for, and make the rows of all that is known."""
    gpu = hardware.detect().best
    if not tiny and not gpu:
        raise RuntimeError("There is no card that torch can use.")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as scratch:
        session = Session(call, Path(scratch), tiny, gpu)
        for part in call.only or PARTS:
            for figure in PARTS[part]:
                for case in figure.cases:
                    session.measure(case)
        return [session.row(figure, device) for part in PARTS.values() for figure in part]
