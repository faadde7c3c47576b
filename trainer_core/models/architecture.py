"""A model's size from its config.json, without its weights: layers and parameter counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from trainer_core.config.recipe import TargetModules
from trainer_core.errors import ModelError

ATTENTION = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")
TARGETS: dict[TargetModules, tuple[str, ...]] = {"all-linear": (*ATTENTION, *MLP), "attention": ATTENTION, "mlp": MLP}
"""Layers that get an adapter, by the names of all architectures. Phi-3 merges several into qkv_proj and gate_up_proj."""
MIXTURE_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class LinearLayer:
    """One linear layer of a block: its name inside the block, input and output size, and bias."""

    path: str
    fan_in: int
    fan_out: int
    bias: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def weight_count(self) -> int:
        return self.fan_in * self.fan_out


@dataclass(frozen=True)
class Architecture:
    """Sizes of a causal language model. Widths: `query` = heads × head size, `key` = key-value heads × head size."""

    family: str
    layers: int
    hidden: int
    mlp: int
    query: int
    key: int
    vocabulary: int
    tied: bool
    context: int
    """Context length of the model, in tokens."""
    linears: tuple[LinearLayer, ...]
    """The linear layers of one block; all blocks are alike."""
    norms: int
    """Parameters in the norms of one block."""
    known: bool = True
    """False: an architecture without an exact rule here, counted like a Llama."""
    quantised: bool = False
    """The repository already holds NF4 weights."""
    double_quantised: bool = True
    kept_whole: int = 0
    """Linear weights that a "dynamic" NF4 repository stores in 16 bit."""
    vision: int = 0
    """Weights of an image encoder, which stay in 16 bit."""

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers in all blocks, without biases: the part that NF4 quantises and LoRA adapts."""
        return self.layers * sum(linear.weight_count for linear in self.linears)

    @property
    def embedding_weights(self) -> int:
        """Weights of the embedding table, plus the output head if it is not tied."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def norm_and_bias_weights(self) -> int:
        biases = sum(linear.fan_out for linear in self.linears if linear.bias)
        return self.layers * (self.norms + biases) + self.hidden

    @property
    def parameter_count(self) -> int:
        return self.linear_weights + self.embedding_weights + self.norm_and_bias_weights + self.vision


@dataclass(frozen=True)
class ModelFamily:
    """How an architecture differs from Llama, as transformers builds it.

    norms: block norms of the hidden width. qk_norm: a norm on queries and keys, per head or over the full width.
    biased: linear layers that always have a bias. fused: attention and MLP inputs are one layer each (Phi-3).
    defaults: values for keys that a config.json of this family may omit.
    """

    norms: int = 2
    qk_norm: Literal["none", "head", "full"] = "none"
    biased: tuple[str, ...] = ()
    fused: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


TIED_EMBEDDINGS = {"tie_word_embeddings": True}
GEMMA3 = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208}
FAMILIES = {
    "llama": ModelFamily(),
    "mistral": ModelFamily(defaults={"num_key_value_heads": 8}),
    "qwen2": ModelFamily(biased=("q_proj", "k_proj", "v_proj")),
    "qwen3": ModelFamily(qk_norm="head", defaults={"head_dim": 128}),
    "gemma": ModelFamily(defaults=TIED_EMBEDDINGS | {"head_dim": 256}),
    "gemma2": ModelFamily(norms=4, defaults=TIED_EMBEDDINGS | {"head_dim": 256}),
    "gemma3_text": ModelFamily(norms=4, qk_norm="head", defaults=TIED_EMBEDDINGS | GEMMA3),
    "phi3": ModelFamily(fused=True),
    "smollm3": ModelFamily(defaults=TIED_EMBEDDINGS),
    "granite": ModelFamily(),
    "olmo2": ModelFamily(qk_norm="full"),
}


class QuantisationConfig(BaseModel):
    """The part of `quantization_config` that changes the bytes per weight."""

    load_in_4bit: bool = False
    bnb_4bit_use_double_quant: bool = False
    llm_int8_skip_modules: list[str] | None = None


class VisionConfig(BaseModel):
    hidden_size: int = 0
    intermediate_size: int = 0
    num_hidden_layers: int = 0


class ConfigJson(BaseModel):
    """The keys of a config.json that determine the size. Optional keys have transformers' own default.

    The bounds are ten times the largest models that exist, so only a malicious file exceeds them.
    """

    model_type: str
    hidden_size: int = Field(gt=0, le=1 << 20)
    intermediate_size: int = Field(gt=0, le=1 << 23)
    num_hidden_layers: int = Field(gt=0, le=2000)
    num_attention_heads: int = Field(gt=0, le=1 << 16)
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int = Field(gt=0, le=1 << 26)
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    quantization_config: QuantisationConfig = QuantisationConfig()
    vision_config: VisionConfig = VisionConfig()


def parse_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture in a parsed config.json. A model with an image encoder counts its text part and the encoder.

    Raises:
        ModelError: a key is missing or not a number, or the model is a mixture of experts, which cannot be trained here.
    """
    text = {**config, **(config.get("text_config") or {})}
    for key in MIXTURE_KEYS:
        if (text.get(key) or 0) > 1:
            raise ModelError("architecture.mixture", experts=text[key])
    family = FAMILIES.get(text.get("model_type", ""))
    values = {key: value for key, value in text.items() if value is not None}
    try:
        parsed = ConfigJson.model_validate({**(family.defaults if family else {}), **values})
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError("architecture.bad_value", key=".".join(map(str, first["loc"])), reason=first["msg"]) from error
    return build_architecture(parsed, family or ModelFamily(), known=family is not None)


