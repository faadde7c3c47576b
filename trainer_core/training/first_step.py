"""Verifies a preference stage's first step: it must start at its own reference, or with the predicted loss.

With a reference after another stage, that stage's adapter is the policy ("default"), and TRL keeps a frozen copy of it ("ref")
as the reference on the same base. In a first stage the reference is the base itself, with the adapter switched off.
Without a reference, TRL's loss of the first batch must equal the one from our own forward pass.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.nn import functional
from transformers import TrainerControl, TrainerState, TrainingArguments

from trainer_core.config.recipe import Lora, Precision
from trainer_core.errors import TrainingError
from trainer_core.methods.base import PairLogprobs, Training
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import ReferenceCheck
from trainer_core.texts import Text
from trainer_core.training.held_out_eval import pair_sums
from trainer_core.training.preserved_state import preserved_state
from trainer_core.training.progress import StepCallback, TrlLog
from trainer_core.training.token_rows import TokenRow, whole_sides

LOGIT_ROWS = 256
"""Positions whose logits are converted to 32 bit at a time."""
EXACT_TOLERANCE = 1e-5
"""Tolerance of loss and margin before the first step, in nats: the loss is computed in 32 bit."""
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.02, "nf4": 0.02}
"""Tolerance of loss and margin in the first step, in nats, at least …"""
NOISE: dict[Precision, float] = {"fp32": 1e-5, "bf16": 0.025, "nf4": 0.025}
"""… and this much per token, in nats: four times 0.006, the log-prob error from rounding to bfloat16 (2⁻⁹)."""


class VerifyFirstStep(StepCallback):
    """Checks weights and loss before the first step, and the first step's own numbers; a mismatch ends the run with its reason.

    Before the first step policy and reference run the same kernels, so they must be equal to the last bit. In the step itself,
    gradients need other kernels, whose rounding adds up over the tokens of an answer.

    Attributes:
        trainer: set before training begins.
    """

    trainer: Any = None

    def __init__(self, settings: Training, lora: Lora, precision: Precision, policy: Text, emit: EventLog):
        self.settings, self.precision, self.policy, self.emit = settings, precision, policy, emit
        # DoRA divides by a recomputed norm, so its fresh adapter equals the base only up to rounding
        self.tolerance = TOLERANCE[precision] if lora.dora else EXACT_TOLERANCE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if state.global_step:
            return
        method, rows = self.settings.method, self.trainer.train_dataset
        first = [rows[at] for at in range(min(args.per_device_train_batch_size, len(rows)))]
        if method.needs_reference:
            check_reference(model)
            with preserved_state(self.trainer):
                loss, margin = measure_loss(self.trainer, first)
            self.report_check(self.reference_check(loss, margin, self.tolerance, self.tolerance))
        elif predict := method.predict_loss:
            with preserved_state(self.trainer):
                loss = measure_loss(self.trainer, first)[0]
                predicted = predict(self.settings, [pair_logprobs(model, row) for row in first])
            self.report_check(self.prediction_check(loss, predicted))

    def after_step(self, logs: dict[str, float], state: TrainerState, control: TrainerControl) -> None:
        method = self.settings.method
        if state.global_step != 1 or not method.needs_reference:
            return
        first = TrlLog.model_validate(logs)
        margin = first.read_metrics(method.key).get("margin", math.nan)
        tokens, scale = max_answer_tokens(self.trainer.train_dataset), method.reward_scale(self.settings)
        noise = rounding_bound(scale, tokens, self.precision)
        bounds = (
            max(TOLERANCE[self.precision], times * noise) for times in (1.0, method.loss_steepness(self.settings))
        )
        check = self.reference_check(first.loss, margin, *bounds)
        if not check.holds:
            self.report_check(check)

    def report_check(self, check: ReferenceCheck) -> None:
        self.emit(check)
        if not check.holds:
            raise TrainingError(explain_mismatch(check))

    def reference_check(self, loss: float, margin: float, margin_bound: float, loss_bound: float) -> ReferenceCheck:
        expected = self.settings.method.initial_loss(self.settings)
        holds = abs(margin) <= margin_bound and (expected is None or abs(loss - expected) <= loss_bound)
        has_copy = "ref" in self.trainer.model.peft_config
        reference = Text("reference.copy", policy=self.policy) if has_copy else Text("reference.base")
        return self.build_check(loss, expected, margin, margin_bound, reference, holds)

    def prediction_check(self, loss: float, predicted: float) -> ReferenceCheck:
        rounding = 0.0 if self.precision == "fp32" else abs(predicted) * 2**-8  # TRL returns its own loss in bfloat16
        bound = TOLERANCE[self.precision] + rounding
        reference = Text("reference.predicted")
        return self.build_check(loss, predicted, None, bound, reference, abs(loss - predicted) <= bound)

    def build_check(
        self, loss: float, expected: float | None, margin: float | None, bound: float, reference: Text, holds: bool
    ) -> ReferenceCheck:
        stage = self.settings.method.key
        return ReferenceCheck(stage, loss, expected, margin, 0.0, bound, self.policy, reference, holds)


def measure_loss(trainer: Any, rows: list[TokenRow]) -> tuple[float, float]:
    """TRL's loss and margin of these pairs, without gradients."""
    found = pair_sums(trainer, rows)
    return found.loss / found.weight, found.mean_metrics().get("margin", math.nan)


