"""A language model small enough for unit tests: two layers, random weights, a byte-level tokenizer and a ChatML template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = ["the quick brown fox jumps over the lazy dog", "user assistant system", "a short warm answer to a question"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def model(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A random 2-layer Llama with its tokenizer, saved as safetensors. `config` takes the place of the values here."""
    torch.manual_seed(seed)
    tokens = tokenizer()
    shape = {
        "vocab_size": len(tokens),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
    }
    LlamaForCausalLM(LlamaConfig(**(shape | config))).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over about 300 tokens, so that any text can be written."""
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def adapter(folder: Path, base: Path, seed: int = 1, rank: int = 4, scale: float = 0.5, **config: Any) -> Path:
    """A LoRA adapter with random weights, large enough to change what the model says."""
    torch.manual_seed(seed)
    lora = {"r": rank, "lora_alpha": rank, "target_modules": LINEAR, "task_type": "CAUSAL_LM"}
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**(lora | config)))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=scale)
    tuned.save_pretrained(folder)
    return folder
