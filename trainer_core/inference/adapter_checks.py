"""Checks an adapter folder before it is loaded onto the base."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
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
from trainer_core.runs import checkpoints

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
BASE_PRESERVING_INITS = ("gaussian", "eva", "orthogonal")
"""Initialisations by which PEFT 0.21 changes the adapter alone; the file's weights then take the place of what they made."""
CONVERT_ADVICE = (
    "Where it was trained, save it with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...), "
    "which makes plain LoRA of it, and open that folder."
)
BASE_CHANGING_INITS = {
    "pissa": CONVERT_ADVICE,
    "olora": CONVERT_ADVICE,
    "corda": CONVERT_ADVICE,
    "lora_ga": CONVERT_ADVICE,
    "loftq": "Merge it into the base that it was trained on, with PEFT's merge_and_unload, and open the result as a model.",
}
"""The first four take the adapter's beginning out of the base, LoftQ puts a rounded base in its place."""
UNSUPPORTED_IN_BATCH = (
    "target_parameters",
    "lora_bias",
    "layer_replication",
    "use_qalora",
    "modules_to_save",
    "trainable_token_indices",
    "megatron_config",
)
"""Settings of PEFT that `mixed_lora.py` does not compute, besides all that PEFT calls a variant but DoRA."""
MAX_RANK = 2**14
MAX_PATTERN_LENGTH = 2000
REPEATED_GROUP = re.compile(r"\)[*+{]")
"""`(a+)+`: a search for it may take 2ⁿ steps."""
PREFIX = "base_model.model."
"""What PEFT writes before the base's own module names."""


def check_adapter(lane: str, folder: Path, base: nn.Module) -> None:
    """Compare the header of a lane's adapter with the base (which may lie on the meta device), before anything is loaded.

    Raises:
        ModelError: naming the lane, the folder, and the layer with both sizes where one does not fit.
    """
    if (folder / checkpoints.MANIFEST).exists():
        check_file_hashes(lane, folder)
    config = read_adapter_config(lane, folder)
    origin = f"{lane}: {folder.name} was trained on {config.base_model_name_or_path or 'an unnamed model'}"
    modules = dict(base.named_modules())
    for tensor in adapter_tensors(lane, folder):
        module, rank = modules.get(tensor.module), layer_rank(config, tensor.module)
        if module is None:
            raise ModelError(f"{origin} and adapts {tensor.module}, which this base model does not have.")
        expected = tensor.expected_shape(module, rank)
        if expected is not None and expected != tensor.shape:
            raise ModelError(
                f"{origin}. Its {tensor.part} for {tensor.module} is {format_shape(tensor.shape)}, but this base model with "
                f"rank {rank} needs {format_shape(expected)}. Pick the base it was trained on."
            )


def check_file_hashes(lane: str, folder: Path) -> None:
    """Is every file of a run's folder as the run wrote it? One of another origin has nothing to tell by.

    Raises:
        ModelError: naming the lane and the file.
    """
    try:
        checkpoints.verify(folder)
    except checkpoints.CorruptCheckpoint as error:
        raise ModelError(f"{lane}: {error} Open another step of its run, or train again.") from error


