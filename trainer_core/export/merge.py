"""Merges an adapter into its base, tensor by tensor: memory holds PEFT's adapter and one tensor, not the model.

PEFT's own layers do the arithmetic, in 32 bits, on a model whose base weights take no memory. Every tensor of the base's files
goes into its layer, is merged and written, and leaves the layer again.

PEFT's `merge_and_unload` holds the whole model, adds in the base's format, and loses an adapter on tied tables: after saving,
the two tables are one again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from trainer_core.errors import ModelError
from trainer_core.export.tensor_file import FLOAT_TYPES, TensorHeader, TensorReader, tensor_bytes, write_tensors
from trainer_core.inference import adapter_checks
from trainer_core.inference.adapter_checks import PEFT_PREFIX
from trainer_core.models.safetensors_check import INDEX, read_header
from trainer_core.system import malloc

ADAPTER_NAME = "default"
WEIGHTS_FILE = "model.safetensors"
SAMPLE_ROWS = 64
"""Rows of a weight on which the loss by rounding is measured."""
MAX_NAMED = 3
"""Layers that an error names."""
StoredFormat = Literal["base", "F16"]
Progress = Callable[[int, int], None]


@dataclass
class RoundingLoss:
    """What a 16-bit format loses of the change, over rows of all merged weights. Sums of squares."""

    change: float = 0.0
    lost: dict[str, float] = field(default_factory=lambda: dict.fromkeys(FLOAT_TYPES, 0.0))

    def add(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """before: the base's weight; after: the merged one, in 32 bits. Some rows stand for all."""
        every = max(1, len(after) // SAMPLE_ROWS)
        merged = after[::every]
        self.change += (merged - before[::every].float()).square().sum().item()
        for name in ("F16", "BF16"):
            self.lost[name] += (merged.to(FLOAT_TYPES[name]).float() - merged).square().sum().item()

    def share(self, name: str) -> float:
        """The error of this format as a share of the change, 0 to any size; 0 without a change."""
        return math.sqrt(self.lost[name] / self.change) if self.change else 0.0


@dataclass(frozen=True)
class MergeResult:
    """untied: the model has a table of its own for the head now. changed: tensors that the adapter changes."""

    untied: bool
    changed: int
    rounding: RoundingLoss


class AdapterMerger:
    """A base without weights that carries the adapter.

    Raises:
        ModelError: the adapter does not fit the base.
    """

    def __init__(self, base: Path, adapter: Path):
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        with torch.device("meta"):
            outline: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        self.embedding = module_name(outline, outline.get_input_embeddings())
        self.head = module_name(outline, outline.get_output_embeddings())
        self.tied = bool(config.get_text_config().tie_word_embeddings)
        tables = adapter_tables(adapter)
        fill_with_nothing(outline, tables)
        try:
            model = PeftModel.from_pretrained(outline, str(adapter), torch_device="cpu").eval()
        except (RuntimeError, ValueError, SafetensorError) as error:
            raise ModelError("export.bad_fit", adapter=adapter.name, reason=str(error)[:300]) from error
        self.layers: dict[str, Any] = {}
        self.copies: dict[str, torch.Tensor] = {}
        for path, module in model.named_modules():
            name = path.removeprefix(PEFT_PREFIX)
            if isinstance(module, LoraLayer):
                self.layers[f"{name}.weight"] = module
            elif f"{name}.weight" in tables:
                self.copies[f"{name}.weight"] = module.weight.data
            if isinstance(module, ModulesToSaveWrapper):
                own = module.modules_to_save[ADAPTER_NAME].state_dict()
                self.copies |= {f"{name}.{part}": tensor for part, tensor in own.items()}

    @property
    def must_untie(self) -> bool:
        """Does the adapter change one of two tables that are one in the base?"""
        return self.tied and any(self.changes(f"{name}.weight") for name in (self.embedding, self.head))

    def changes(self, name: str) -> bool:
        return name in self.layers or name in self.copies

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The merged weight in 32 bits. weight: the base's, in 32 bits; it is changed.

        Raises:
            ModelError: the result is not finite.
        """
        if name in self.copies:
            return self.copies[name].float()
        layer = self.layers[name]
        holder = layer.get_base_layer()
        empty = holder.weight
        weight = weight if is_hollow(empty) else empty.data.clone()  # a table that the adapter brings
        if tuple(weight.shape) != tuple(empty.shape):
            raise ModelError("export.other_shape", layer=name, held=tuple(weight.shape), needed=tuple(empty.shape))
        holder.weight = nn.Parameter(weight, requires_grad=False)
        layer.merge(adapter_names=[ADAPTER_NAME])
        merged: torch.Tensor = holder.weight.data
        holder.weight = empty
        layer.merged_adapters.clear()
        if not merged.abs().max().isfinite():
            raise ModelError("export.not_finite", layer=name)
        return merged


def module_name(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def adapter_tables(adapter: Path) -> frozenset[str]:
    """The base's tables that an adapter file brings: PEFT saves them where an embedding is adapted."""
    names = (name.removeprefix(PEFT_PREFIX) for name in read_header(adapter / adapter_checks.WEIGHTS_FILE))
    held = (name.replace(".base_layer.", ".") for name in names if ".lora_" not in name)
    return frozenset(name for name in held if name.endswith(".weight"))


def is_hollow(weight: torch.Tensor) -> bool:
    return weight.untyped_storage().nbytes() < weight.nbytes


def fill_with_nothing(model: nn.Module, real: Collection[str]) -> None:
    """Give every weight but the `real` ones one zero that stands for all. On the meta device PEFT's arithmetic would do nothing,
    without an error."""
    for path, module in model.named_modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                zero = torch.zeros(weight.shape) if f"{path}.{name}" in real else torch.zeros(()).expand(weight.shape)
                module._parameters[name] = nn.Parameter(zero, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros((), dtype=buffer.dtype).expand(buffer.shape)


def weight_files(folder: Path) -> list[Path]:
    """The files with the model's weights; others beside them, such as another format of the same, are not read."""
    if (folder / WEIGHTS_FILE).exists():
        return [folder / WEIGHTS_FILE]
    if (folder / INDEX).exists():
        named = json.loads((folder / INDEX).read_bytes())["weight_map"]
        return [folder / name for name in sorted(set(named.values()))]
    return sorted(folder.glob("*.safetensors"))


def merge_adapter(
    base: Path,
    adapter: Path,
    target: Path,
    stored: StoredFormat = "base",
    progress: Progress = lambda done, total: None,
) -> MergeResult:
    """Write the merged weights of `base` and `adapter` into the folder `target`, file by file, under the base's names.

    Args:
        stored: the number format of the result: the base's own, or 16-bit floats with eleven binary digits.
        progress: called with the bytes done and the bytes in all; may raise to stop.

    Raises:
        ModelError: the adapter does not fit, names layers that the base's files do not have, or gives what is not finite.
        OSError: a file cannot be written.
    """
    merger, readers = AdapterMerger(base, adapter), [TensorReader(path) for path in weight_files(base)]
    check_all_met(merger, readers)
    rounding, done = RoundingLoss(), 0
    total = sum(reader.path.stat().st_size for reader in readers)
    places: dict[str, str] = {}
    for reader in readers:
        headers = [output_header(header, stored) for header in output_headers(merger, reader)]
        places |= {header.name: reader.path.name for header in headers}

        def contents(reader: TensorReader = reader, headers: Sequence[TensorHeader] = headers) -> Iterator[Any]:
            nonlocal done
            for header in headers:
                content = output_tensor(merger, reader, header, rounding)
                yield content
                done += tensor_bytes(header)
                progress(done, total)

        with malloc.reuse_large_blocks():
            write_tensors(target / reader.path.name, headers, contents())
    if len(readers) > 1 or (base / INDEX).exists() and not (base / WEIGHTS_FILE).exists():
        write_index(target, places)
    return MergeResult(merger.must_untie, sum(map(merger.changes, places)), rounding)


def check_all_met(merger: AdapterMerger, readers: Sequence[TensorReader]) -> None:
    """Every layer of the adapter must be a tensor of the base's files: of some models the files name layers differently.

    Raises:
        ModelError: names layers that are not there, or a format that cannot be added to.
    """
    held = {name: entry.dtype for reader in readers for name, entry in reader.entries.items()}
    own_head = f"{merger.head}.weight" if merger.must_untie else ""
    changed = [*merger.layers, *merger.copies]
    if lost := [name for name in changed if name not in held and name != own_head]:
        raise ModelError("export.unmet_layers", count=len(lost), layers=", ".join(lost[:MAX_NAMED]))
    for name in changed:
        if held.get(name, "F32") not in FLOAT_TYPES:
            raise ModelError("export.quantised_base", layer=name, format=held[name])


def output_headers(merger: AdapterMerger, reader: TensorReader) -> Iterator[TensorHeader]:
    """The tensors of the file, and the head's own table after the embedding that it was one with."""
    head, embedding = f"{merger.head}.weight", f"{merger.embedding}.weight"
    for header in reader.list_headers():
        if header.name == head and merger.must_untie:
            continue
        yield header
        if header.name == embedding and merger.must_untie:
            yield TensorHeader(head, header.dtype, header.shape)


def output_header(header: TensorHeader, stored: StoredFormat) -> TensorHeader:
    return header if stored == "base" or not header.is_float else TensorHeader(header.name, stored, header.shape)


def output_tensor(
    merger: AdapterMerger, reader: TensorReader, header: TensorHeader, rounding: RoundingLoss
) -> torch.Tensor:
    """A tensor of the result, in 32 bits where the adapter changes it, else as it is."""
    own_head = header.name == f"{merger.head}.weight" and merger.must_untie
    source = f"{merger.embedding}.weight" if own_head else header.name
    if not merger.changes(header.name):
        same = reader.entries[source].dtype == header.dtype
        return reader.read_bytes(source) if same else check_range(reader.read_tensor(source), header)
    before = reader.read_tensor(source)
    after = merger.merge(header.name, before.to(torch.float32, copy=True))
    rounding.add(before, after)
    return check_range(after, header)


def check_range(weight: torch.Tensor, header: TensorHeader) -> torch.Tensor:
    """The weight, if the format can hold it.

    Raises:
        ModelError: names the tensor with a larger number.
    """
    if header.dtype == "F16" and weight.numel() and weight.abs().max() > torch.finfo(torch.float16).max:
        raise ModelError("export.too_large", layer=header.name, value=weight.abs().max().item())
    return weight


def write_index(target: Path, places: Mapping[str, str]) -> None:
    size = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    (target / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
