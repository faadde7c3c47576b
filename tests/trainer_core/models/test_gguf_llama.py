"""Weights of a GGUF file: those that transformers reads, bit for bit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer_core.models.gguf_llama import read_llama

pytestmark = pytest.mark.real
LAYERS, HIDDEN, INNER, HEADS, KEYS, VOCABULARY = 2, 128, 256, 4, 2, 96
SHAPES = {
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (HIDDEN // HEADS * KEYS, HIDDEN),
    "attn_v": (HIDDEN // HEADS * KEYS, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}


def write_gguf(path: Path, tied: bool) -> None:
    random = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(VOCABULARY)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)

    def add(name: str, *shape: int) -> None:
        weight = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, weight)
            return
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(weight, kind), raw_dtype=kind)

    for name in ("token_embd.weight", *([] if tied else ["output.weight"])):
        add(name, VOCABULARY, HIDDEN)
    add("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{norm}.weight", HIDDEN)
        for name, shape in SHAPES.items():
            add(f"blk.{layer}.{name}.weight", *shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False])
def test_it_is_the_model_that_transformers_reads(tmp_path: Path, tied: bool) -> None:
    write_gguf(tmp_path / "tiny.gguf", tied)
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file="tiny.gguf", dtype=torch.bfloat16)
    ours = read_llama(gguf.GGUFReader(tmp_path / "tiny.gguf"), torch.bfloat16)
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, weight in ours.state_dict().items():
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, expected[name]), name
    prompt = torch.arange(1, 9)[None]
    with torch.no_grad():
        assert torch.equal(ours(prompt).logits, theirs(prompt).logits)
