"""Parts of the training package one by one, as JSON: in a process of its own, because importing it patches the process.

`python -m tests.support.training_parts`.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn


class Layer(nn.Module):
    gradient_checkpointing = False

    def __init__(self, recomputed: bool):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.gradient_checkpointing = recomputed


class Model(nn.Module):
    """Switches as a model of Unsloth's on CUDA does: `generate` leaves everything set for inference."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(True), Layer(False)])  # the second one is kept, not recomputed
        self.config = SimpleNamespace(use_cache=False)
        self.generation_config = SimpleNamespace(use_cache=True)
        self._saved_temp_tokenizer = SimpleNamespace(padding_side="right")
        self.layers[1].linear.eval()
        self.trained_again = 0

    def for_training(self) -> None:
        """As Unsloth's: every layer is recomputed, also those that were kept."""
        self.trained_again += 1
        self.train()
        for layer in self.layers:
            layer.gradient_checkpointing = True

    def generate(self) -> None:
        self.eval()
        for layer in self.layers:
            layer.gradient_checkpointing = False
        for module in self.modules():
            module._flag_for_generation = True
        self.config.use_cache = self.generation_config.use_cache = True
        self._saved_temp_tokenizer.padding_side = "left"
        random.random(), np.random.rand(), torch.rand(1)


def state(model: Model, tokenizer: Any) -> list[Any]:
    """Everything that an interruption may change."""
    flags = [
        [module.training, vars(module).get("gradient_checkpointing"), vars(module).get("_flag_for_generation")]
        for module in model.modules()
    ]
    caches = [model.config.use_cache, model.generation_config.use_cache]
    dice = [repr(random.getstate()), repr(np.random.get_state()), torch.random.get_rng_state().tolist()]
    return [flags, caches, tokenizer.padding_side, model._saved_temp_tokenizer.padding_side, dice]


def interrupted() -> dict[str, bool]:
    """Is everything as before after sample answers, after a failure in them, and inside what Unsloth does not know?"""
    from contextlib import nullcontext, suppress

    from trainer_core.training.preserved_state import preserved_mode, preserved_state

    model, tokenizer = Model(), SimpleNamespace(padding_side="right")
    trainer = SimpleNamespace(
        model=model, processing_class=tokenizer, compute_loss_context_manager=nullcontext, _metrics={"eval": {"a": [1]}}
    )
    before = state(model, tokenizer)
    with preserved_state(trainer):
        model.generate()
        tokenizer.padding_side = "left"
    after = state(model, tokenizer)
    with suppress(RuntimeError), preserved_mode(trainer):
        model.generate()
        raise RuntimeError
    failed = state(model, tokenizer)
    return {"after": after == before, "failed": failed == before, "asked unsloth": model.trained_again == 2}


def counted() -> dict[str, Any]:
    from datasets import Dataset

    from trainer_core.data.tokenize import EncodedPair
    from trainer_core.training.token_count import count_batch_tokens
    from trainer_core.training.token_rows import TOKEN_COLUMNS, as_labelled_sides

    ids = torch.ones(2, 5, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    chats = Dataset.from_dict({"input_ids": [[1] * 3, [1] * 9]})
    pairs = Dataset.from_dict({"prompt_ids": [[1] * 4], "chosen_ids": [[1] * 2], "rejected_ids": [[1] * 3]})
    labelled = as_labelled_sides(EncodedPair([1, 2, 3, 4, 5], [1, 2, 6], 2), 4)
    return {
        "labelled": labelled,
        "sides": TOKEN_COLUMNS["labelled sides"].count_tokens(Dataset.from_list([labelled]), 100),
        "padded": int(count_batch_tokens({"input_ids": ids, "attention_mask": mask})),
        "padding-free": int(count_batch_tokens({"input_ids": ids.view(1, -1)})),
        "chats": TOKEN_COLUMNS["labels"].count_tokens(chats, 8),
        "pairs": [*TOKEN_COLUMNS["answers"].count_tokens(pairs, 100), *TOKEN_COLUMNS["answers"].count_tokens(pairs, 6)],
    }


def bounds() -> dict[str, Any]:
    from trainer_core.methods.dpo import Dpo, loss_steepness
    from trainer_core.training.first_step import NOISE, rounding_bound

    return {
        "noise": NOISE,
        "64": rounding_bound(0.1, 64, "bf16"),
        "6400": rounding_bound(0.1, 6400, "bf16"),
        "sigmoid": loss_steepness(Dpo()),
        "ipo": loss_steepness(Dpo(losses=("ipo",), beta=0.1)),
        "mixed": loss_steepness(Dpo(losses=("sigmoid", "ipo"), loss_weights=(0.5, 0.1), beta=0.1)),
    }


class Policy(nn.Module):
    """A policy with one weight, and its reference."""

    def __init__(self, change: float = 0.0, frozen: bool = True):
        super().__init__()
        self.lora = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in ("default", "ref")})
        weight = self.lora["default"].weight.detach()
        self.lora["ref"].weight = nn.Parameter(weight + change, requires_grad=not frozen)
        self.peft_config = {"default": None, "ref": None}


