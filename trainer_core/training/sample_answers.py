"""Answers fixed prompts while a stage trains: by the base once, then at every checkpoint.

Decoding is greedy, so that two answers to a prompt differ by training alone; all prompts are in one batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments

from trainer_core.data import Message
from trainer_core.data.tokenize import tokenize_chat
from trainer_core.data.tokenizer import decode_answer
from trainer_core.methods.steps import SAVES_PER_STAGE, is_spaced_step
from trainer_core.runs.events import SampleAnswer, SampleAnswers
from trainer_core.training.preserved_state import preserved_state
from trainer_core.training.progress import ProgressCallback, StepCallback

MAX_TIME_SHARE = 0.10
"""Largest share of the stage's training time …"""
GRACE_SECONDS = 6.0
"""… but at least this much: the answers are the point of a first, short run."""
MIN_SAMPLES = 2
"""Fewest checkpoints of a stage with answers: half way and at its end, which makes four in SFT and DPO."""


class SampleCallback(StepCallback):
    """Answers the prompts at as many checkpoints as time allows, and at the stage's last step.

    Args:
        known: earlier answers of this run; the base answers only if this is empty.
        length: most tokens of an answer.
    """

    def __init__(
        self,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        length: int,
        progress: ProgressCallback,
        known: Sequence[SampleAnswers],
    ):
        self.trainer, self.tokenizer, self.length, self.progress = trainer, tokenizer, length, progress
        self.prompts, self.known = prompts, list(known)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self.known:
            self.emit_samples(0)

    def after_step(self, logs: dict[str, float], state: TrainerState, control: TrainerControl) -> None:
        if not self.progress.wants.should_stop and self.is_due(state):
            self.emit_samples(state.global_step)

    def is_due(self, state: TrainerState) -> bool:
        """Is this one of the checkpoints that the time budget allows?"""
        step, total = state.global_step, state.max_steps
        allowance = max(MAX_TIME_SHARE * self.progress.median_step_seconds * total, GRACE_SECONDS)
        affordable = min(SAVES_PER_STAGE, max(MIN_SAMPLES, int(allowance / max(self.known[-1].seconds, 0.001))))
        return is_spaced_step(step, total, SAVES_PER_STAGE) and is_spaced_step(
            step * SAVES_PER_STAGE // total, SAVES_PER_STAGE, affordable
        )

    def emit_samples(self, step: int) -> None:
        """Answer all prompts; at step 0 as the base, with the adapter switched off."""
        began = time.monotonic()
        with preserved_state(self.trainer), self.trainer.model.disable_adapter() if step == 0 else nullcontext():
            samples = generate_samples(self.trainer.model, self.tokenizer, self.prompts, self.length)
        seconds = time.monotonic() - began
        self.progress.exclude_time(seconds)
        self.known.append(SampleAnswers(self.progress.stage, step, samples, round(seconds, 3)))
        self.progress.emit(self.known[-1])


def generate_samples(model: Any, tokenizer: Any, prompts: Sequence[str], length: int) -> tuple[SampleAnswer, ...]:
    """Greedy answers to all prompts, in one batch padded on the left."""
    asked = [tokenize_chat(tokenizer, [Message("user", prompt)], asking=True).ids for prompt in prompts]
    width, ends = max(map(len, asked)), end_tokens(model, tokenizer)
    pad = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(one)) + one for one in asked], device=model.device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in asked], device=model.device)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        num_beams=1,
        max_new_tokens=length,
        eos_token_id=ends,
        pad_token_id=pad,
        use_cache=True,
    )
    return tuple(
        decode_answer(tokenizer, prompt, row, ends)
        for prompt, row in zip(prompts, out[:, width:].tolist(), strict=True)
    )


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """All end tokens, of the tokenizer and the model."""
    named = model.generation_config.eos_token_id
    several = named if isinstance(named, list) else [named]
    return list(dict.fromkeys(token for token in (tokenizer.eos_token_id, *several) if token is not None))