@contextmanager
def label_errors(lane: str) -> Iterator[None]:
    """What is wrong with a folder is said with the lane that it is for."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{lane}: {error}") from error


def read_adapter_config(lane: str, folder: Path) -> LoraConfig:
    """The adapter's own description.

    Raises:
        ModelError: the folder holds no safetensors LoRA adapter, or one that no mixed batch can hold.
    """
    if not folder.is_dir():
        raise ModelError(f"{lane}: there is no adapter folder {folder}.")
    if not (folder / WEIGHTS).exists():
        raise ModelError(f"{lane}: {folder.name} has no {WEIGHTS}. Pickled adapters are refused: they can run code.")
    with label_errors(lane):
        resolve.check_configs(folder)
        template_sandbox.check_templates(folder)
        check_initialisation(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{lane}: {folder.name}/adapter_config.json cannot be read: {error}") from error
    if not isinstance(config, LoraConfig):
        raise ModelError(f"{lane}: {folder.name} is a {config.peft_type} adapter; Compare takes LoRA adapters.")
    with label_errors(lane):
        check_kind(folder, config)
        check_numbers(folder, config)
    for pattern in layer_patterns(config):
        if len(pattern) > MAX_PATTERN_LENGTH or REPEATED_GROUP.search(pattern):
            raise ModelError(
                f"{lane}: {folder.name} names its layers by {pattern[:80]!r}, which may search for ever. Refused."
            )
    return config


def check_initialisation(folder: Path) -> None:
    """Adding an adapter must not change the base: PEFT runs its initialisation again, which for some takes a part out of the
    base's weights, for every lane.

    Raises:
        ModelError: with the way to convert it.
    """
    raw = resolve.read_json(folder / CONFIG)
    named = raw.get("init_lora_weights", True) if isinstance(raw, dict) else True
    if isinstance(named, bool) or named in BASE_PRESERVING_INITS:
        return
    known = next((method for method in BASE_CHANGING_INITS if str(named).lower().startswith(method)), "")
    if not known:
        raise ModelError(f"{folder.name} was initialised by {named!r:.80}, which Compare does not know. Refused.")
    raise ModelError(
        f"{folder.name} was initialised by {named!r:.80}, so it belongs to a base that this changed: opened, it would change the "
        f"base of every lane. {BASE_CHANGING_INITS[known]}"
    )


def check_kind(folder: Path, config: LoraConfig) -> None:
    """It is LoRA or DoRA for a language model, in layers that see whole rows, and nothing beside.

    Raises:
        ModelError: naming the setting.
    """
    variants = (one.name for one in fields(config) if one.metadata.get("is_lora_variant") and one.name != "use_dora")
    for key in (*variants, *UNSUPPORTED_IN_BATCH):
        if getattr(config, key):
            raise ModelError(f"{folder.name} uses {key}, which cannot share a batch with other adapters.")
    if config.task_type not in (None, TaskType.CAUSAL_LM):
        raise ModelError(
            f"{folder.name} is for the task {config.task_type!r:.80}; Compare takes adapters that write text."
        )
    known, raw = {one.name for one in fields(config)}, resolve.read_json(folder / CONFIG)
    for key, value in raw.items():
        if key not in known and (value is True or (isinstance(value, dict) and value)):
            raise ModelError(
                f"{folder.name} has {key!r:.80} switched on, which this version of PEFT does not know and would leave out. "
                "Update Tunebench, or train the adapter without it."
            )


def check_numbers(folder: Path, config: LoraConfig) -> None:
    """Ranks are whole numbers of a possible size, alphas finite.

    Raises:
        ModelError: naming the number.
    """
    own = config.rank_pattern or {}, config.alpha_pattern or {}
    if not all(isinstance(one, dict) for one in own):
        raise ModelError(f"{folder.name}/{CONFIG}: rank_pattern and alpha_pattern are no tables. Refused.")
    for rank in (config.r, *own[0].values()):
        if type(rank) is not int or not 0 < rank <= MAX_RANK:
            raise ModelError(
                f"{folder.name} has the rank {rank!r:.80}; a rank is a whole number from 1 to {MAX_RANK:,}."
            )
    for alpha in (config.lora_alpha, *own[1].values()):
        if type(alpha) not in (int, float) or not math.isfinite(alpha):
            raise ModelError(f"{folder.name} has the lora_alpha {alpha!r:.80}; it must be a finite number.")


def layer_patterns(config: LoraConfig) -> Iterator[str]:
    """Every regular expression of an adapter's description; PEFT tries each on the name of each layer."""
    for one in (config.target_modules, config.exclude_modules):
        if isinstance(one, str):
            yield one
    inner = config.layers_pattern or ()
    yield from (inner,) if isinstance(inner, str) else inner
    yield from (*(config.rank_pattern or {}), *(config.alpha_pattern or {}))


