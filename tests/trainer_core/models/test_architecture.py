"""Shapes against the real thing: models that transformers builds on the meta device, without weights."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from trainer_core.config.recipe import Lora, TargetModules
from trainer_core.errors import ModelError
from trainer_core.models.architecture import FAMILIES, TARGETS, parse_architecture
from trainer_core.planning.memory_model import adapter_parameters, adapter_sizes

PROJECT = Path(__file__).parents[3]
FILES = (PROJECT / "presets" / "models" / "catalogue.toml", PROJECT / "bench" / "suites" / "architectures.toml")
PUBLISHED = [model for file in FILES for model in tomllib.loads(file.read_text(encoding="utf-8"))["models"]]
TINY = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}
CASES: dict[str, dict[str, Any]] = {
    **{model["title"]: model["config"] for model in PUBLISHED},
    "llama, no grouping": {**TINY, "model_type": "llama", "num_key_value_heads": None},
    "llama with biases": {**TINY, "model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 24},
    "mistral, groups left out": {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
    | {"model_type": "mistral", "num_attention_heads": 16},
    "qwen2, tied": {**TINY, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3 with biases": {**TINY, "model_type": "qwen3", "attention_bias": True},
    "gemma": {**TINY, "model_type": "gemma"},
    "gemma2, own head size": {**TINY, "model_type": "gemma2", "head_dim": 48},
    "gemma3, almost all left out": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10_240,
        "num_hidden_layers": 34,
    },
    "phi3": {**TINY, "model_type": "phi3", "pad_token_id": 0},
    "smollm3": {**TINY, "model_type": "smollm3", "pad_token_id": 0},
    "granite, tied": {**TINY, "model_type": "granite", "tie_word_embeddings": True},
    "olmo2": {**TINY, "model_type": "olmo2"},
}


def on_meta(config: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {key: value for key, value in config.items() if value is not None}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**given))


@pytest.mark.real
@pytest.mark.parametrize("name", CASES)
def test_counts_are_those_of_the_model(name: str) -> None:
    model, shape = on_meta(CASES[name]), parse_architecture(CASES[name])
    linears = {path: layer for path, layer in model.named_modules() if type(layer).__name__ == "Linear"}
    in_blocks = [layer.weight.numel() for path, layer in linears.items() if path != "lm_head"]
    expected = [f"model.layers.{block}.{linear.path}" for block in range(shape.layers) for linear in shape.linears] + [
        "lm_head"
    ]
    tables = {id(layer.weight): layer.weight.numel() for layer in (model.get_input_embeddings(), model.lm_head)}
    assert shape.known
    assert shape.parameter_count == sum(weight.numel() for weight in model.parameters())
    assert shape.linear_weights == sum(in_blocks)
    assert sorted(linears) == sorted(expected)
    assert shape.embedding_weights == sum(tables.values())
    assert shape.context == CASES[name].get("max_position_embeddings", shape.context)


@pytest.mark.real
@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_adapters_are_those_that_peft_adds(name: str, targets: TargetModules) -> None:
    """Phi-3's fused layers get one adapter where other models get two or three. Two layers of each: all are alike."""
    from peft import LoraConfig, get_peft_model

    short = {**CASES[name], "num_hidden_layers": 2}
    model, shape = on_meta(short), parse_architecture(short)
    layers = {path.rpartition(".")[2] for path, _ in model.named_modules()}
    names = [layer for layer in TARGETS[targets] if layer in layers]
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules=names))
    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    lora = Lora(rank=8, alpha=8, targets=targets)
    assert adapter_parameters(shape, lora) == sum(weight.numel() for weight in trained)
    assert len(adapter_sizes(shape, lora)) * shape.layers == len(trained)
    assert targets != "all-linear" or {linear.name for linear in shape.linears} == set(names)


def test_at_least_eight_architectures_are_counted() -> None:
    counted = {case["model_type"] for case in CASES.values()}
    assert counted == set(FAMILIES) and len(counted) >= 8
    assert {parse_architecture(case).tied for case in CASES.values()} == {True, False}
    assert {parse_architecture(case).query > parse_architecture(case).key for case in CASES.values()} == {True, False}


def test_an_unknown_architecture_counts_as_a_llama_and_says_so() -> None:
    shape = parse_architecture({**TINY, "model_type": "brand_new"})
    assert not shape.known
    assert shape.parameter_count == parse_architecture({**TINY, "model_type": "llama"}).parameter_count


def test_a_model_that_reads_pictures_counts_both_parts() -> None:
    vision = {"hidden_size": 32, "intermediate_size": 100, "num_hidden_layers": 2}
    shape = parse_architecture(
        {"model_type": "gemma3", "text_config": {**TINY, "model_type": "gemma3_text"}, "vision_config": vision}
    )
    assert shape.vision == 2 * (4 * 32 * 32 + 2 * 32 * 100)
    assert (
        shape.parameter_count
        == parse_architecture({**TINY, "model_type": "gemma3_text"}).parameter_count + shape.vision
    )


def test_a_dynamic_repository_keeps_named_layers_whole() -> None:
    skip = ["lm_head", "model.layers.1.mlp", "o_proj", "layers.2.self_attn.q_proj", "p_proj"]
    shape = parse_architecture(
        {**TINY, "model_type": "llama", "quantization_config": {"load_in_4bit": True, "llm_int8_skip_modules": skip}}
    )
    o_proj, q_proj, mlp = 64 * 64, 64 * 64, 3 * 64 * 160
    assert shape.quantised
    assert not shape.double_quantised
    assert shape.kept_whole == 3 * o_proj + q_proj + mlp


@pytest.mark.parametrize(
    ("change", "code", "facts"),
    [
        ({"num_experts": 64}, "architecture.mixture", {"experts": 64}),
        ({"num_local_experts": 8}, "architecture.mixture", {"experts": 8}),
        ({"hidden_size": None}, "architecture.bad_value", {"key": "hidden_size", "reason": "Field required"}),
        ({"num_hidden_layers": "many"}, "architecture.bad_value", {"key": "num_hidden_layers"}),
        (
            {"vocab_size": 0},
            "architecture.bad_value",
            {"key": "vocab_size", "reason": "Input should be greater than 0"},
        ),
    ],
)
def test_what_cannot_be_counted_is_a_sentence(change: dict[str, Any], code: str, facts: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as refused:
        parse_architecture({**TINY, "model_type": "llama", **change})
    assert refused.value.text.code == code and facts.items() <= refused.value.text.params.items()
