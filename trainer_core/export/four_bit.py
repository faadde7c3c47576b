"""The 16-bit weights that a base in 4 bits computes with, as a base folder of their own.

An adapter that was trained on NF4 weights corrects what that rounding did. On the weights before the rounding it corrects an
error that is not there.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from trainer_core.config.recipe import Precision
from trainer_core.export.context import ExportContext
from trainer_core.export.merge import Progress, weight_files, write_index
from trainer_core.export.tensor_file import TensorHeader, TensorReader, write_tensors
from trainer_core.inference.load import half_dtype
from trainer_core.models.safetensors_check import INDEX

CONFIG, PACKING = "config.json", "quantization_config"
STATE_MARK = ".quant_state.bitsandbytes__"
"""Part of the name of a tensor that says how another one was packed."""
STORED = {torch.float16: "F16", torch.bfloat16: "BF16"}
BLOCK = 64
"""Weights that share a scale; bitsandbytes' default, as in QLoRA (Dettmers et al. 2023, section 3)."""


def is_four_bit(base: Path, precision: Precision) -> bool:
    """Did training compute with a base in 4 bits: packed in its files, or packed as it was loaded?"""
    return precision == "nf4" or is_packed(base)


def is_packed(base: Path) -> bool:
    settings = json.loads((base / CONFIG).read_bytes()).get(PACKING)
    return bool(isinstance(settings, dict) and settings.get("load_in_4bit"))


def write_four_bit_base(context: ExportContext, target: Path) -> None:
    """Write the base's weights as they are after the rounding to 4 bits, in the 16-bit format that training computed in."""
    target.mkdir()
    for path in context.base.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in (CONFIG, INDEX):
            shutil.copyfile(path, target / path.name)
    config = json.loads((context.base / CONFIG).read_bytes())
    config.pop(PACKING, None)
    (target / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    round_weights(context.base, target, context.tracker.report)


def round_weights(base: Path, target: Path, progress: Progress) -> None:
    """Write every weight file of `base` with its 4-bit layers in 16 bits.

    Args:
        progress: called with the bytes read and the bytes in all; may raise to stop.
    """
    layers = frozenset() if is_packed(base) else packable_layers(base)
    files = weight_files(base)
    total, done = sum(path.stat().st_size for path in files), 0
    places: dict[str, str] = {}
    for path in files:
        source = FourBitReader(path, layers)
        headers = list(source.list_headers())
        places |= {header.name: path.name for header in headers}

        def contents(
            source: FourBitReader = source, headers: Sequence[TensorHeader] = headers
        ) -> Iterator[torch.Tensor]:
            nonlocal done
            for header in headers:
                yield source.read_tensor(header.name)
                begin, end = source.reader.entries[header.name].data_offsets
                done += end - begin
                progress(done, total)

        write_tensors(target / path.name, headers, contents())
    if len(files) > 1:
        write_index(target, places)


def packable_layers(base: Path) -> frozenset[str]:
    """Weights that transformers packs when it loads this model in 4 bits."""
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base), trust_remote_code=False)
    skipped = get_keys_to_not_convert(outline)
    linear = (name for name, module in outline.named_modules() if type(module) is nn.Linear)
    return frozenset(f"{name}.weight" for name in linear if should_convert_module(name, skipped))


def round_weight(weight: torch.Tensor) -> torch.Tensor:
    """A weight after NF4 with scales that are packed too, as a model is loaded for training; in 16 bits."""
    half = weight.to(half_dtype())
    return dequantize_4bit(*quantize_4bit(half, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"))


class FourBitReader:
    """One weight file, read as a 4-bit model computes with it.

    layers: names of weights that lie in the file in 16 or 32 bits and are rounded here.
    """

    def __init__(self, path: Path, layers: Collection[str]):
        self.reader, self.layers = TensorReader(path), layers
        self.packed = {name.partition(STATE_MARK)[0] for name in self.reader.entries if STATE_MARK in name}

    def list_headers(self) -> Iterator[TensorHeader]:
        """The weights, without the tensors that say how others were packed."""
        for header in self.reader.list_headers():
            if header.name in self.packed:
                state = self.read_state(header.name)
                yield TensorHeader(header.name, STORED.get(state.dtype, "F32"), tuple(state.shape))
            elif header.name in self.layers:
                yield TensorHeader(header.name, STORED[half_dtype()], header.shape)
            elif self.packed.isdisjoint(accumulate(header.name.split("."), "{}.{}".format)):
                yield header

    def read_tensor(self, name: str) -> torch.Tensor:
        """The weight in the format of its header."""
        if name in self.packed:
            return dequantize_4bit(self.reader.read_bytes(name).reshape(-1, 1), self.read_state(name))
        if name in self.layers:
            return round_weight(self.reader.read_tensor(name))
        return self.reader.read_bytes(name)

    def read_state(self, name: str) -> QuantState:
        """How a tensor was packed."""
        parts: dict[str, Any] = {}
        for part, entry in self.reader.entries.items():
            if part.startswith(f"{name}."):
                read = self.reader.read_bytes if entry.dtype == "U8" else self.reader.read_tensor
                parts[part.removeprefix(f"{name}.")] = read(part)
        return QuantState.from_dict(parts, torch.device("cpu"))


def count_packed_weights(path: Path) -> int:
    """Weights of a file, two for each byte of those in 4 bits."""
    source = FourBitReader(path, ())
    sizes = source.reader.entries
    packed = sum(2 * round(sizes[name].byte_size) for name in source.packed)
    plain = (sizes[header.name] for header in source.list_headers() if header.name not in source.packed)
    return max(1, packed + sum(math.prod(entry.shape) for entry in plain))
