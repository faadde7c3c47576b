"""Models to measure on: the starter model, or random weights in any shape, with adapters that change what is said."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from trainer_core import runs, starter

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-3.1-8B": (
        "llama",
        {
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128_256,
        },
    ),
    "Qwen3-4B": (
        "qwen3",
        {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
    ),
    "SmolLM2-135M": (
        "llama",
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49_152,
            "tie_word_embeddings": True,
        },
    ),
}
"""From the models' published config.json."""
Asked = ParamSpec("Asked")
Made = TypeVar("Made")
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base(place: Path, tiny: bool) -> Path:
    """The starter model of the default workspace; or, tiny, random weights behind its tokenizer."""
    full = starter.folder(runs.Workspace(runs.default_workspace()))
    return random_model(place / "tiny", full, "llama", TINY) if tiny else full


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


def apart(make: Callable[Asked, Made], *args: Asked.args, **named: Asked.kwargs) -> Made:
    """Made by a process of its own, which leaves nothing on the card that is measured afterwards."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(make, *args, **named).result()


def with_adapters(place: Path, tiny: bool) -> tuple[Path, list[Path]]:
    """A base and two rank-16 adapters with random weights, small enough that answers stay answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model, folders = base(place, tiny), [place / "one", place / "two"]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        lora = LoraConfig(r=16, lora_alpha=16, target_modules=LINEAR, task_type="CAUSAL_LM")
        tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora)
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.01)
        tuned.save_pretrained(str(folder))
    return model, folders
