"""One base in memory with every lane's adapter on it, and the proof that each lane is what its name says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from trainer_core.config import Lane, Precision
from trainer_core.errors import ConfigError, ModelError
from trainer_core.events import LaneProof
from trainer_core.lanes import adapters

BASE = "__base__"
"""PEFT's name for a row of a mixed batch that no adapter touches."""
PROOF_PROMPT = "What is a good day?"


@dataclass(frozen=True)
class Lanes:
    """The loaded model, and which of its adapters each lane uses."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    lanes: tuple[Lane, ...]
    routing: adapters.Routing

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(lane.name for lane in self.lanes)

    @cached_property
    def adapters(self) -> dict[str, str]:
        """Lane → PEFT's name of its adapter."""
        return {lane.name: key_of(index) if lane.adapter else BASE for index, lane in enumerate(self.lanes)}

    def forward(self, rows: Sequence[str], **inputs: Any) -> Any:
        """One pass; `rows` names the lane of each row of the batch."""
        self.routing.names = [self.adapters[name] for name in rows]
        return self.run(**inputs)

    def forward_base(self, rows: int, **inputs: Any) -> Any:
        """One pass of the base alone, whether or not it is among the lanes."""
        self.routing.names = [BASE] * rows
        return self.run(**inputs)

    def run(self, **inputs: Any) -> Any:
        with torch.inference_mode():
            return self.model(**inputs)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int:
        """Tokens the model can attend to."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def vocabulary(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Every token that ends an answer: the model's and the tokenizer's."""
        named = self.model.generation_config.eos_token_id
        several = named if isinstance(named, list) else [named]
        return frozenset(token for token in (*several, self.tokenizer.eos_token_id) if token is not None)


def key_of(index: int) -> str:
    """PEFT's name for the adapter of a lane; lanes may have names that PEFT would not take."""
    return f"lane{index}"


def load(model: str, precision: Precision, lanes: Sequence[Lane]) -> Lanes:
    """The base, once, with all adapters of the lanes.

    Raises:
        ConfigError: two lanes have one name.
        ModelError: naming the model or adapter that cannot be loaded.
    """
    name, count = Counter(lane.name for lane in lanes).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"{count} lanes are called {name!r}. Give each lane a name of its own.")
    try:
        check_adapters(model, lanes)
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        base: Any = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, **number_format(precision))
    except (OSError, ValueError) as error:
        raise ModelError(f"The model {model} cannot be loaded: {error}") from error
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)  # torch 2.13: NaN with padded batches (trl#7181)
    for index, lane in enumerate(lanes):
        if lane.adapter:
            base = with_adapter(base, lane, key_of(index))
    base.eval()
    base.get_output_embeddings().register_forward_pre_hook(in_one_piece)
    return Lanes(base, with_template(tokenizer, lanes), tuple(lanes), adapters.Routing(base))


def with_template(tokenizer: PreTrainedTokenizerBase, lanes: Sequence[Lane]) -> PreTrainedTokenizerBase:
    """An adapter trained with a template that its base lacks carries it along; it then holds for every lane."""
    saved = (Path(lane.adapter) / "chat_template.jinja" for lane in lanes if lane.adapter)
    if not tokenizer.chat_template and (file := next(filter(Path.is_file, saved), None)):
        tokenizer.chat_template = file.read_text(encoding="utf-8")
    return tokenizer


def in_one_piece(module: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Contiguous input for the head. On a slice of the positions the processor would copy the head's weights for every row."""
    return (args[0].contiguous(),)


def check_adapters(model: str, lanes: Sequence[Lane]) -> None:
    """See `adapters.check`; against the base's outline, so that a wrong one is told before minutes of loading."""
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    for lane in lanes:
        adapters.check(lane, outline)


def with_adapter(model: Any, lane: Lane, key: str) -> PeftModel:
    """The model with one more adapter.

    Raises:
        ModelError: it does not fit the base.
    """
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(lane.adapter), adapter_name=key)
        else:
            model = PeftModel.from_pretrained(model, str(lane.adapter), adapter_name=key)
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(f"{lane.name}: {lane.adapter} does not fit this base model: {str(error)[:300]}") from error
    adapters.check_loaded(model, key, lane)
    adapters.settle_dora(model, key)
    return model


def number_format(precision: Precision) -> dict[str, Any]:
    """How the base is held. "auto" is 4-bit on a GPU and 32-bit on the processor."""
    on_gpu = torch.cuda.is_available()
    if precision == "auto":
        precision = "nf4" if on_gpu else "fp32"
    place = {"device_map": {"": 0}} if on_gpu else {}
    half = torch.float16 if on_gpu and not torch.cuda.is_bf16_supported() else torch.bfloat16
    if precision == "nf4":
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=half,
        )
        return {"quantization_config": four_bit, "dtype": half, **place}
    return {"dtype": torch.float32 if precision == "fp32" else half, **place}


def proofs(lanes: Lanes) -> tuple[LaneProof, ...]:
    """Each lane's adapter hash, and how far its logits lie from the base's on a fixed prompt.

    The base goes through a batch of the same size, so that rounding is the same and no adapter gives exactly 0.
    """
    count = len(lanes.lanes)
    ids = lanes.tokenizer(PROOF_PROMPT, return_tensors="pt")["input_ids"].to(lanes.device).expand(count, -1)
    base = lanes.forward_base(count, input_ids=ids).logits.float()
    own = lanes.forward(lanes.names, input_ids=ids).logits.float()
    difference = (own - base).abs().flatten(1).amax(1).tolist()
    return tuple(
        LaneProof(lane.name, adapters.sha256(lane), far) for lane, far in zip(lanes.lanes, difference, strict=True)
    )
