"""A Llama model from a GGUF file, read once: its numbers, its tensors, and llama.cpp's order of rotary rows undone.

transformers reads the same (`from_pretrained(..., gguf_file=...)`), in four times the processor seconds: it parses the file twice
and builds the table of tensor names once per module. `tests/trainer_core/models/test_starter.py` compares the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader, ReaderTensor
    from transformers import LlamaConfig, PreTrainedModel

CONFIG_FIELDS = {
    "vocab_size": "llama.vocab_size",
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
}
"""A setting of transformers → its name in the file."""


def read_llama(reader: GGUFReader, dtype: torch.dtype, **settings: Any) -> PreTrainedModel:
    """The model with its weights in `dtype`. settings: of the config, beside those that the file tells."""
    import torch
    from gguf import MODEL_ARCH, get_tensor_name_map
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = read_config(reader, dtype, **settings)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            stored = names.get_name(name, try_suffixes=(".weight",))
            weight.copy_(read_weight(tensors[str(stored)], config))
    return model


def read_config(reader: GGUFReader, dtype: torch.dtype, **settings: Any) -> LlamaConfig:
    from transformers import LlamaConfig

    told: dict[str, Any] = {key: reader.fields[name].contents() for key, name in CONFIG_FIELDS.items()}
    rope = {"rope_type": "default", "rope_theta": reader.fields["llama.rope.freq_base"].contents()}
    tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    return LlamaConfig(**told, rope_parameters=rope, tie_word_embeddings=tied, dtype=dtype, **settings)


def read_weight(tensor: ReaderTensor, config: LlamaConfig) -> torch.Tensor:
    """In 32 bit, shaped and ordered as transformers has it.

    llama.cpp turns neighbouring rows of queries and keys together, transformers the two halves of a head: (dim / 2, 2) rows of
    each head become (2, dim / 2). Source: llama.cpp's convert_hf_to_gguf.py, `LlamaModel.permute`.
    """
    import torch
    from gguf import dequantize

    weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(tensor.name.split(".")[-2])
    if heads is None:
        return weight
    return weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
