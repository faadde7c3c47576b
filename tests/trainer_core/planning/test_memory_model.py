"""The memory plan against what can be counted for real, against published peaks, and against peaks measured on a processor."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.readings import card, replay
from trainer_core.config.recipe import Lora, MethodChain, Recipe
from trainer_core.methods.dpo import Dpo
from trainer_core.methods.sft import Sft
from trainer_core.models.architecture import Architecture, LinearLayer, parse_architecture
from trainer_core.planning.memory_model import (
    BaseFormat,
    MemoryCoefficients,
    MemoryEstimate,
    MemoryPart,
    StageSetup,
    adapter_parameters,
    certain_bytes,
    disk_parts,
    estimate_memory,
    fit_verdict,
    linear_bytes,
    nf4_bytes,
    optimiser_bytes,
    peak_estimate,
    resolve_base_format,
    setups_for_machine,
    unquantised_bytes,
    with_batch,
)
from trainer_core.system.format import GIB
from trainer_core.system.hardware import detect_machine
from trainer_core.texts import Text

CATALOGUE = Path(__file__).parents[3] / "presets" / "models" / "catalogue.toml"
SHAPES = {
    model["title"]: parse_architecture(model["config"])
    for model in tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))["models"]
}
MIB = 2**20


def llama(**sizes: Any) -> Architecture:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    values = dict(zip(names, sizes.pop("sizes"), strict=True))
    return parse_architecture(
        {"model_type": "llama", "vocab_size": 49_152, "tie_word_embeddings": True, **values, **sizes}
    )


LLAMA2 = llama(sizes=(4096, 11008, 32, 32, 32), vocab_size=32_000, tie_word_embeddings=False)
TINY = llama(sizes=(256, 640, 3, 4, 2), vocab_size=512)
DECEMBER_2024 = MemoryCoefficients(activation=6, head=0.5 * GIB, context=0.55 * GIB, fragmentation=0)


def setup(
    shape: Architecture, length: int, batch: int = 1, rank: int = 16, base: BaseFormat = "nf4", **more: Any
) -> StageSetup:
    return StageSetup(shape, Lora(rank=rank), Sft(batch_size=batch, max_length=length), base, **more)


PUBLISHED = tomllib.loads(
    (Path(__file__).parents[3] / "bench" / "suites" / "published.toml").read_text(encoding="utf-8")
)["points"]
PAPER = [8.00, 12.03, 16.06, 24.13, 80.6, 47.8, 80.8, 7.65, 4.42]
"""What the formula gave in the design paper at each of the published points."""


@pytest.mark.parametrize(("point", "paper"), list(zip(PUBLISHED, PAPER, strict=True)))
def test_published_peaks(point: dict[str, Any], paper: float) -> None:
    wanted = setup(SHAPES[point["model"]], point["length"], point["rows"], point["rank"])
    peak = estimate_memory(wanted, DECEMBER_2024, DECEMBER_2024).upper / GIB
    assert peak == pytest.approx(point["gb"], rel=point["error"])
    assert peak == pytest.approx(paper, rel=0.002)


LLAMA_FACTORY = [
    (1024, 5, 5.35),
    (2048, 6, 5.70),
    (4096, 7, 6.39),
    (8192, 8, 7.77),
    (16384, 10, 10.5),
    (32768, 16, 16.1),
]


@pytest.mark.parametrize(("length", "published", "paper"), [*LLAMA_FACTORY, (65536, 25, 27.1), (100_000, 37, 38.7)])
def test_published_peaks_of_a_trainer_that_builds_the_logits(length: int, published: float, paper: float) -> None:
    prior = replace(DECEMBER_2024, unfused=5.4)
    peak = estimate_memory(setup(LLAMA2, length, rank=8), prior, prior).upper / GIB
    assert peak == pytest.approx(published, abs=0.6, rel=0.09)  # they are published in whole gigabytes
    assert peak == pytest.approx(paper, abs=0.05)


STATIC = {  # model: GB without activations, NF4 and bf16; activation slope in KiB per token at a = 4 and 6
    "Qwen2.5 0.5B": (1.6, 2.1, 50, 69),
    "Qwen2.5 1.5B": (2.3, 4.1, 91, 126),
    "Llama 3.2 3B": (3.5, 7.3, 106, 138),
    "Qwen3 4B": (3.9, 8.9, 111, 149),
    "Llama 3.1 8B": (7.0, 16.4, 168, 224),
    "Qwen3 14B": (11.2, 29.2, 206, 274),
    "Qwen3 32B": (20.7, 63.3, 270, 370),
    "Llama 3.3 70B": (40.7, 134, 336, 448),
}


@pytest.mark.parametrize("model", STATIC)
def test_static_part_and_slope_of_the_design_paper(model: str) -> None:
    nf4, bf16, low, high = STATIC[model]
    for base, expected in (("nf4", nf4), ("bf16", bf16)):
        parts = estimate_memory(setup(SHAPES[model], 4096, base=base), DECEMBER_2024, DECEMBER_2024).parts
        assert sum(p.upper for p in parts if p.name != "Activations") / GIB == pytest.approx(
            expected, abs=0.06, rel=0.003
        )
    for activation, expected in ((4, low), (6, high)):
        prior = replace(DECEMBER_2024, activation=activation)
        long, short = (estimate_memory(setup(SHAPES[model], n), prior, prior).upper for n in (9000, 5000))
        assert (long - short) / 4000 / 1024 == pytest.approx(expected, abs=0.6)


def test_a_real_repository_has_these_bytes() -> None:
    """The weights file of unsloth/Qwen3-4B-Instruct-2507-bnb-4bit: 2,653,133,894 bytes, 0.01 % of them the file's header."""
    qwen = SHAPES["Qwen3 4B"]
    assert linear_bytes(qwen, "nf4") + unquantised_bytes(setup(qwen, 512)) == pytest.approx(2_653_133_894, rel=1e-4)