def pair_logprobs(model: PeftModel, row: TokenRow) -> PairLogprobs:
    """The model's log-probs of a pair, each side by itself and without padding."""
    (chosen, asked), (rejected, asked_too) = whole_sides(row)
    one, other = token_logprobs(model, chosen), token_logprobs(model, rejected)
    better, worse = one[max(asked - 1, 0) :], other[max(asked_too - 1, 0) :]
    return PairLogprobs(float(better.sum()), len(better), float(worse.sum()), len(worse), float(one.sum()), len(one))


def token_logprobs(model: PeftModel, ids: list[int]) -> torch.Tensor:
    """The log-probability of each token but the first, in nats, 32 bit."""
    device = next(model.parameters()).device
    tokens = torch.tensor([ids], device=device)
    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits[0, :-1]
    parts = zip(logits.split(LOGIT_ROWS), tokens[0, 1:].split(LOGIT_ROWS), strict=True)
    return torch.cat([-functional.cross_entropy(part.float(), said, reduction="none") for part, said in parts])


def rounding_bound(beta: float, tokens: int, precision: Precision) -> float:
    """Tolerance of the first step's margin, in β·nats: token errors are independent, so they add up as √tokens."""
    return beta * NOISE[precision] * math.sqrt(tokens)


def max_answer_tokens(pairs: Dataset) -> int:
    """Tokens of both answers of the longest pair."""
    return max(
        len(chosen) + len(rejected) for chosen, rejected in zip(pairs["chosen_ids"], pairs["rejected_ids"], strict=True)
    )


def check_reference(model: PeftModel) -> None:
    """Require the reference to be a bitwise, frozen copy of the policy.

    Raises:
        TrainingError: names the first weight that differs or is trainable.
    """
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        if ".ref." not in name:
            continue
        if weight.requires_grad:
            raise TrainingError("reference.not_frozen", weight=name)
        if not torch.equal(weight, weights[name.replace(".ref.", ".default.")].to(weight.dtype)):
            raise TrainingError("reference.differs", weight=name)


def explain_mismatch(check: ReferenceCheck) -> Text:
    facts = {"stage": check.stage.upper(), "loss": check.loss, "tolerance": check.tolerance}
    if check.margin is None:
        return Text("reference.loss_not_predicted", expected=check.expected_loss, **facts)
    if check.expected_loss is None:
        return Text("reference.margin_not_zero", margin=check.margin, **facts)
    return Text("reference.first_step_differs", margin=check.margin, expected=check.expected_loss, **facts)