@dataclass(frozen=True)
class AdapterTensor:
    """One tensor of an adapter file: the base's module it belongs to, and its part there (lora_A, lora_B …)."""

    module: str
    part: str
    shape: tuple[int, ...]

    def expected_shape(self, module: nn.Module, rank: int) -> tuple[int, ...] | None:
        """The shape that fits a linear layer; None where only PEFT can tell."""
        if not isinstance(module, nn.Linear):
            return None
        shapes = {"lora_A": (rank, module.in_features), "lora_B": (module.out_features, rank)}
        return shapes.get(self.part)


def adapter_tensors(lane: str, folder: Path) -> Iterator[AdapterTensor]:
    """All tensors of an adapter, from the file's header alone.

    Raises:
        ModelError: the file is not safetensors, or holds more than LoRA.
    """
    with label_errors(lane):
        safetensors_check.read_header(folder / WEIGHTS)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  (no dict)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{lane}: {folder.name}/{WEIGHTS} cannot be read: {error}. Copy the file again.") from error
    if not shapes:
        raise ModelError(f"{lane}: {folder.name}/{WEIGHTS} is empty.")
    for name, shape in shapes.items():
        module, mark, part = name.removeprefix(PREFIX).partition(".lora_")
        if not mark:
            raise ModelError(
                f"{lane}: {folder.name} also holds the whole layer {module}. Compare takes adapters of LoRA weights alone."
            )
        kind = part.removesuffix(".weight")
        yield AdapterTensor(module, f"lora_{kind}", shape)


def layer_rank(config: LoraConfig, module: str) -> int:
    """The rank of one layer: its own where a pattern of the config names it, as PEFT matches them, or else that of all."""
    own = (
        rank for pattern, rank in (config.rank_pattern or {}).items() if re.fullmatch(rf"(.*\.)?({pattern})", module)
    )
    return next(own, config.r)


def format_shape(shape: tuple[int, ...]) -> str:
    return " × ".join(str(length) for length in shape)


def weights_hash(folder: str) -> str:
    """The first 12 hex digits of the hash of an adapter's weights."""
    with (Path(folder) / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def check_weights_loaded(model: nn.Module, name: str, lane: str, folder: Path) -> None:
    """Every layer that now carries the adapter got its weights from the file, and they are numbers. PEFT only warns, and leaves
    what is missing random; NaN would spoil every lane, for a share of 0 times NaN is NaN.

    Raises:
        ModelError: naming the first layer and tensor that the file lacks, or that holds NaN or infinity.
    """
    held = {(tensor.module, tensor.part) for tensor in adapter_tensors(lane, folder)}
    for path, layer in adapter_layers(model, name):
        module = path.removeprefix(PREFIX)
        for part in adapter_parts(layer, name):
            if (module, part) not in held:
                raise ModelError(f"{lane}: {folder} should adapt {module}, but its {WEIGHTS} has no {part} for it.")
            holder = getattr(layer, part)[name]
            weight: torch.Tensor = getattr(holder, "weight", holder)
            if not weight.isfinite().all():
                raise ModelError(
                    f"{lane}: {folder.name} holds NaN or infinity in {part} for {module}, so its training went wrong. "
                    "Open an earlier step of its run."
                )


def adapter_parts(layer: Any, name: str) -> tuple[str, ...]:
    """The tensors that make up an adapter in one layer."""
    magnitude = ("lora_magnitude_vector",) if layer.use_dora[name] else ()
    return ("lora_A", "lora_B", *magnitude) if name in layer.lora_A else ("lora_embedding_A", "lora_embedding_B")


def adapter_layers(model: nn.Module, name: str) -> Iterator[tuple[str, Any]]:
    """The layers that an adapter changes, with their paths."""
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer) and (name in module.lora_A or name in module.lora_embedding_A):
            yield path, module
