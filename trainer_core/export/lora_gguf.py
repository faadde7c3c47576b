"""An adapter alone as GGUF: llama.cpp adds it to a GGUF file of the base (`--lora`). Runs in the converter's process.

llama.cpp's model classes name the tensors and turn them as they do the base's. The scaling of each layer goes into its second
matrix, since llama.cpp knows one alpha for all layers and no square root of the rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer_core.errors import ModelError
from trainer_core.export.lane_adapter import AdapterPart, module_weights
from trainer_core.inference.adapter_checks import layer_scaling

BLOCK = re.compile(r"\.(\d+)\.")
TABLES = ("embed_tokens", "lm_head")
OWN_SCALING = 0.0
"""As alpha: llama.cpp then takes the matrices as they are."""


def write_lora(model: Any, adapter: Path, target: Path) -> None:
    """Write an adapter of the base that llama.cpp's class `model` has read.

    Raises:
        ModelError: the format cannot say what this adapter does.
    """
    import gguf

    part = AdapterPart.read(adapter, 1.0)
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[model.model_arch])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, OWN_SCALING)
    for name, tensor in lora_tensors(model, part):
        writer.add_tensor(name, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def lora_tensors(model: Any, part: AdapterPart) -> Iterator[tuple[str, Any]]:
    """The two matrices of each layer, by llama.cpp's names."""
    if part.config.use_dora:
        raise ModelError("export.lora_dora")
    for module, down, up in module_weights(part):
        if module.endswith(TABLES):
            raise ModelError("export.lora_table", layer=module)
        block = BLOCK.search(f".{module}.")
        scaled = up.float() * layer_scaling(part.config, module)
        found = list(model.modify_tensors(scaled, f"{module}.weight", int(block[1]) if block else None))
        if len(found) != 1 or found[0][1].shape != up.shape:
            raise ModelError("export.lora_layer", layer=module)
        name = found[0][0]
        yield f"{name}.lora_a", down
        yield f"{name}.lora_b", found[0][1]
