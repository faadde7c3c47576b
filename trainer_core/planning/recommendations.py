"""Settings that this kind and amount of data needs, before memory limits: rank, rates, epochs, length, each with its reason.

The rules are published LoRA and DPO practice; config/recipe.py explains the source marks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from trainer_core.config.recipe import METHODS, Lora, MethodChain
from trainer_core.methods.base import (
    EFFECTIVE_BATCH,
    SMALL_DATASET_ROWS,
    Advice,
    DatasetStats,
    LengthQuantiles,
    Method,
    Reasoned,
    Training,
    UsualRates,
)
from trainer_core.methods.steps import count_steps
from trainer_core.models.architecture import Architecture


@dataclass(frozen=True)
class FitLimits:
    """Limits that memory sets: the share of rows that must fit in full, the highest length and rank."""

    share: float = 0.97
    rank: int = 512
    tokens: int = 1_048_576

    @property
    def has_length_limit(self) -> bool:
        return self.share < FitLimits.share or self.tokens < FitLimits.tokens


RANKS_BY_PAIRS = (
    (1_000, 16, "{n} are few; more would memorise"),
    (2_000, 32, "{n} carry more than rank 16 can hold"),
    (5_001, 64, "the upper end for up to 5,000 pairs; {n}"),
    (20_000, 64, "enough for {n}; 64 to 128 is the range to 50,000"),
    (50_001, 128, "{n}; 64 to 128 is the range to 50,000"),
    (math.inf, 128, "{n}; above 50,000, 128 to 256 with rank-stabilised scaling"),
)
RANKS_BY_ROWS = (
    (2_000, 16, "{n} are few; more would memorise"),
    (20_000, 32, "usual for general chat; {n}"),
    (math.inf, 64, "{n} can teach a new domain"),
)


def recommend_lora(chain: MethodChain, data: DatasetStats, restraint: FitLimits) -> Advice:
    """Rank, scaling and dropout by the number of pairs [rs, TM]; by the number of rows if no stage reads pairs."""
    pairs = any(METHODS[stage].rows == "pairs" for stage in chain.stages)
    count = data.row_count("pairs" if pairs else "chat")
    said = f"{count:,} {'pairs' if pairs else 'rows'}"
    suited, words = next(
        (rank, why) for below, rank, why in (RANKS_BY_PAIRS if pairs else RANKS_BY_ROWS) if count < below
    )
    rank = min(suited, restraint.rank)
    why = words.format(n=said) if rank == suited else f"memory is short; {said} suggest {suited}"
    scaled = "above 64, plain scaling starves the update" if rank > 64 else "only needed above rank 64"
    return {
        "rank": (rank, f"rank {rank}: {why}"),
        "alpha": (rank, f"alpha {rank}: equal to the rank, so the update is not scaled"),
        "rslora": (rank > 64, f"rank {rank}: {scaled}"),
        "dropout": recommend_dropout(rank > 64, pairs and count < SMALL_DATASET_ROWS, said),
    }


def recommend_dropout(stabilised: bool, few: bool, said: str) -> Reasoned:
    if stabilised:
        return 0.1, "dropout 0.1: goes with rank-stabilised scaling"
    if few:
        return 0.05, f"dropout 0.05: {said} are easily memorised"
    return 0.0, "dropout 0: Unsloth's fast kernels need it, and the data is not tiny"


def recommend_training(stage: str, shape: Architecture, lora: Lora, data: DatasetStats, restraint: FitLimits) -> Advice:
    """Length, and the method's advice. The batch starts at 1 and grows with memory."""
    method = METHODS[stage]
    count = data.row_count(method.rows)
    epochs = recommend_epochs(method, count)
    steps = count_steps(count, Training(batch_size=1, accumulation=EFFECTIVE_BATCH, epochs=epochs[0]))
    return {
        "batch_size": (1, "batch 1: no more fits"),
        "accumulation": (EFFECTIVE_BATCH, f"{EFFECTIVE_BATCH} rows for each step"),
        "epochs": epochs,
        "max_length": recommend_length(data.length_quantiles(method.rows), restraint, shape.context),
        "learning_rate": recommend_rate(method.rates, shape, lora, steps),
        **{name: recommend(count) for name, recommend in method.advised.items()},
    }


def recommend_epochs(method: Method, count: int) -> Reasoned:
    epochs = next(epochs for below, epochs in method.epochs if count < below)
    rows = "pairs" if method.rows == "pairs" else "rows"
    return epochs, f"{epochs:g} {'pass' if epochs == 1 else 'passes'} over {count:,} {rows}"


def recommend_rate(rates: UsualRates, shape: Architecture, lora: Lora, steps: int) -> Reasoned:
    """Rank-stabilised scaling multiplies the update by √rank, so its rate is lower; a small base in few steps needs more."""
    if lora.rslora:
        times = f"√{lora.rank} = {math.sqrt(lora.rank):.0f}"
        return (
            rates.stabilised,
            f"{rates.stabilised:g}: rank-stabilised scaling moves the weights {times} times as far",
        )
    if shape.parameter_count < 1e9 and steps < 100:
        rate = rates.small_base
        return rate, f"{rate:g}: a base under 1B hardly moves in {steps} steps at the usual {rates.usual:g}"
    return rates.usual, rates.why


def recommend_length(lengths: LengthQuantiles, restraint: FitLimits, context: int) -> Reasoned:
    """The next multiple of 64 that covers the share of the rows, or all of them if that costs at most a quarter more."""
    enough = lengths.length_covering(restraint.share)
    tokens = lengths.longest if lengths.longest <= 1.25 * enough else enough
    length = max(64, min(-(-tokens // 64) * 64, context, restraint.tokens))
    cut = restraint.has_length_limit and length < lengths.longest
    return length, f"{describe_length(lengths, length)}{', and more does not fit' if cut else ''}"


def describe_length(lengths: LengthQuantiles, length: int) -> str:
    covered = "every row" if length >= lengths.longest else f"{lengths.share_within(length):.0%} of your rows"
    return f"length {length:,}: covers {covered}; the longest has {lengths.longest:,} tokens"


def advice_reasons(part: str, advice: Advice) -> dict[str, str]:
    return {f"{part}.{name}": why for name, (_, why) in advice.items()}


def advice_values(advice: Advice) -> dict[str, Any]:
    return {name: value for name, (value, _) in advice.items()}
