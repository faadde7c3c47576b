"""What the doctor offers: how a recipe is changed against each thing that can be wrong, within the ranges that make sense."""

from __future__ import annotations

from typing import Any

from trainer_core.config.changes import changed
from trainer_core.config.recipe import Recipe
from trainer_core.diagnosis.series import Course
from trainer_core.methods.dpo import SMOOTHED, Dpo
from trainer_core.runs.events import Offer, Stage

SLOWER, FASTER = 5.0, 3.0
"""Rate ÷ 5 for a run that diverges, × 2 to 5 for one that does not move [field]."""
SLOWEST_DPO, FASTEST_DPO, FASTEST_SFT = 5e-7, 5e-5, 5e-4
"""The useful range of learning rates with LoRA; tiny bases need more and keep what they have [HF, U]."""
LARGEST_BETA, SMALLEST_BETA = 0.5, 0.01
"""The range worth trying [DPO, HF]."""


def slower(course: Course) -> Offer:
    """Rate ÷ 5, and no more than the fastest that makes sense; where DPO's is at its lower end already, a larger β."""
    rate = slower_rate(course.stage, course.settings.learning_rate)
    if course.stage == "dpo" and rate < SLOWEST_DPO:
        return more_beta(course.recipe.dpo)
    changes: dict[str, Any] = {f"{course.stage}.learning_rate": tidy(rate)}
    if course.settings.warmup < 0.1:
        changes[f"{course.stage}.warmup"] = 0.1
    warmer = " and 10 % warm-up" if len(changes) > 1 else ""
    return Offer(f"{course.stage.upper()} learning rate {short(rate)}{warmer}", changes)


def slower_rate(stage: Stage, rate: float) -> float:
    return min(rate / SLOWER, FASTEST_DPO if stage == "dpo" else FASTEST_SFT)


def faster(course: Course, times: float) -> Offer:
    """A larger rate within its range; where it is at the upper end already, a smaller β or a larger rank."""
    fastest = FASTEST_DPO if course.stage == "dpo" else FASTEST_SFT
    rate = min(times * course.settings.learning_rate, fastest)
    if rate > 1.5 * course.settings.learning_rate:
        return Offer(
            f"{course.stage.upper()} learning rate {short(rate)}", {f"{course.stage}.learning_rate": tidy(rate)}
        )
    beta = course.recipe.dpo.beta
    if course.stage == "dpo" and beta > SMALLEST_BETA:
        return Offer(f"Half the β ({beta / 2:g})", {"dpo.beta": tidy(max(beta / 2, SMALLEST_BETA))})
    rank = min(2 * course.lora.rank, 512)
    return Offer(f"Twice the LoRA rank ({rank})", {"lora.rank": rank, "lora.alpha": min(2 * course.lora.alpha, 1024)})


def steadier(course: Course) -> Offer:
    """Rank-stabilised scaling, or, where that is on, a longer warm-up; a cosine schedule in any case."""
    changes: dict[str, Any] = {f"{course.stage}.scheduler": "cosine"}
    if not course.lora.rslora:
        return Offer(
            "Rank-stabilised scaling and a cosine schedule",
            changes | {"lora.rslora": True, "lora.alpha": course.lora.rank},
        )
    warmup = min(0.5, tidy(2 * max(course.settings.warmup, 0.05)))
    return Offer(f"Warm-up {warmup:g} and a cosine schedule", changes | {f"{course.stage}.warmup": warmup})


def more_beta(dpo: Dpo) -> Offer:
    """Twice the β and 10 % warm-up, as far as they are not there; where both are, an SFT term."""
    changes: dict[str, Any] = {}
    if dpo.beta < LARGEST_BETA:
        changes["dpo.beta"] = tidy(min(2 * dpo.beta, LARGEST_BETA))
    if dpo.warmup < 0.1:
        changes["dpo.warmup"] = 0.1
    words = {"dpo.beta": "β {:g}", "dpo.warmup": "{:.0%} warm-up"}
    text = " and ".join(words[key].format(value) for key, value in changes.items())
    return Offer(text, changes) if changes else with_sft_term(dpo)


def changing(course: Course, offer: Offer) -> Offer:
    """The offer, or half the steps, which always differ, where the recipe is that already."""
    if changed(course.recipe, offer.changes) != course.recipe:
        return offer
    steps = max(1, course.total // 2)
    return Offer(f"Half as many {course.stage.upper()} steps ({steps})", {f"{course.stage}.max_steps": steps})


def with_sft_term(dpo: Dpo) -> Offer:
    """The SFT loss beside the present ones, weight 0.5; where it is there, weight 1."""
    weights = dpo.loss_weights or (1.0,) * len(dpo.losses)
    if "sft" in dpo.losses:
        raised = [1.0 if loss == "sft" else weight for loss, weight in zip(dpo.losses, weights, strict=True)]
        return Offer("Weight 1 for the SFT term", {"dpo.loss_weights": raised})
    return Offer(
        "Add an SFT term, weight 0.5", {"dpo.losses": [*dpo.losses, "sft"], "dpo.loss_weights": [*weights, 0.5]}
    )


def unswapped(recipe: Recipe) -> Offer:
    """Chosen and rejected the other way round; where that was done already, a loss that expects wrong labels [cDPO]."""
    if "swap_sides" not in recipe.data.steps:
        return Offer(
            "Chosen and rejected of the training pairs swapped", {"data.steps": [*recipe.data.steps, "swap_sides"]}
        )
    changes = {"dpo.label_smoothing": 0.3, **single_loss("robust")}
    return Offer("The robust loss, which expects wrong labels (smoothing 0.3)", changes)


def single_loss(name: str) -> dict[str, Any]:
    smoothing = {} if name in SMOOTHED else {"dpo.label_smoothing": 0.0}
    return {"dpo.losses": [name], "dpo.loss_weights": None, **smoothing}


def tidy(value: float) -> float:
    """Two digits are enough for a setting."""
    return float(f"{value:.2g}")


def short(rate: float) -> str:
    return f"{tidy(rate):g}".replace("e-0", "e-")
