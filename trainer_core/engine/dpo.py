"""Direct preference optimisation, and the proof that it starts where it must: at its own reference.

On top of SFT the SFT adapter is the policy ("default"), and TRL keeps a frozen copy of it ("ref") as the reference on the
same base. Without SFT the reference is the base itself: the adapter is switched off.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig

from trainer_core.config import Dpo, LossType, Precision, Recipe
from trainer_core.engine import arguments
from trainer_core.engine.callbacks import Logged
from trainer_core.engine.checkpoint import ShelvedDpo
from trainer_core.engine.order import WITHIN_A_BATCH
from trainer_core.errors import TrainingError
from trainer_core.event_log import EventLog
from trainer_core.events import Proof

LN2 = math.log(2)
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.02, "nf4": 0.02}
"""How far the first loss and margin may be off, in nats: rounding of 16-bit log-probs summed over an answer, times β."""


def trainer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    recipe: Recipe,
    scratch: Path,
    callbacks: list[TrainerCallback],
) -> ShelvedDpo:
    """TRL's trainer on pairs, or on the tokens that it made of them before.

    On a fresh adapter the reference is the base itself, so the copy TRL makes is dropped again.
    """
    fresh = is_fresh(model)
    built = ShelvedDpo(
        model=model,
        args=DPOConfig(
            **arguments.shared(recipe.dpo, recipe.seed, scratch),
            beta=recipe.dpo.beta,
            loss_type=list(recipe.dpo.losses),
            loss_weights=list(recipe.dpo.loss_weights) if recipe.dpo.loss_weights else None,
            label_smoothing=recipe.dpo.label_smoothing,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    if fresh:
        model.delete_adapter("ref")
    if recipe.memory.sort_rows == "auto" and not WITHIN_A_BATCH & set(recipe.dpo.losses):
        built.sorts = "dpo"
    return built


def is_fresh(model: PeftModel) -> bool:
    """Does the adapter still change nothing? LoRA starts with B = 0."""
    return all(not weight.any() for name, weight in model.named_parameters() if "lora_B.default" in name)


class Prove(TrainerCallback):
    """Checks the weights before the first step and the numbers at it; a mismatch ends the run with an explanation."""

    def __init__(self, settings: Dpo, precision: Precision, policy: str, emit: EventLog):
        self.settings, self.tolerance, self.policy, self.emit = settings, TOLERANCE[precision], policy, emit

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if state.global_step == 0:
            check_reference(model)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        model: Any = None,
        **_: Any,
    ) -> None:
        if state.global_step != 1 or not logs or "loss" not in logs:
            return
        proof = self.proof(Logged.model_validate(logs), "ref" in model.peft_config)
        self.emit(proof)
        if not proof.holds:
            raise TrainingError(explain(proof))

    def proof(self, first: Logged, has_copy: bool) -> Proof:
        expected, margin = first_loss(self.settings), first.margin if first.margin is not None else math.nan
        holds = abs(margin) <= self.tolerance and (expected is None or abs(first.loss - expected) <= self.tolerance)
        return Proof(
            stage="dpo",
            loss=first.loss,
            expected_loss=expected,
            margin=margin,
            expected_margin=0.0,
            tolerance=self.tolerance,
            policy=self.policy,
            reference=f"frozen copy of {self.policy}" if has_copy else "the base model, adapter switched off",
            holds=holds,
        )


def check_reference(model: PeftModel) -> None:
    """The reference must be a bitwise, frozen copy of the policy.

    Raises:
        TrainingError: naming the first weight that differs or would be trained.
    """
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        if ".ref." not in name:
            continue
        if weight.requires_grad:
            raise TrainingError(f"The reference is not frozen: {name} would be trained. Nothing was changed.")
        if not torch.equal(weight, weights[name.replace(".ref.", ".default.")].to(weight.dtype)):
            raise TrainingError(
                f"The reference is not the policy DPO starts from: {name} differs. "
                "Training against it would measure the wrong thing, so the run was stopped before its first step."
            )


def explain(proof: Proof) -> str:
    expected = "" if proof.expected_loss is None else f" and a loss of {proof.expected_loss:.4f}"
    return (
        f"DPO did not start at its reference: the first step has a margin of {proof.margin:.4f} and a loss of "
        f"{proof.loss:.4f}, and must have a margin of 0{expected} (± {proof.tolerance:g}). The run was stopped, "
        "because what it would learn is not what you asked for. The SFT adapter, if there is one, is kept."
    )


def first_loss(settings: Dpo) -> float | None:
    """The loss of a policy that equals its reference, or None where it depends on the data (the sft term).

    From each loss's formula at log-ratio 0; β and ε (label smoothing) as set. In nats.
    """
    values = [at_start(loss, settings.beta, settings.label_smoothing) for loss in settings.losses]
    if any(value is None for value in values):
        return None
    weights = settings.loss_weights or (1.0,) * len(values)
    return sum(weight * value for weight, value in zip(weights, values, strict=True) if value is not None)


def at_start(loss: LossType, beta: float, smoothing: float) -> float | None:
    """One loss at log-ratio 0."""
    match loss:
        case "sigmoid" | "sigmoid_norm" | "robust" | "aot" | "aot_unpaired":
            return LN2  # -log σ(0); smoothing mixes two equal terms
        case "hinge" | "apo_zero" | "apo_down":
            return 1.0
        case "ipo":
            return 1 / (2 * beta) ** 2
        case "sppo_hard":
            return 1 / (2 * beta**2)
        case "nca_pair" | "bco_pair":
            return 2 * LN2
        case "exo_pair":  # KL(½, ½ ‖ 1-ε, ε)
            return -LN2 - 0.5 * math.log(1 - smoothing) - 0.5 * math.log(smoothing)
        case "discopop":  # ½ log-logistic + ½ exponential at 0
            return 0.5 * LN2 + 0.5
        case "sft":
            return None
