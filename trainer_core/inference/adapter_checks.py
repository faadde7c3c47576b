"""Checks of an adapter folder against its base."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, TaskType
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import nn

from trainer_core.errors import ModelError
from trainer_core.models import resolve, safetensors_check, template_sandbox
from trainer_core.runs import checkpoints, import_origin
from trainer_core.texts import Text

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
BASE_PRESERVING_INITS = ("gaussian", "eva", "orthogonal")
"""Initialisations by which PEFT 0.21 changes the adapter alone; the file's weights then replace it."""
CONVERTIBLE_INITS = ("pissa", "olora", "corda", "lora_ga")
"""Initialisations that subtract the initial adapter from the base."""
QUANTISING_INIT = "loftq"
"""The initialisation that replaces the base by a quantised one."""
UNSUPPORTED_IN_BATCH = (
    "target_parameters",
    "lora_bias",
    "layer_replication",
    "use_qalora",
    "modules_to_save",
    "trainable_token_indices",
    "megatron_config",
)
"""PEFT settings that `mixed_lora.py` does not compute, besides every LoRA variant but DoRA."""
MAX_RANK = 2**14
MAX_PATTERN_LENGTH = 2000
REPEATED_GROUP = re.compile(r"\)[*+{]")
"""`(a+)+`: matching it may take 2ⁿ steps."""
PEFT_PREFIX = "base_model.model."
"""What PEFT writes before the base's own module names."""


def check_adapter(lane: str, folder: Path, base: nn.Module) -> None:
    """Compare an adapter's files with the base, which may be on the meta device.

    Raises:
        ModelError: names the lane, the folder, and the layer with both sizes where one does not fit.
    """
    with label_errors(lane):
        check_file_hashes(folder)
        check_shapes(folder, read_adapter_config(folder), dict(base.named_modules()))


@contextmanager
def label_errors(lane: str) -> Iterator[None]:
    """Put the lane's name before an error about its adapter."""
    try:
        yield
    except ModelError as error:
        raise ModelError("adapter_checks.in_lane", lane=lane, problem=error.text) from error


def check_file_hashes(folder: Path) -> None:
    """Compare the files of a run's adapter with its manifest, and those of an imported one with its origin.

    Raises:
        ModelError: names the file that has changed.
    """
    try:
        if (folder / checkpoints.MANIFEST).exists():
            checkpoints.verify(folder)
        if (folder / import_origin.ORIGIN).exists():
            import_origin.verify_files(folder)
    except checkpoints.CorruptCheckpoint as error:
        raise ModelError("adapter_checks.changed_file", problem=error.text) from error


def check_shapes(folder: Path, config: LoraConfig, modules: Mapping[str, nn.Module]) -> None:
    """Compare the shapes in the file's header with the base's layers.

    Raises:
        ModelError: names the layer, with both sizes.
    """
    trained_on = config.base_model_name_or_path or Text("adapter_checks.unnamed_base")
    for tensor in adapter_tensors(folder):
        layer, rank = tensor.module, layer_rank(config, tensor.module)
        if layer not in modules:
            raise ModelError("adapter_checks.unknown_layer", folder=folder.name, base=trained_on, layer=layer)
        needed = tensor.expected_shape(modules[layer], rank)
        if needed is not None and needed != tensor.shape:
            raise ModelError("adapter_checks.other_shape", folder=folder.name, base=trained_on, layer=layer, rank=rank,
                             part=tensor.part, shape=format_shape(tensor.shape), needed=format_shape(needed))  # fmt: skip