@pytest.mark.real
@pytest.mark.parametrize("size", [(64, 64), (576, 192), (576, 1536), (100, 36), (4096, 1024), (7, 9)])
@pytest.mark.parametrize("double", [True, False])
def test_nf4_bytes_are_those_of_bitsandbytes(size: tuple[int, int], double: bool) -> None:
    import torch
    from bitsandbytes.nn import Linear4bit

    fan_in, fan_out = size
    layer = Linear4bit(fan_in, fan_out, bias=False, quant_type="nf4", compress_statistics=double)
    layer.weight.data = torch.randn(fan_out, fan_in)
    weight = layer.to("cpu").weight
    state = weight.quant_state
    tensors = [weight.data, state.absmax, state.code]
    tensors += [state.offset, state.state2.absmax, state.state2.code] if double else []
    assert nf4_bytes(LinearLayer("mlp.x", fan_in, fan_out), double) == sum(
        t.numel() * t.element_size() for t in tensors
    )


@pytest.fixture(scope="module")
def tiny_model() -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 3, "num_attention_heads": 4}
    rest = {"num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes, **rest))


@pytest.mark.real
@pytest.mark.parametrize(
    "lora",
    [Lora(rank=4), Lora(rank=16), Lora(rank=8, dora=True), Lora(rank=8, targets="attention"), Lora(targets="mlp")],
)
@pytest.mark.parametrize("optimiser", ["adamw_torch", "adamw_8bit"])
def test_adapter_and_optimiser_bytes_are_those_of_the_real_state(tiny_model: Any, lora: Lora, optimiser: str) -> None:
    import torch
    from bitsandbytes.optim import AdamW8bit
    from peft import LoraConfig, get_peft_model

    names = {
        "all-linear": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "attention": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "mlp": ["gate_proj", "up_proj", "down_proj"],
    }[lora.targets]
    model = get_peft_model(tiny_model, LoraConfig(r=lora.rank, target_modules=names, use_dora=lora.dora))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.grad = torch.randn_like(weight)
    made = (AdamW8bit if optimiser == "adamw_8bit" else torch.optim.AdamW)(trained, lr=1e-3)
    made.step()
    states = [value for state in made.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    bytes_held = {value.data_ptr(): value.numel() * value.element_size() for value in states}  # tables are shared
    model.unload()
    planned = StageSetup(TINY, lora, Sft(optimiser=optimiser), "bf16")
    assert adapter_parameters(TINY, lora) == sum(weight.numel() for weight in trained)
    assert optimiser_bytes(planned) == sum(bytes_held.values())
    parts = {part.name: part for part in estimate_memory(planned).parts}
    held = sum(2 * weight.numel() * weight.element_size() for weight in trained)
    assert parts["Adapter and gradients"] == MemoryPart("Adapter and gradients", held, held)
    assert parts["Optimiser"].lower == parts["Optimiser"].upper == sum(bytes_held.values())


SMOL = {
    "135M": llama(sizes=(576, 1536, 30, 9, 3)),
    "10 of its layers": llama(sizes=(576, 1536, 10, 9, 3)),
    "wide": llama(sizes=(1536, 4096, 8, 12, 4), head_dim=128),
}
MEASURED = [  # peak resident MiB of two steps: unsloth 2026.10.9, torch 2.13, 2 cores (AMD EPYC), rank 16
    ("135M", Sft, 2, 128, "fp32", 1785),
    ("135M", Sft, 1, 512, "fp32", 2375),
    ("135M", Sft, 4, 256, "fp32", 3259),
    ("135M", Sft, 4, 512, "fp32", 5739),
    ("135M", Sft, 8, 256, "fp32", 5765),
    ("135M", Sft, 2, 1024, "fp32", 5762),
    ("135M", Dpo, 2, 256, "fp32", 3665),
    ("135M", Dpo, 4, 256, "fp32", 5895),
    ("135M", Sft, 4, 512, "bf16", 4235),
    ("135M", Sft, 8, 512, "bf16", 7081),
    ("135M", Sft, 4, 512, "nf4", 3540),
    ("135M", Sft, 8, 512, "nf4", 5468),
    ("10 of its layers", Sft, 4, 512, "fp32", 2552),
    ("10 of its layers", Dpo, 2, 512, "fp32", 2691),
    ("10 of its layers", Sft, 4, 512, "bf16", 2060),
    ("10 of its layers", Sft, 4, 512, "nf4", 1676),
    ("wide", Sft, 4, 512, "fp32", 4981),
    ("wide", Sft, 4, 512, "bf16", 3659),
    ("wide", Sft, 4, 512, "nf4", 3320),
]


@pytest.mark.parametrize(("model", "method", "batch", "length", "base", "peak"), MEASURED)
def test_peaks_measured_on_a_processor(
    model: str, method: type[Sft], batch: int, length: int, base: BaseFormat, peak: int
) -> None:
    planned = estimate_memory(StageSetup(SMOL[model], Lora(), method(batch_size=batch, max_length=length), base, "cpu"))
    assert planned.lower / MIB <= peak <= planned.upper / MIB
    assert planned.middle / MIB == pytest.approx(peak, rel=0.2 if base == "nf4" else 0.12)
    assert not planned.host


def test_a_pair_is_two_rows_and_the_reference_one_more_adapter() -> None:
    shape, lora = SHAPES["Llama 3.1 8B"], Lora()
    sft = estimate_memory(StageSetup(shape, lora, Sft(batch_size=4, max_length=1024), "nf4"))
    pairs = StageSetup(shape, lora, Dpo(batch_size=2, max_length=1024), "nf4")
    assert estimate_memory(pairs) == sft
    copy = {part.name: part.upper for part in estimate_memory(replace(pairs, reference=True)).parts}["Reference copy"]
    assert copy == 4 * adapter_parameters(shape, lora) == 167_772_160


def test_short_rows_cost_what_they_are_unless_packed() -> None:
    short = setup(TINY, 4096, batch=2, longest=100)
    packed = replace(short, training=short.training.model_copy(update={"packing": True}))
    assert (short.batch_tokens, packed.batch_tokens, replace(short, longest=9000).batch_tokens) == (200, 8192, 8192)


def test_long_rows_are_checkpointed_in_main_memory() -> None:
    shape = SHAPES["Llama 3.1 8B"]
    on_card, in_main = (estimate_memory(setup(shape, length)) for length in (511, 512))
    assert part(on_card, "Checkpoints") == 32 * 511 * 4096 * 2
    assert part(in_main, "Checkpoints") == 0
    assert next(p.upper for p in in_main.host if p.name == "Offloaded checkpoints") == 32 * 512 * 4096 * 2
    odd = estimate_memory(setup(shape, 513))
    assert next(p.upper for p in odd.host if p.name == "Offloaded checkpoints") == 32 * 1024 * 4096 * 2


def part(planned: MemoryEstimate, name: str) -> int:
    return sum(one.upper for one in planned.parts if one.name == name)


def test_levers() -> None:
    shape = SHAPES["Llama 3.1 8B"]
    plain = setup(shape, 2048)
    assert unquantised_bytes(plain) - unquantised_bytes(replace(plain, offload_embedding=True)) == 128_256 * 4096 * 2
    tied = setup(SHAPES["Qwen3 4B"], 2048)
    assert estimate_memory(replace(tied, offload_embedding=True)) == estimate_memory(tied)
    kept = estimate_memory(replace(plain, skip_layers=3))
    assert part(kept, "Kept layers") == pytest.approx(
        1.08 * 1.2 * 3 * 2048 * 2 * (2 * 14_336 + 8 * 4096 + 2 * 1024), abs=1
    )
    assert part(estimate_memory(setup(shape, 2048, base="bf16")), "Unpacked weights") == 0
    halved = with_batch(setup(shape, 2048, batch=8), 4, 16).training
    assert (halved.batch_size, halved.accumulation, halved.effective_batch) == (4, 4, 16)
    dora = replace(plain, lora=Lora(dora=True))
    assert part(estimate_memory(dora), "Activations") > part(estimate_memory(plain), "Activations") + 4 * 14_336**2


def test_dropout_costs_the_fast_kernels() -> None:
    plain = setup(SHAPES["Llama 3.1 8B"], 2048)
    with_dropout = estimate_memory(replace(plain, lora=Lora(dropout=0.05)))
    assert part(with_dropout, "Activations") == pytest.approx(1.3 * part(estimate_memory(plain), "Activations"), abs=1)
    assert with_dropout.lower == estimate_memory(plain).lower


def test_an_unknown_architecture_has_a_wider_band() -> None:
    known = estimate_memory(setup(TINY, 512))
    unknown = estimate_memory(setup(replace(TINY, known=False), 512))
    assert unknown.lower == known.lower
    assert part(unknown, "Unknown architecture") == pytest.approx(
        0.1 * (unknown.upper - part(unknown, "CUDA context")) / 1.18, rel=1e-4
    )


def test_dynamic_and_single_quantised_repositories_weigh_more() -> None:
    shape = SHAPES["Qwen3 4B"]
    some = replace(shape, kept_whole=shape.linear_weights // 10)
    assert linear_bytes(some, "nf4") / linear_bytes(shape, "nf4") == pytest.approx(0.9 + 0.1 * 2 / 0.5159, rel=1e-3)
    single = replace(shape, double_quantised=False)
    assert linear_bytes(single, "nf4") / shape.linear_weights == pytest.approx(0.5625, rel=1e-4)


@pytest.mark.parametrize(
    ("free", "level", "sentence"),
    [
        (12.0, "fits", "Fits: about 10.0 GB of 12.0 GB free."),
        (11.7, "tight", "Tight: about 10.0 GB of 11.7 GB free. It may run; the first steps will tell."),
        (10.0, "tight", "Tight: about 10.0 GB of 10.0 GB free. It may run; the first steps will tell."),
        (9.9, "too big", "Does not fit: about 10.0 GB needed, 9.9 GB free."),
        (0.0, "too big", "Does not fit: about 10.0 GB needed, 0.0 GB free."),
    ],
)
def test_verdict(free: float, level: str, sentence: str) -> None:
    planned = MemoryEstimate((MemoryPart("x", 9 * GIB, 11 * GIB),))
    answer = fit_verdict(planned, round(free * GIB))
    assert (answer.level, answer.sentence) == (level, sentence)


def test_what_may_exceed_the_card_never_fits() -> None:
    assert fit_verdict(MemoryEstimate((MemoryPart("x", 4 * GIB, 11 * GIB),)), 10 * GIB).level == "tight"


def test_a_recipe_becomes_one_setup_per_stage() -> None:
    machine = detect_machine(replay(card(24, 22)), environ={})
    recipe = Recipe(method=MethodChain("sft+dpo"))
    both = setups_for_machine(recipe, TINY, machine, longest={"sft": 300})
    assert (both["sft"].longest, both["dpo"].longest) == (300, None)
    assert (both["sft"].reference, both["dpo"].reference) == (False, True)
    assert {one.base for one in both.values()} == {"nf4"}
    alone = setups_for_machine(recipe.model_copy(update={"method": MethodChain("dpo")}), TINY, machine)
    assert not alone["dpo"].reference
    assert peak_estimate(estimate_memory(one) for one in both.values()) == estimate_memory(both["dpo"])


def test_auto_precision() -> None:
    assert resolve_base_format("auto", "cuda")[0] == "nf4"
    assert resolve_base_format("auto", "cpu")[0] == "fp32"
    assert resolve_base_format("auto", "cpu", bfloat16=True)[0] == "bf16"
    assert resolve_base_format("auto", "cpu", quantised=True)[0] == "nf4"
    assert resolve_base_format("bf16", "cuda") == ("bf16", Text("precision.chosen"))


def test_disk() -> None:
    shape = SHAPES["Llama 3.1 8B"]
    one = setup(shape, 512)
    parts = {part.name: part for part in disk_parts({"sft": one, "dpo": one}, {"sft": 100, "dpo": 3})}
    adapter = adapter_parameters(shape, Lora()) * 4
    assert parts["Adapters"].lower == 2 * adapter
    assert parts["Checkpoints"].lower == (5 + 3) * (adapter + optimiser_bytes(one))
    assert parts["Checkpoints"].upper == (9 + 4) * (adapter + optimiser_bytes(one) + 40 * MIB)
    merged = parts["Merged model, if exported"]
    assert (merged.lower, merged.upper) == (0, 2 * 8_030_261_248)
    assert certain_bytes(parts.values()) == parts["Adapters"].upper + parts["Checkpoints"].upper
