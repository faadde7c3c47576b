"""Models to measure on: the starter model, or random weights in any shape, with adapters that change what is said."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from filelock import FileLock

from trainer_core.models import starter
from trainer_core.runs import workspace
from trainer_core.runs.workspace import Workspace
from trainer_core.system import durable


def decoder_shape(hidden: int, mlp: int, layers: int, heads: int, key_value_heads: int, **more: Any) -> dict[str, Any]:
    """Sizes of a decoder, as config.json names them."""
    sizes = {"hidden_size": hidden, "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads}
    return sizes | {"num_key_value_heads": key_value_heads} | more


TINY = decoder_shape(64, 128, 2, 4, 2)
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-3.1-8B": ("llama", decoder_shape(4096, 14_336, 32, 32, 8, vocab_size=128_256)),
    "Qwen3-4B": (
        "qwen3",
        decoder_shape(2560, 9728, 36, 32, 8, head_dim=128, vocab_size=151_936, tie_word_embeddings=True),
    ),
    "SmolLM2-135M": ("llama", decoder_shape(576, 1536, 30, 9, 3, vocab_size=49_152, tie_word_embeddings=True)),
}
"""From the models' published config.json."""
Asked = ParamSpec("Asked")
Made = TypeVar("Made")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def bench_home() -> Path:
    """What this machine keeps for the benches between calls; TUNEBENCH_BENCH names another place."""
    return workspace.ensure_dir(Path(os.environ.get("TUNEBENCH_BENCH", "~/.cache/tunebench/bench")).expanduser())


def compile_caches(name: str) -> dict[str, str]:
    """Variables for a process that compiles: what has the same name shares what was compiled."""
    place = bench_home() / "compiled" / name
    return {"TORCHINDUCTOR_CACHE_DIR": str(place / "inductor"), "TRITON_CACHE_DIR": str(place / "triton")}


def tokenizer_folder() -> Path:
    return starter.ensure_starter(Workspace(workspace.default_workspace()))


def cache_model(name: str, tiny: bool = False) -> Path:
    """Random weights in the shape of that name, made once on this machine; tiny, two layers of its kind."""
    kind, shape = SHAPES[name]
    name, shape = (f"tiny-{kind}", TINY) if tiny else (name, shape)
    digest = hashlib.sha256(json.dumps([kind, shape]).encode()).hexdigest()[:8]
    place = workspace.ensure_dir(bench_home() / "models")
    folder, staging = place / f"{name}-{digest}", place / f".staging-{name}"
    with FileLock(place / ".lock"):
        if not folder.exists():
            durable.clean_leftovers(place)
            build_in_child(random_model, staging, tokenizer_folder(), kind, shape)
            durable.publish_staged(staging, folder)
    return folder


def starter_model() -> Path:
    """The starter model; where only its tokenizer is there, random weights in its shape."""
    folder = tokenizer_folder()
    return folder if any(folder.glob("*.safetensors")) else cache_model("SmolLM2-135M")


def base_model(place: Path, tiny: bool) -> Path:
    """The starter model; or, tiny, random weights behind its tokenizer."""
    return random_model(place / "tiny", tokenizer_folder(), "llama", TINY) if tiny else starter_model()


def random_model(folder: Path, tokenizer: Path, kind: str, shape: dict[str, Any]) -> Path:
    """A model of this kind and shape with random weights, saved with the tokenizer of another; on a card in bfloat16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    words: Any = AutoTokenizer.from_pretrained(tokenizer)
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = AutoConfig.for_model(kind, **({"vocab_size": len(words), "max_position_embeddings": 40_960} | ids | shape))
    card = torch.cuda.is_available()
    torch.manual_seed(0)
    with torch.device("cuda" if card else "cpu"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if card else torch.float32)
    model.save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder


def build_in_child(make: Callable[Asked, Made], *args: Asked.args, **named: Asked.kwargs) -> Made:
    """Made by a process of its own, which leaves nothing on the card that is measured afterwards."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(make, *args, **named).result()


def model_with_adapters(place: Path, tiny: bool) -> tuple[Path, list[Path]]:
    """The starter model or a tiny one, and two adapters."""
    model = base_model(place, tiny)
    return model, [random_adapter(model, place / name, seed) for seed, name in enumerate(("one", "two"))]


def cache_adapters(model: Path) -> tuple[Path, ...]:
    """Two adapters for a kept model, made once."""
    place = workspace.ensure_dir(bench_home() / "adapters" / model.name)
    for seed, name in enumerate(("one", "two")):
        if not (place / name).exists():
            durable.publish_staged(
                build_in_child(random_adapter, model, place / f".staging-{name}", seed), place / name
            )
    return place / "one", place / "two"


def random_adapter(model: Path, folder: Path, seed: int) -> Path:
    """A rank-16 adapter with random weights, small enough that answers stay answers. The base's weights are not read."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    lora = LoraConfig(r=16, lora_alpha=16, target_modules=LINEAR, task_type="CAUSAL_LM")
    lora.base_model_name_or_path = str(model)
    with torch.device("meta"):
        tuned = get_peft_model(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)), lora)
    dice, weights = torch.Generator().manual_seed(seed), {}
    for name, weight in tuned.named_parameters():
        if "lora_" in name:
            spread = 0.01 if "lora_B" in name else weight.shape[1] ** -0.5
            weights[name.replace(".default", "")] = torch.randn(weight.shape, generator=dice) * spread
    tuned.peft_config["default"].save_pretrained(str(folder))
    save_file(weights, folder / "adapter_model.safetensors")
    return folder