def read_adapter_config(folder: Path) -> LoraConfig:
    """The adapter's PEFT configuration.

    Raises:
        ModelError: the folder holds no safetensors LoRA adapter, or one that no mixed batch can hold.
    """
    if not folder.is_dir():
        raise ModelError("adapter_checks.no_folder", folder=str(folder))
    if not (folder / WEIGHTS_FILE).exists():
        raise ModelError("adapter_checks.no_safetensors", folder=folder.name)
    resolve.check_configs(folder)
    template_sandbox.check_templates(folder)
    check_initialisation(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError("adapter_checks.bad_config", folder=folder.name, reason=str(error)) from error
    if not isinstance(config, LoraConfig):
        kind = str(config.peft_type).removeprefix("PeftType.")
        raise ModelError("adapter_checks.other_kind", folder=folder.name, kind=kind)
    check_settings(folder, config)
    check_numbers(folder, config)
    for pattern in layer_patterns(config):
        if len(pattern) > MAX_PATTERN_LENGTH or REPEATED_GROUP.search(pattern):
            raise ModelError("adapter_checks.slow_pattern", folder=folder.name, pattern=pattern[:80])
    return config


def check_initialisation(folder: Path) -> None:
    """Refuse an initialisation that changes the base.

    Raises:
        ModelError: tells how to convert the adapter.
    """
    # PEFT initialises a loaded adapter again, and some methods then change the base's weights, for every lane.
    raw = resolve.read_json(folder / CONFIG_FILE)
    named = raw.get("init_lora_weights", True) if isinstance(raw, dict) else True
    if isinstance(named, bool) or named in BASE_PRESERVING_INITS:
        return
    method, init = str(named).lower(), short_repr(named)
    if method.startswith(CONVERTIBLE_INITS):
        raise ModelError("adapter_checks.convert_first", folder=folder.name, init=init)
    if method.startswith(QUANTISING_INIT):
        raise ModelError("adapter_checks.merge_first", folder=folder.name, init=init)
    raise ModelError("adapter_checks.unknown_init", folder=folder.name, init=init)


def check_settings(folder: Path, config: LoraConfig) -> None:
    """Refuse all but LoRA and DoRA for a language model.

    Raises:
        ModelError: names the setting.
    """
    variants = (one.name for one in fields(config) if one.metadata.get("is_lora_variant") and one.name != "use_dora")
    for key in (*variants, *UNSUPPORTED_IN_BATCH):
        if getattr(config, key):
            raise ModelError("adapter_checks.unsupported_setting", folder=folder.name, key=key)
    if config.task_type not in (None, TaskType.CAUSAL_LM):
        raise ModelError("adapter_checks.other_task", folder=folder.name, task=short_repr(config.task_type))
    known, raw = {one.name for one in fields(config)}, resolve.read_json(folder / CONFIG_FILE)
    for key, value in raw.items():
        if key not in known and (value is True or (isinstance(value, dict) and value)):
            raise ModelError("adapter_checks.unknown_setting", folder=folder.name, key=short_repr(key))


def check_numbers(folder: Path, config: LoraConfig) -> None:
    """Require whole ranks of a possible size and finite alphas.

    Raises:
        ModelError: names the number.
    """
    patterns = config.rank_pattern or {}, config.alpha_pattern or {}
    if not all(isinstance(one, dict) for one in patterns):
        raise ModelError("adapter_checks.bad_patterns", folder=folder.name)
    for rank in (config.r, *patterns[0].values()):
        if type(rank) is not int or not 0 < rank <= MAX_RANK:
            raise ModelError("adapter_checks.bad_rank", folder=folder.name, rank=short_repr(rank), most=MAX_RANK)
    for alpha in (config.lora_alpha, *patterns[1].values()):
        if type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise ModelError("adapter_checks.bad_alpha", folder=folder.name, alpha=short_repr(alpha))


def short_repr(value: object) -> str:
    return f"{value!r:.80}"


def layer_patterns(config: LoraConfig) -> Iterator[str]:
    """Every regular expression in the configuration; PEFT matches each against every layer's name."""
    for one in (config.target_modules, config.exclude_modules):
        if isinstance(one, str):
            yield one
    containers = config.layers_pattern or ()
    yield from (containers,) if isinstance(containers, str) else containers
    yield from (*(config.rank_pattern or {}), *(config.alpha_pattern or {}))


@dataclass(frozen=True)
class AdapterTensor:
    """The header of one tensor: the base's module that it adapts, and its part (lora_A, lora_B …)."""

    module: str
    part: str
    shape: tuple[int, ...]

    def expected_shape(self, module: nn.Module, rank: int) -> tuple[int, ...] | None:
        """The shape that fits a linear layer; None for other layers and parts."""
        if not isinstance(module, nn.Linear):
            return None
        shapes = {"lora_A": (rank, module.in_features), "lora_B": (module.out_features, rank)}
        return shapes.get(self.part)


def adapter_tensors(folder: Path) -> Iterator[AdapterTensor]:
    """All tensors of an adapter, from the file's header.

    Raises:
        ModelError: the file is not safetensors, or holds more than LoRA.
    """
    safetensors_check.read_header(folder / WEIGHTS_FILE)
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  (no dict)
    except (SafetensorError, OSError) as error:
        raise ModelError("adapter_checks.bad_weights", folder=folder.name, reason=str(error)) from error
    if not shapes:
        raise ModelError("adapter_checks.no_weights", folder=folder.name)
    for name, shape in shapes.items():
        module, mark, part = name.removeprefix(PEFT_PREFIX).partition(".lora_")
        if not mark:
            raise ModelError("adapter_checks.whole_layer", folder=folder.name, layer=module)
        kind = part.removesuffix(".weight")
        yield AdapterTensor(module, f"lora_{kind}", shape)


def layer_rank(config: LoraConfig, module: str) -> int:
    return int(pattern_value(config.rank_pattern, module, config.r))


def layer_scaling(config: LoraConfig, module: str) -> float:
    """The factor of one layer's change, as in PEFT: alpha ÷ rank, or ÷ √rank for rsLoRA."""
    rank, alpha = layer_rank(config, module), pattern_value(config.alpha_pattern, module, config.lora_alpha)
    return alpha / (math.sqrt(rank) if config.use_rslora else rank)


def pattern_value(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    """The value of one layer: that of the first pattern that matches, as in PEFT, or the adapter's."""
    own = (value for pattern, value in (patterns or {}).items() if re.fullmatch(rf"(.*\.)?({pattern})", module))
    return next(own, default)


def format_shape(shape: tuple[int, ...]) -> str:
    return " × ".join(str(length) for length in shape)


def weights_hash(folder: str) -> str:
    """The first 12 hex digits of the SHA-256 of an adapter's weights."""
    with (Path(folder) / WEIGHTS_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def check_weights_loaded(model: nn.Module, name: str, folder: Path) -> None:
    """Require finite weights from the file in every layer of the adapter; `name` is PEFT's.

    Raises:
        ModelError: names the first layer and tensor that the file lacks, or that holds NaN or infinity.
    """
    # PEFT only warns of missing weights and leaves them random. NaN would spoil every lane: 0 · NaN is NaN.
    held = {(tensor.module, tensor.part) for tensor in adapter_tensors(folder)}
    for path, layer in adapter_layers(model, name):
        module = path.removeprefix(PEFT_PREFIX)
        for part in adapter_parts(layer, name):
            if (module, part) not in held:
                raise ModelError("adapter_checks.missing_tensor", folder=str(folder), layer=module, part=part)
            holder = getattr(layer, part)[name]
            weight: torch.Tensor = getattr(holder, "weight", holder)
            if not weight.isfinite().all():
                raise ModelError("adapter_checks.not_finite", folder=folder.name, layer=module, part=part)


def adapter_parts(layer: Any, name: str) -> tuple[str, ...]:
    """The names of an adapter's tensors in one layer."""
    magnitude = ("lora_magnitude_vector",) if layer.use_dora[name] else ()
    return ("lora_A", "lora_B", *magnitude) if name in layer.lora_A else ("lora_embedding_A", "lora_embedding_B")


def adapter_layers(model: nn.Module, name: str) -> Iterator[tuple[str, Any]]:
    """The layers that an adapter changes, with their paths."""
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer) and (name in module.lora_A or name in module.lora_embedding_A):
            yield path, module
