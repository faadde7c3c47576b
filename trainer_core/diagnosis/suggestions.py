"""What the doctor offers: how a recipe is changed against each thing that can be wrong, within the ranges that make sense."""

from __future__ import annotations

from typing import Any

from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.diagnosis.series import StageSeries
from trainer_core.methods.dpo import SMOOTHED_LOSSES, Dpo
from trainer_core.runs.events import Stage, Suggestion
from trainer_core.system.format import format_rate, round_digits

LOWER_RATE_FACTOR, RAISE_RATE_FACTOR = 5.0, 3.0
"""Rate ÷ 5 for a run that diverges, × 2 to 5 for one that does not move [field]."""
MAX_BETA, MIN_BETA = 0.5, 0.01
"""The range worth trying [DPO, HF]."""


def lower_rate(course: StageSeries) -> Suggestion:
    """Rate ÷ 5, and no more than the fastest that makes sense; where DPO's is at its lower end already, a larger β."""
    rate = next_lower_rate(course.stage, course.settings.learning_rate)
    if isinstance(course.settings, Dpo) and rate < course.method.slowest_rate:
        return raise_beta(course.settings)
    changes: dict[str, Any] = {f"{course.stage}.learning_rate": round_setting(rate)}
    if course.settings.warmup < 0.1:
        changes[f"{course.stage}.warmup"] = 0.1
    warmer = " and 10 % warm-up" if len(changes) > 1 else ""
    return Suggestion(f"{course.stage.upper()} learning rate {format_rate(rate)}{warmer}", changes)


def next_lower_rate(stage: Stage, rate: float) -> float:
    return min(rate / LOWER_RATE_FACTOR, METHODS[stage].fastest_rate)


def raise_rate(course: StageSeries, times: float) -> Suggestion:
    """A larger rate within its range; where it is at the upper end already, a smaller β or a larger rank."""
    rate = min(times * course.settings.learning_rate, course.method.fastest_rate)
    if rate > 1.5 * course.settings.learning_rate:
        return Suggestion(
            f"{course.stage.upper()} learning rate {format_rate(rate)}",
            {f"{course.stage}.learning_rate": round_setting(rate)},
        )
    if isinstance(course.settings, Dpo) and (beta := course.settings.beta) > MIN_BETA:
        return Suggestion(f"Half the β ({beta / 2:g})", {"dpo.beta": round_setting(max(beta / 2, MIN_BETA))})
    rank = min(2 * course.lora.rank, 512)
    return Suggestion(
        f"Twice the LoRA rank ({rank})", {"lora.rank": rank, "lora.alpha": min(2 * course.lora.alpha, 1024)}
    )


def stabilise(course: StageSeries) -> Suggestion:
    """Rank-stabilised scaling, or, where that is on, a longer warm-up; a cosine schedule in any case."""
    changes: dict[str, Any] = {f"{course.stage}.scheduler": "cosine"}
    if not course.lora.rslora:
        return Suggestion(
            "Rank-stabilised scaling and a cosine schedule",
            changes | {"lora.rslora": True, "lora.alpha": course.lora.rank},
        )
    warmup = min(0.5, round_setting(2 * max(course.settings.warmup, 0.05)))
    return Suggestion(f"Warm-up {warmup:g} and a cosine schedule", changes | {f"{course.stage}.warmup": warmup})


def raise_beta(dpo: Dpo) -> Suggestion:
    """Twice the β and 10 % warm-up, as far as they are not there; where both are, an SFT term."""
    changes: dict[str, Any] = {}
    if dpo.beta < MAX_BETA:
        changes["dpo.beta"] = round_setting(min(2 * dpo.beta, MAX_BETA))
    if dpo.warmup < 0.1:
        changes["dpo.warmup"] = 0.1
    words = {"dpo.beta": "β {:g}", "dpo.warmup": "{:.0%} warm-up"}
    text = " and ".join(words[key].format(value) for key, value in changes.items())
    return Suggestion(text, changes) if changes else add_sft_term(dpo)


def ensure_change(course: StageSeries, offer: Suggestion) -> Suggestion:
    """The offer, or half the steps, which always differ, where the recipe is that already."""
    if with_changes(course.recipe, offer.changes) != course.recipe:
        return offer
    steps = max(1, course.total_steps // 2)
    return Suggestion(f"Half as many {course.stage.upper()} steps ({steps})", {f"{course.stage}.max_steps": steps})


def add_sft_term(dpo: Dpo) -> Suggestion:
    """The SFT loss beside the present ones, weight 0.5; where it is there, weight 1."""
    weights = dpo.loss_weights or (1.0,) * len(dpo.losses)
    if "sft" in dpo.losses:
        raised = [1.0 if loss == "sft" else weight for loss, weight in zip(dpo.losses, weights, strict=True)]
        return Suggestion("Weight 1 for the SFT term", {"dpo.loss_weights": raised})
    return Suggestion(
        "Add an SFT term, weight 0.5", {"dpo.losses": [*dpo.losses, "sft"], "dpo.loss_weights": [*weights, 0.5]}
    )


def swap_pairs(recipe: Recipe) -> Suggestion:
    """Chosen and rejected the other way round; where that was done already, a loss that expects wrong labels [cDPO]."""
    if "swap_sides" not in recipe.data.steps:
        return Suggestion(
            "Chosen and rejected of the training pairs swapped", {"data.steps": [*recipe.data.steps, "swap_sides"]}
        )
    changes = {"dpo.label_smoothing": 0.3, **single_loss("robust")}
    return Suggestion("The robust loss, which expects wrong labels (smoothing 0.3)", changes)


def single_loss(name: str) -> dict[str, Any]:
    smoothing = {} if name in SMOOTHED_LOSSES else {"dpo.label_smoothing": 0.0}
    return {"dpo.losses": [name], "dpo.loss_weights": None, **smoothing}


def round_setting(value: float) -> float:
    """Two digits are enough for a setting."""
    return round_digits(value, 2)