def references() -> dict[str, Any]:
    """The code that ends a run before its first step, by the reference that it has; and which numbers hold."""
    from trainer_core.config.recipe import Lora
    from trainer_core.errors import TrainingError
    from trainer_core.methods.dpo import Dpo
    from trainer_core.texts import NO_TEXT
    from trainer_core.training.first_step import VerifyFirstStep, check_reference

    policies = {"equal": Policy(), "different": Policy(1e-6), "trainable": Policy(frozen=False)}
    ended = dict.fromkeys(policies, "")
    for name, policy in policies.items():
        try:
            check_reference(policy)  # type: ignore[arg-type]
        except TrainingError as error:
            ended[name] = error.text.code
    verify = VerifyFirstStep(Dpo(), Lora(), "fp32", NO_TEXT, lambda event: None)  # type: ignore[arg-type]
    verify.trainer = SimpleNamespace(model=policies["equal"])
    numbers = {"right": (math.log(2), 0.0), "margin": (math.log(2), 1e-4), "loss": (0.6932, 0.0)}
    bound = verify.tolerance
    return ended | {name: verify.reference_check(*two, bound, bound).holds for name, two in numbers.items()}


def refused() -> dict[str, str]:
    """What ends a run whose loss is computed on no token, and what is said of one that learns."""
    from transformers import TrainerControl, TrainerState

    from trainer_core.errors import TrainingError
    from trainer_core.training.learning_check import RequireLearning
    from trainer_core.training.token_count import count_label_tokens

    masked, learned = torch.tensor([[-100, -100]]), torch.tensor([[-100, 5]])
    said = {}
    for name, labels in {"masked": masked, "learned": learned}.items():
        trainer = SimpleNamespace(tokens_seen=2, tokens_learned=count_label_tokens({"labels": labels}))
        state = TrainerState(global_step=1, max_steps=9)
        try:
            logs = {"loss": 0.0, "grad_norm": 1.0}
            RequireLearning(trainer, "sft").on_log(None, state, TrainerControl(), logs)  # type: ignore[arg-type]
            said[name] = ""
        except TrainingError as error:
            said[name] = str(error)
    return said


def unwrapped() -> dict[str, bool]:
    from trainer_core.training.load import unwrap_tokenizer

    tokenizer = SimpleNamespace(backend_tokenizer=1)
    return {
        "of a processor": unwrap_tokenizer(SimpleNamespace(tokenizer=tokenizer)) is tokenizer,
        "itself": unwrap_tokenizer(tokenizer) is tokenizer,
    }


def saved() -> dict[str, list[str]]:
    """What lies in a checkpoint and in an adapter of a model with a policy and its reference: files, then tensors."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    from trainer_core.training.checkpointing import DurableCheckpoints
    from trainer_core.training.load import save_adapter

    lora = LoraConfig(target_modules=["linear"], r=1)
    model = get_peft_model(Layer(True), lora)  # type: ignore[arg-type]
    model.add_adapter("ref", lora)
    with tempfile.TemporaryDirectory() as folder:
        DurableCheckpoints._save(SimpleNamespace(model=model), f"{folder}/checkpoint")  # type: ignore[arg-type]
        save_adapter(model, SimpleNamespace(save_pretrained=lambda place: None), Path(folder, "adapter"))  # type: ignore[arg-type]
        return {
            place.name: [
                *sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.suffix != ".md"),
                *sorted(load_file(place / "adapter_model.safetensors")),
            ]
            for place in Path(folder).iterdir()
        }


if __name__ == "__main__":
    import trainer_core.training  # noqa: F401  (unsloth comes before what it patches)

    print(
        json.dumps(
            {
                "interrupted": interrupted(),
                "counted": counted(),
                "bounds": bounds(),
                "unwrapped": unwrapped(),
                "refused": refused(),
                "references": references(),
                "saved": saved(),
            }
        )
    )
