"""What the doctor offers: a change of the recipe against each thing that can go wrong, within the ranges that make sense."""

from __future__ import annotations

from typing import Any

from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.diagnosis.series import StageSeries
from trainer_core.methods.dpo import SMOOTHED_LOSSES, Dpo
from trainer_core.runs.events import Stage, Suggestion
from trainer_core.system.format import format_rate, round_digits
from trainer_core.texts import Text

LOWER_RATE_FACTOR, RAISE_RATE_FACTOR = 5.0, 3.0
"""Rate ÷ 5 for a run that diverges, × 2 to 5 for one that does not move [field]."""
MAX_BETA, MIN_BETA = 0.5, 0.01
"""The range worth trying [DPO, HF]."""
MAX_RANK, MAX_ALPHA = 512, 1024
WARMUP = 0.1
"""The share of steps that a run without enough warm-up gets."""


# ---- every method


def lower_rate(course: StageSeries) -> Suggestion:
    """Rate ÷ 5, at most the fastest that makes sense; a larger β where DPO's rate is at its lower end."""
    rate = next_lower_rate(course.stage, course.settings.learning_rate)
    if isinstance(course.settings, Dpo) and rate < course.method.slowest_rate:
        return raise_beta(course.settings)
    if course.settings.warmup >= WARMUP:
        return set_rate(course, rate)
    text = Text("suggestion.rate_and_warmup", method=course.method.title, rate=format_rate(rate), warmup=WARMUP)
    return Suggestion(text, set_rate(course, rate).changes | {f"{course.stage}.warmup": WARMUP})


def set_rate(course: StageSeries, rate: float) -> Suggestion:
    text = Text("suggestion.rate", method=course.method.title, rate=format_rate(rate))
    return Suggestion(text, {f"{course.stage}.learning_rate": round_setting(rate)})


def next_lower_rate(stage: Stage, rate: float) -> float:
    return min(rate / LOWER_RATE_FACTOR, METHODS[stage].fastest_rate)


def raise_rate(course: StageSeries, times: float) -> Suggestion:
    """A larger rate within its range; where it is at the upper end already, a smaller β or a larger rank."""
    rate = min(times * course.settings.learning_rate, course.method.fastest_rate)
    if rate > 1.5 * course.settings.learning_rate:
        return set_rate(course, rate)
    if isinstance(course.settings, Dpo) and course.settings.beta > MIN_BETA:
        beta = round_setting(max(course.settings.beta / 2, MIN_BETA))
        return Suggestion(Text("suggestion.beta", beta=beta), {"dpo.beta": beta})
    rank, alpha = min(2 * course.lora.rank, MAX_RANK), min(2 * course.lora.alpha, MAX_ALPHA)
    return Suggestion(Text("suggestion.rank", rank=rank, alpha=alpha), {"lora.rank": rank, "lora.alpha": alpha})


def halve_rate(course: StageSeries) -> Suggestion:
    rate = course.settings.learning_rate / 2
    text = Text("suggestion.half_rate", method=course.method.title, rate=format_rate(rate))
    return Suggestion(text, set_rate(course, rate).changes)


