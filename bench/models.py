"""Models to measure on: the starter model, or random weights in any shape, with adapters that change what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer_core import runs, starter

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base(place: Path, tiny: bool) -> Path:
    """The starter model of the default workspace; or, tiny, random weights behind its tokenizer."""
    full = starter.folder(runs.Workspace(runs.default_workspace()))
    return random_llama(place / "tiny", full, TINY) if tiny else full


def random_llama(folder: Path, tokenizer: Path, shape: dict[str, Any], dtype: str = "float32") -> Path:
    """A Llama of this shape with random weights, saved with the tokenizer of another model."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    words = AutoTokenizer.from_pretrained(tokenizer)
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = LlamaConfig(**({"vocab_size": len(words), "max_position_embeddings": 2048} | ids | shape))
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


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