def build_architecture(config: ConfigJson, family: ModelFamily, known: bool) -> Architecture:
    head = config.head_dim or config.hidden_size // config.num_attention_heads
    query, key = head * config.num_attention_heads, head * (config.num_key_value_heads or config.num_attention_heads)
    linears = fused_linears(config, query, key) if family.fused else llama_linears(config, family, query, key)
    qk_norms = {"none": 0, "head": 2 * head, "full": query + key}[family.qk_norm]
    quantised = config.quantization_config
    return Architecture(
        family=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        mlp=config.intermediate_size,
        query=query,
        key=key,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
        context=config.max_position_embeddings,
        linears=linears,
        norms=family.norms * config.hidden_size + qk_norms,
        known=known,
        quantised=quantised.load_in_4bit,
        double_quantised=quantised.bnb_4bit_use_double_quant if quantised.load_in_4bit else True,
        kept_whole=unquantised_weights(linears, config.num_hidden_layers, quantised.llm_int8_skip_modules or []),
        vision=encoder_weights(config.vision_config),
    )


def llama_linears(config: ConfigJson, family: ModelFamily, query: int, key: int) -> tuple[LinearLayer, ...]:
    hidden, mlp = config.hidden_size, config.intermediate_size
    sizes = {
        "self_attn.q_proj": (hidden, query, config.attention_bias),
        "self_attn.k_proj": (hidden, key, config.attention_bias),
        "self_attn.v_proj": (hidden, key, config.attention_bias),
        "self_attn.o_proj": (query, hidden, config.attention_bias),
        "mlp.gate_proj": (hidden, mlp, config.mlp_bias),
        "mlp.up_proj": (hidden, mlp, config.mlp_bias),
        "mlp.down_proj": (mlp, hidden, config.mlp_bias),
    }
    return tuple(
        LinearLayer(path, into, out, bias or path.rpartition(".")[2] in family.biased)
        for path, (into, out, bias) in sizes.items()
    )


def fused_linears(config: ConfigJson, query: int, key: int) -> tuple[LinearLayer, ...]:
    hidden, mlp = config.hidden_size, config.intermediate_size
    return (
        LinearLayer("self_attn.qkv_proj", hidden, query + 2 * key),
        LinearLayer("self_attn.o_proj", query, hidden),
        LinearLayer("mlp.gate_up_proj", hidden, 2 * mlp),
        LinearLayer("mlp.down_proj", mlp, hidden),
    )


def unquantised_weights(linears: tuple[LinearLayer, ...], layers: int, patterns: list[str]) -> int:
    """Weights of the linear layers whose full name contains one of the patterns as whole, dotted words."""
    words = [re.compile(rf"(^|\.){re.escape(pattern)}(\.|$)") for pattern in patterns]
    names = ((f"model.layers.{layer}.{linear.path}", linear) for layer in range(layers) for linear in linears)
    return sum(linear.weight_count for name, linear in names if any(word.search(name) for word in words))


def encoder_weights(vision: VisionConfig) -> int:
    """A vision transformer's linear layers: four square ones and two MLP matrices per block."""
    square, mlp = 4 * vision.hidden_size**2, 2 * vision.hidden_size * vision.intermediate_size
    return vision.num_hidden_layers * (square + mlp)