def halve_alpha(course: StageSeries) -> Suggestion:
    alpha = max(1, course.lora.alpha // 2)
    return Suggestion(Text("suggestion.alpha", alpha=alpha), {"lora.alpha": alpha})


def stabilise(course: StageSeries) -> Suggestion:
    """Rank-stabilised scaling, or, where that is on, a longer warm-up; a cosine schedule in any case."""
    cosine = {f"{course.stage}.scheduler": "cosine"}
    if not course.lora.rslora:
        return Suggestion(Text("suggestion.rslora"), cosine | {"lora.rslora": True, "lora.alpha": course.lora.rank})
    warmup = min(0.5, round_setting(2 * max(course.settings.warmup, 0.05)))
    return Suggestion(Text("suggestion.warmup_and_cosine", warmup=warmup), cosine | {f"{course.stage}.warmup": warmup})


def stop_at_best(course: StageSeries, step: int) -> Suggestion:
    return Suggestion(Text("suggestion.stop_at_best", method=course.method.title, step=step), limit_steps(course, step))


def stop_after_epoch(course: StageSeries) -> Suggestion:
    step = course.steps_per_epoch
    text = Text("suggestion.stop_after_epoch", method=course.method.title, step=step)
    return Suggestion(text, limit_steps(course, step))


def limit_steps(course: StageSeries, steps: int) -> dict[str, Any]:
    return {f"{course.stage}.max_steps": steps}


def ensure_change(course: StageSeries, offer: Suggestion) -> Suggestion:
    """The offer; half the steps, which always differ, if the recipe is already so."""
    if with_changes(course.recipe, offer.changes) != course.recipe:
        return offer
    steps = max(1, course.total_steps // 2)
    return Suggestion(
        Text("suggestion.fewer_steps", method=course.method.title, steps=steps), limit_steps(course, steps)
    )


# ---- DPO


def raise_beta(dpo: Dpo) -> Suggestion:
    """Twice the β and 10 % warm-up, whichever is not yet so; an SFT term if both are."""
    warmup = {"dpo.warmup": WARMUP} if dpo.warmup < WARMUP else {}
    if dpo.beta >= MAX_BETA:
        return Suggestion(Text("suggestion.warmup", warmup=WARMUP), warmup) if warmup else add_sft_term(dpo)
    beta = round_setting(min(2 * dpo.beta, MAX_BETA))
    both = Text("suggestion.beta_and_warmup", beta=beta, warmup=WARMUP)
    return Suggestion(both if warmup else Text("suggestion.beta", beta=beta), {"dpo.beta": beta, **warmup})


def add_sft_term(dpo: Dpo) -> Suggestion:
    """The SFT loss beside the present ones, weight 0.5; weight 1 if it is already there."""
    weights = dpo.loss_weights or (1.0,) * len(dpo.losses)
    if "sft" in dpo.losses:
        raised = [1.0 if loss == "sft" else weight for loss, weight in zip(dpo.losses, weights, strict=True)]
        return Suggestion(Text("suggestion.sft_weight", weight=1.0), {"dpo.loss_weights": raised})
    changes = {"dpo.losses": [*dpo.losses, "sft"], "dpo.loss_weights": [*weights, 0.5]}
    return Suggestion(Text("suggestion.sft_term", weight=0.5), changes)


def swap_pairs(recipe: Recipe) -> Suggestion:
    """Chosen and rejected swapped; if they are already, a loss that expects wrong labels [cDPO]."""
    if "swap_sides" not in recipe.data.steps:
        return Suggestion(Text("suggestion.swap_pairs"), {"data.steps": [*recipe.data.steps, "swap_sides"]})
    smoothing = 0.3
    text = Text("suggestion.wrong_labels", smoothing=smoothing)
    return Suggestion(text, {"dpo.label_smoothing": smoothing, **single_loss("robust")})


def use_robust_loss(dpo: Dpo) -> Suggestion:
    smoothing, beta = 0.1, max(0.3, dpo.beta)
    text = Text("suggestion.robust_loss", smoothing=smoothing, beta=beta)
    return Suggestion(text, {"dpo.label_smoothing": smoothing, "dpo.beta": beta, **single_loss("robust")})


def use_ipo_loss(course: StageSeries) -> Suggestion:
    """With half the rank, since easy pairs hold little to learn."""
    rank = max(4, course.lora.rank // 2)
    alpha = max(1, course.lora.alpha * rank // course.lora.rank)
    changes = {"lora.rank": rank, "lora.alpha": alpha, **single_loss("ipo")}
    return Suggestion(Text("suggestion.ipo_loss", rank=rank), changes)


def normalise_length() -> Suggestion:
    return Suggestion(Text("suggestion.sigmoid_norm"), single_loss("sigmoid_norm"))


def single_loss(name: str) -> dict[str, Any]:
    smoothing = {} if name in SMOOTHED_LOSSES else {"dpo.label_smoothing": 0.0}
    return {"dpo.losses": [name], "dpo.loss_weights": None, **smoothing}


def round_setting(value: float) -> float:
    """Two digits are enough for a setting."""
    return round_digits(value, 2)
