"""Direct preference optimisation, and the check that it starts at its own reference.

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

from trainer_core.config.recipe import Precision, Recipe
from trainer_core.errors import TrainingError
from trainer_core.methods.dpo import Dpo, LossType
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import ReferenceCheck
from trainer_core.training import held_out_eval, load, row_lengths, trl_arguments
from trainer_core.training.checkpointing import DpoTrainer
from trainer_core.training.length_sorting import BATCH_COUPLED_LOSSES
from trainer_core.training.preserved_state import preserved_state
from trainer_core.training.progress import TrlLog

LN2 = math.log(2)
EXACT_TOLERANCE = 1e-5
"""How far loss and margin may be off before the first step, in nats: the loss itself is computed in 32 bit."""
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.02, "nf4": 0.02}
"""How far those of the first step may be off in any case, in nats …"""
NOISE: dict[Precision, float] = {"fp32": 1e-5, "bf16": 0.025, "nf4": 0.025}
"""… and by this for a token, in nats: four times what rounding to bfloat16 (2⁻⁹) moves the log-prob of a token by, 0.006."""


def build_dpo_trainer(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    given: Dataset,
    recipe: Recipe,
    scratch: Path,
    callbacks: list[TrainerCallback],
) -> DpoTrainer:
    """TRL's trainer on pairs, or on the tokens that it made of them before.

    On a fresh adapter the reference is the base itself, so the copy TRL makes is dropped again.
    """
    fresh = is_fresh(model)
    with load.preserve_adapter_dtype(model):
        built = DpoTrainer(
            model=model,
            args=DPOConfig(
                **trl_arguments.common_arguments(recipe.dpo, recipe.seed, scratch),
                beta=recipe.dpo.beta,
                loss_type=list(recipe.dpo.losses),
                loss_weights=list(recipe.dpo.loss_weights) if recipe.dpo.loss_weights else None,
                label_smoothing=recipe.dpo.label_smoothing,
            ),
            train_dataset=given,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
    if fresh:
        model.delete_adapter("ref")
    built.settings = recipe.dpo
    built.row_lengths = row_lengths.count_tokens(built.train_dataset, "pairs", recipe.dpo.max_length)
    built.sorts = recipe.memory.sort_rows == "auto" and not BATCH_COUPLED_LOSSES & set(recipe.dpo.losses)
    return built


def is_fresh(model: PeftModel) -> bool:
    """Does the adapter still change nothing? LoRA starts with B = 0."""
    return all(not weight.any() for name, weight in model.named_parameters() if "lora_B.default" in name)


class VerifyFirstStep(TrainerCallback):
    """Checks weights and numbers before the first step, and the first step's own numbers; a mismatch ends the run and says why.

    Before the first step policy and reference are computed in the same way, so they must be equal to the last bit. In the step
    itself they are not: with gradients, other kernels run, and their rounding adds up over the tokens of an answer.

    Attributes:
        trainer: set before training begins.
    """

    trainer: Any = None

    def __init__(self, recipe: Recipe, precision: Precision, policy: str, emit: EventLog):
        self.settings, self.precision, self.policy, self.emit = recipe.dpo, precision, policy, emit
        # DoRA divides by a norm that it computes anew, so its fresh adapter equals the base only up to rounding
        self.tolerance = TOLERANCE[precision] if recipe.lora.dora else EXACT_TOLERANCE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if state.global_step:
            return
        check_reference(model)
        count = args.per_device_train_batch_size
        first = [self.trainer.train_dataset[at] for at in range(min(count, len(self.trainer.train_dataset)))]
        with preserved_state(self.trainer):
            found = held_out_eval.dpo_sums(self.trainer, first)
        self.report_check(
            self.build_check(found.loss / found.weight, found.margin / found.weight, self.tolerance, self.tolerance)
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if state.global_step != 1 or not logs or "loss" not in logs:
            return
        first = TrlLog.model_validate(logs)
        noise = rounding_bound(self.settings.beta, max_answer_tokens(self.trainer.train_dataset), self.precision)
        bounds = (max(TOLERANCE[self.precision], steep * noise) for steep in (1.0, loss_steepness(self.settings)))
        proof = self.build_check(first.loss, first.margin if first.margin is not None else math.nan, *bounds)
        if not proof.holds:
            self.report_check(proof)

    def report_check(self, proof: ReferenceCheck) -> None:
        self.emit(proof)
        if not proof.holds:
            raise TrainingError(explain_mismatch(proof))

    def build_check(self, loss: float, margin: float, margin_bound: float, loss_bound: float) -> ReferenceCheck:
        expected = expected_first_loss(self.settings)
        holds = abs(margin) <= margin_bound and (expected is None or abs(loss - expected) <= loss_bound)
        has_copy = "ref" in self.trainer.model.peft_config
        return ReferenceCheck(
            stage="dpo",
            loss=loss,
            expected_loss=expected,
            margin=margin,
            expected_margin=0.0,
            tolerance=margin_bound,
            policy=self.policy,
            reference=f"frozen copy of {self.policy}" if has_copy else "the base model, adapter switched off",
            holds=holds,
        )


def rounding_bound(beta: float, tokens: int, precision: Precision) -> float:
    """How far the first step's margin may be off, in β·nats: the errors of the tokens are independent and add up as √tokens."""
    return beta * NOISE[precision] * math.sqrt(tokens)


def max_answer_tokens(pairs: Dataset) -> int:
    """Tokens of the two answers of the pair that has the most."""
    return max(
        len(chosen) + len(rejected) for chosen, rejected in zip(pairs["chosen_ids"], pairs["rejected_ids"], strict=True)
    )


def loss_steepness(settings: Dpo) -> float:
    """How much faster than the margin the loss may move at its start: |dloss/dmargin|, at least 1.

    The squared losses move by 1/β for each nat of the log-ratio, and the margin by β; all others by 1 for each unit of the margin
    at most.
    """
    weights = settings.loss_weights or (1.0,) * len(settings.losses)
    each = (settings.beta**-2 if loss in ("ipo", "sppo_hard") else 1.0 for loss in settings.losses)
    return max(1.0, sum(weight * steep for weight, steep in zip(weights, each, strict=True)))


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


def explain_mismatch(proof: ReferenceCheck) -> str:
    expected = "" if proof.expected_loss is None else f" and a loss of {proof.expected_loss:.4f}"
    return (
        f"DPO did not start at its reference: the first step has a margin of {proof.margin:.4f} and a loss of "
        f"{proof.loss:.4f}, and must have a margin of 0{expected} (± {proof.tolerance:g}). The run was stopped, "
        "because what it would learn is not what you asked for. The SFT adapter, if there is one, is kept."
    )


def expected_first_loss(settings: Dpo) -> float | None:
    """The loss of a policy that equals its reference, or None where it depends on the data (the sft term).

    From each loss's formula at log-ratio 0; β and ε (label smoothing) as set. In nats.
    """
    values = [initial_loss(loss, settings.beta, settings.label_smoothing) for loss in settings.losses]
    if any(value is None for value in values):
        return None
    weights = settings.loss_weights or (1.0,) * len(values)
    return sum(weight * value for weight, value in zip(weights, values, strict=True) if value is not None)


def initial_loss(loss: LossType, beta: float, smoothing: float) -> float | None:
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
