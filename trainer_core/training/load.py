"""Loads base models and adapters, in the right number format."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils
from unsloth import FastLanguageModel

from trainer_core.config.recipe import Lora, MemoryOptions, Precision
from trainer_core.errors import ModelError
from trainer_core.models import template_sandbox
from trainer_core.models.architecture import TARGETS
from trainer_core.planning import memory_model
from trainer_core.system import hardware
from trainer_core.texts import Text

template_sandbox.patch_transformers(chat_template_utils)


@dataclass(frozen=True)
class LoadedModel:
    """A base model with its tokenizer. `reason`: why this precision."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    precision: Precision
    reason: Text


def resolve_precision(precision: Precision) -> tuple[Precision, Text]:
    """The precision that "auto" selects on this device, and why."""
    return memory_model.resolve_base_format(
        precision, "cuda" if torch.cuda.is_available() else "cpu", hardware.has_bfloat16()
    )


def load_base(model: str, precision: Precision, max_length: int, memory: MemoryOptions) -> LoadedModel:
    """Load the base model through Unsloth, on the GPU if there is one.

    Raises:
        ModelError: it cannot be found or read.
    """
    precision, reason = resolve_precision(precision)
    compute = torch.float32 if precision == "fp32" else torch.bfloat16
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
        compute = torch.float16
    try:
        loaded, tokenizer = FastLanguageModel.from_pretrained(
            model_name=model,
            max_seq_length=max_length,
            dtype=compute,
            load_in_4bit=precision == "nf4",
            trust_remote_code=False,
            use_exact_model_name=True,  # never replace it with another repository
            **embedding_options(memory),
        )
    except (OSError, ValueError) as error:
        raise ModelError("model.not_loaded", model=model, reason=str(error)) from error
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)  # torch 2.13: DPO goes NaN with it (trl#7181)
    return LoadedModel(loaded, unwrap_tokenizer(tokenizer), precision, reason)


def unwrap_tokenizer(found: Any) -> PreTrainedTokenizerBase:
    """The tokenizer inside a processor, which multimodal families have around it."""
    return cast(PreTrainedTokenizerBase, getattr(found, "tokenizer", found))


def embedding_options(memory: MemoryOptions) -> dict[str, bool]:
    """Unsloth's option for the token table; empty to let Unsloth decide, and on the processor, which has one memory only."""
    if memory.offload_embedding == "auto" or not torch.cuda.is_available():
        return {}
    return {"offload_embedding": memory.offload_embedding == "on"}


def can_skip_layers(memory: MemoryOptions) -> bool:
    """May layers keep their activations while memory allows, instead of recomputing them?"""
    return torch.cuda.is_available() and memory.skip_layers == "auto"


def add_adapter(base: LoadedModel, lora: Lora, seed: int) -> PeftModel:
    """The base with a new, trainable adapter named "default"."""
    return FastLanguageModel.get_peft_model(
        base.model,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        target_modules=existing_layers(base.model, TARGETS[lora.targets]),
        bias="none",
        use_gradient_checkpointing="unsloth" if torch.cuda.is_available() else False,
        random_state=seed,
    )


@contextmanager
def preserve_adapter_dtype(model: PeftModel) -> Iterator[None]:
    """Context in which code, such as a trainer's constructor, cannot change the adapter's number format.

    TRL casts it to bfloat16 on a quantised base. DPO's steps of 5e-6 then round to nothing, and the policy differs from its
    reference from the start. On CUDA, Unsloth takes that cast out of TRL; on the processor it does not.
    """
    before = [(weight, weight.data) for weight in model.parameters() if weight.requires_grad]
    yield
    for weight, data in before:
        weight.data = data


def existing_layers(model: Any, names: Sequence[str]) -> list[str]:
    """Names that occur as layers of the model."""
    known = {path.rpartition(".")[2] for path, _ in model.named_modules()}
    return [name for name in names if name in known]


def save_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> int:
    """Save the trained adapter only: a `ref` adapter beside it would replace the policy on a later load. Returns bytes."""
    model.save_pretrained(str(folder), selected_adapters=["default"], safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def free_memory() -> None:
    """Free unreferenced memory, on the device too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
