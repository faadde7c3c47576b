"""What the script for a card compares: a line for each row of its table, a part for each question, by their worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench import models
from bench.cuda_child import Way
from bench.result import Row, Target

LARGE, MIDDLE, SMALL = models.SHAPES
SECONDS: dict[str, float] = {
    "proof": 50,
    "sft": 170,
    "dpo": 100,
    "lanes": 40,
    "memory": 80,
    "batches": 0,
    "small": 60,
    "levers": 20,
    "attention": 10,
    "torch": 10,
    "utilisation": 0,
}
"""What each part may take until it begins nothing more; what one leaves over, the next ones have. 0: it reads what others
measured. Ten minutes in all with the last training's end."""
SWEEP = (1, 2, 4, 8, 16)
"""Packed rows of 2,048 tokens in a micro-batch: 2k to 32k tokens."""
TORCHES = ("2.11", "2.12", "2.13", "2.14")
QUICK: dict[str, Any] = {"warm": 3, "steps": 8}
"""Where a figure is a peak, or one of many. Elsewhere 10 steps warm up, and 10 are measured."""
Read = Literal["tokens_per_second", "rows_per_second", "peak_gib"]
UNITS: dict[Read, str] = {"tokens_per_second": "tokens/s", "rows_per_second": "pairs/s", "peak_gib": "GiB"}


@dataclass(frozen=True)
class Side:
    """One training: who does it (`cuda_child`), on which model, and what differs from a case's defaults."""

    way: Way
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """One row: a figure of ours beside the same figure of a peer."""

    goal: str
    what: str
    ours: Side
    peer: Side
    read: Read = "tokens_per_second"
    target: Target | None = None

    @property
    def open(self) -> Row:
        return Row(self.goal, self.what, UNITS[self.read], target=self.target)


def ours(model: str, **settings: Any) -> Side:
    return Side("ours", model, settings)


def packed(model: str, **settings: Any) -> Side:
    return ours(model, packing=True, **settings)


def plain(model: str, **settings: Any) -> Side:
    return Side("plain", model, settings)


def bare(model: str, **settings: Any) -> Side:
    return Side("bare", model, {"packing": True, **settings})


def swept(rows: int) -> Side:
    return packed(MIDDLE, batch=rows, **QUICK)


def beside_both(model: str, precision: str) -> tuple[Compared, Compared]:
    """Ours packed beside plain TRL, and beside the bare script."""
    what, how = f"SFT {model} {'NF4' if precision == 'nf4' else precision}, packed", {"precision": precision, **QUICK}
    return (
        Compared("G1", f"{what} ÷ plain TRL", packed(model, **how), plain(model, **how)),
        Compared("G3", f"{what} ÷ bare Unsloth script", packed(model, **how), bare(model, **how)),
    )


def torches() -> tuple[Compared, ...]:
    what = f"SFT {MIDDLE} NF4, packed: torch {{}} ÷ this Python's"
    return tuple(
        Compared("G1", what.format(one), packed(MIDDLE, torch=one, **QUICK), packed(MIDDLE, **QUICK)) for one in TORCHES
    )


SFT = f"SFT {LARGE} NF4"
DPO = f"DPO {LARGE} NF4"
PAIRS: dict[str, Any] = {"stage": "dpo", "batch": 2, "length": 1024, **QUICK}


def preferred(peer: Side, words: str, most: float) -> tuple[Compared, Compared]:
    """DPO of the large model beside a peer. most: of the peer's peak memory."""
    mine = ours(LARGE, **PAIRS)
    return (
        Compared("G4", f"{DPO}: peak memory ÷ {words}", mine, peer, "peak_gib", Target("ratio", "≤", most)),
        Compared("G4", f"{DPO}: pairs ÷ {words}", mine, peer, "rows_per_second"),
    )


COMPARED: dict[str, tuple[Compared, ...]] = {
    "sft": (
        Compared(
            "G1",
            f"{SFT}, packed, mixed lengths ÷ plain TRL",
            packed(LARGE),
            plain(LARGE),
            target=Target("ratio", "≥", 2.5),
        ),
        Compared("G1", f"{SFT}: peak memory ÷ plain TRL", packed(LARGE), plain(LARGE), "peak_gib"),
        Compared("G3", f"{SFT} ÷ bare Unsloth script", packed(LARGE), bare(LARGE), target=Target("ratio", "≥", 0.99)),
        Compared("G1", f"{SFT}, not packed ÷ plain TRL", ours(LARGE), plain(LARGE), target=Target("ratio", "≥", 1.5)),
    ),
    "dpo": (
        *preferred(plain(LARGE, **PAIRS), "plain TRL", 0.9),
        *preferred(Side("logits", LARGE, PAIRS), "full 32-bit logits", 0.6),
    ),
    "batches": tuple(
        Compared("G1", f"SFT {MIDDLE} NF4: {2 * rows}k ÷ 2k tokens a micro-batch", swept(rows), swept(1))
        for rows in SWEEP[1:]
    ),
    "small": (
        *beside_both(MIDDLE, "nf4"),
        *beside_both(MIDDLE, "bf16"),
        *beside_both(LARGE, "bf16"),
        *beside_both(SMALL, "bf16"),
        *beside_both(SMALL, "nf4"),
    ),
    "levers": (
        Compared(
            "G1",
            f"SFT {MIDDLE} NF4, packed: layers kept where memory allows ÷ all recomputed",
            packed(MIDDLE, skip_layers="auto", **QUICK),
            packed(MIDDLE, **QUICK),
        ),
        Compared(
            "G1",
            f"SFT {MIDDLE} NF4, not packed: padding-free ÷ padded",
            ours(MIDDLE, padding="free", **QUICK),
            ours(MIDDLE, padding="padded", **QUICK),
        ),
    ),
    "attention": (
        Compared(
            "G1",
            f"SFT {MIDDLE} NF4, packed: torch's kernel ÷ row by row",
            packed(MIDDLE, **QUICK),
            packed(MIDDLE, attention="rows", **QUICK),
        ),
        Compared(
            "G1",
            f"SFT {MIDDLE} NF4, packed: torch's kernel ÷ xformers",
            packed(MIDDLE, **QUICK),
            packed(MIDDLE, attention="xformers", **QUICK),
        ),
        Compared(
            "G1",
            f"SFT {MIDDLE} NF4, plain TRL: flex ÷ SDPA",
            plain(MIDDLE, attention="flex", **QUICK),
            plain(MIDDLE, **QUICK),
        ),
    ),
    "torch": torches(),
}
