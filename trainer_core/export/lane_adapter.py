"""One PEFT adapter that does what a lane does: a strength goes into alpha, a blend puts the ranks of both side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from trainer_core.config.jobs import Lane
from trainer_core.errors import ModelError
from trainer_core.inference import adapter_checks
from trainer_core.inference.adapter_checks import (
    CONFIG_FILE,
    PEFT_PREFIX,
    WEIGHTS_FILE,
    layer_scaling,
    read_adapter_config,
)

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def write_lane_adapter(lane: Lane, target: Path, base_name: str) -> None:
    """Write the lane's adapter into the folder `target`: adapter_config.json and adapter_model.safetensors.

    Args:
        base_name: the base as another computer finds it; empty if it cannot.

    Raises:
        ModelError: the lane has no adapter, or one whose strength or blend no single adapter can have.
    """
    shares = {folder: share for folder, share in lane.adapter_shares.items() if share}
    if not shares:
        raise ModelError("export.no_adapter", lane=lane.name)
    parts = [AdapterPart.read(Path(folder), share) for folder, share in shares.items()]
    if len(parts) == 1:
        config, tensors = scale_adapter(lane, parts[0])
    else:
        config, tensors = join_adapters(lane, parts)
    config |= {"base_model_name_or_path": base_name or None, "inference_mode": True}
    (target / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    save_file(tensors, target / WEIGHTS_FILE, metadata={"format": "pt"})


@dataclass(frozen=True)
class AdapterPart:
    """An adapter and its share of the lane."""

    folder: Path
    share: float
    config: LoraConfig
    raw: Mapping[str, Any]
    """adapter_config.json as it is."""

    @classmethod
    def read(cls, folder: Path, share: float) -> AdapterPart:
        """Raises ModelError for a folder that is no sound LoRA adapter."""
        adapter_checks.check_file_hashes(folder)
        return cls(folder, share, read_adapter_config(folder), json.loads((folder / CONFIG_FILE).read_bytes()))

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / WEIGHTS_FILE)


def scale_adapter(lane: Lane, part: AdapterPart) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if part.share == 1:
        return dict(part.raw), part.tensors
    if part.config.use_dora:
        raise ModelError("export.dora_strength", lane=lane.name, folder=part.folder.name)
    patterns = {name: alpha * part.share for name, alpha in (part.config.alpha_pattern or {}).items()}
    scaled = {"lora_alpha": part.config.lora_alpha * part.share, "alpha_pattern": patterns}
    return {**part.raw, **scaled}, part.tensors


def join_adapters(lane: Lane, parts: list[AdapterPart]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Both changes as one: their ranks side by side, each with its share in its up matrix, and a scaling of 1."""
    down: dict[str, list[torch.Tensor]] = {}
    up: dict[str, list[torch.Tensor]] = {}
    for part in parts:
        if part.config.use_dora:
            raise ModelError("export.dora_blend", lane=lane.name, folder=part.folder.name)
        for module, first, second in module_weights(part):
            down.setdefault(module, []).append(first.float())
            up.setdefault(module, []).append(second.float() * (part.share * layer_scaling(part.config, module)))
    joined = {module: (torch.cat(down[module]), torch.cat(up[module], 1)) for module in down}
    ranks = {module: first.shape[0] for module, (first, _) in joined.items()}
    widest = max(ranks.values())
    others = {module: rank for module, rank in ranks.items() if rank != widest}
    config = {
        **parts[0].raw,
        "r": widest,
        "lora_alpha": widest,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "target_modules": target_names(list(joined), parts),
    }
    tensors: dict[str, torch.Tensor] = {}
    for module, (first, second) in joined.items():
        tensors |= {f"{PEFT_PREFIX}{module}{DOWN}": first, f"{PEFT_PREFIX}{module}{UP}": second.contiguous()}
    return config, tensors


def module_weights(part: AdapterPart) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Each module with its two matrices.

    Raises:
        ModelError: the adapter holds another kind of tensor.
    """
    tensors = part.tensors
    for name, first in tensors.items():
        if name.endswith(DOWN):
            yield name.removeprefix(PEFT_PREFIX).removesuffix(DOWN), first, tensors[name.removesuffix(DOWN) + UP]
        elif not name.endswith(UP):
            raise ModelError("export.other_tensor", folder=part.folder.name, tensor=name)


def target_names(modules: list[str], parts: list[AdapterPart]) -> Any:
    """The targets of the parts where they agree; else the whole name of every module."""
    told = [part.raw.get("target_modules") for part in parts]
    as_sets = [set(one) if isinstance(one, list) else one for one in told]
    return told[0] if all(one == as_sets[0] for one in as_sets) else sorted(modules)
