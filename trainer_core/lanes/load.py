"""One base in memory with every lane's adapter on it, and the proof that each lane is what its name says."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from trainer_core.config import Lane, Precision
from trainer_core.errors import ModelError
from trainer_core.events import LaneProof

BASE = "__base__"
"""PEFT's name for a row of a mixed batch that no adapter touches."""
WEIGHTS = "adapter_model.safetensors"
PROOF_PROMPT = "What is a good day?"


@dataclass(frozen=True)
class Lanes:
    """The loaded model, and which of its adapters (by PEFT's name) each lane uses."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    lanes: tuple[Lane, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(lane.name for lane in self.lanes)

    def adapters(self, names: Sequence[str]) -> list[str]:
        """PEFT's adapter name for each of these lanes."""
        keys = {lane.name: f"lane{index}" if lane.adapter else BASE for index, lane in enumerate(self.lanes)}
        return [keys[name] for name in names]

    def forward(self, rows: Sequence[str], **inputs: Any) -> Any:
        """One pass; `rows` names the lane of each row of the batch."""
        mixed = {"adapter_names": self.adapters(rows)} if isinstance(self.model, PeftModel) else {}
        with torch.inference_mode():
            return self.model(**inputs, **mixed)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int:
        """Tokens the model can attend to."""
        return int(self.model.config.max_position_embeddings)

    @property
    def ends(self) -> frozenset[int]:
        """Every token that ends an answer: the model's and the tokenizer's."""
        named = self.model.generation_config.eos_token_id
        several = named if isinstance(named, list) else [named]
        return frozenset(token for token in (*several, self.tokenizer.eos_token_id) if token is not None)


def load(model: str, precision: Precision, lanes: Sequence[Lane]) -> Lanes:
    """The base, once, with all adapters of the lanes.

    Raises:
        ModelError: naming the model or adapter that cannot be loaded.
    """
    for lane in lanes:
        if lane.adapter:
            check_adapter(Path(lane.adapter), lane.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        base: Any = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, **number_format(precision))
    except (OSError, ValueError) as error:
        raise ModelError(f"The model {model} cannot be loaded: {error}") from error
    for index, lane in enumerate(lanes):
        if lane.adapter:
            base = with_adapter(base, Path(lane.adapter), f"lane{index}")
    return Lanes(base.eval(), tokenizer, tuple(lanes))


def with_adapter(model: Any, folder: Path, name: str) -> PeftModel:
    """The model with one more adapter.

    Raises:
        ModelError: its shapes do not fit the base.
    """
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name)
            return model
        return PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(f"The adapter in {folder} does not fit this base model: {str(error)[:300]}") from error


def number_format(precision: Precision) -> dict[str, Any]:
    """How the base is held. "auto" is 4-bit on a GPU and 32-bit on the processor."""
    on_gpu = torch.cuda.is_available()
    if precision == "auto":
        precision = "nf4" if on_gpu else "fp32"
    place = {"device_map": {"": 0}} if on_gpu else {}
    if precision == "nf4":
        compute = torch.bfloat16
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
        return {"quantization_config": four_bit, "dtype": compute, **place}
    return {"dtype": torch.float32 if precision == "fp32" else torch.bfloat16, **place}


def check_adapter(folder: Path, lane: str) -> None:
    """Raise ModelError unless the folder holds a safetensors LoRA adapter."""
    if not folder.is_dir():
        raise ModelError(f"{lane}: there is no adapter folder {folder}.")
    if not (folder / WEIGHTS).exists():
        raise ModelError(f"{lane}: {folder.name} has no {WEIGHTS}. Pickled adapters are refused: they can run code.")
    try:
        kind = PeftConfig.from_pretrained(str(folder)).peft_type
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{lane}: {folder.name}/adapter_config.json cannot be read: {error}") from error
    if kind != "LORA":
        raise ModelError(f"{lane}: {folder.name} is a {kind} adapter; Compare takes LoRA adapters.")


def proofs(lanes: Lanes) -> tuple[LaneProof, ...]:
    """Each lane's adapter hash (first 12 hex digits), and how far its logits lie from the base's on a fixed prompt."""
    ids = lanes.tokenizer(PROOF_PROMPT, return_tensors="pt").input_ids.to(lanes.device)
    base = base_logits(lanes, ids)
    logits = lanes.forward(lanes.names, input_ids=ids.expand(len(lanes.lanes), -1)).logits[:, -1].float()
    return tuple(
        LaneProof(lane.name, adapter_hash(lane), (logits[row] - base).abs().max().item())
        for row, lane in enumerate(lanes.lanes)
    )


def base_logits(lanes: Lanes, ids: torch.Tensor) -> torch.Tensor:
    """The base's logits for the last position, computed in a batch of the same size so that rounding is the same."""
    batch = ids.expand(len(lanes.lanes), -1)
    mixed = {"adapter_names": [BASE] * len(lanes.lanes)} if isinstance(lanes.model, PeftModel) else {}
    with torch.inference_mode():
        return lanes.model(input_ids=batch, **mixed).logits[0, -1].float()


def adapter_hash(lane: Lane) -> str:
    if not lane.adapter:
        return ""
    with (Path(lane.adapter) / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
