"""Loads one base with the adapters of all lanes, and measures how far each lane is from the base."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Precision
from trainer_core.errors import ConfigError, ModelError, UserError
from trainer_core.inference import adapter_checks
from trainer_core.inference.mixed_lora import AdapterWeights, install_mixed_lora
from trainer_core.runs.compare_events import AdapterCheck
from trainer_core.runs.compare_requests import AdjustLaneRequest

Mixture = tuple[float, ...]
"""The share of each loaded adapter."""
CHECK_PROMPT = "What is a good day?"


@dataclass(frozen=True)
class LaneSet:
    """The loaded model with its lanes; `adapters` are folders."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    lanes: tuple[Lane, ...]
    adapters: tuple[str, ...]
    effective_adapters: frozenset[str]
    """The adapters with an effect; a lane of others is computed as the base."""
    shares: AdapterWeights

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(lane.name for lane in self.lanes)

    def find_lane(self, name: str) -> Lane:
        """The lane with this name.

        Raises:
            UserError: it is not loaded.
        """
        found = next((lane for lane in self.lanes if lane.name == name), None)
        if found is None:
            raise UserError("loaded_lanes.unknown", name=name, loaded=", ".join(self.names))
        return found

    def subset(self, names: Collection[str]) -> LaneSet:
        """The same model with these lanes alone."""
        return replace(self, lanes=tuple(lane for lane in self.lanes if lane.name in names))

    @cached_property
    def mixtures(self) -> dict[str, Mixture]:
        """Lane → its share of each adapter."""
        return {lane.name: tuple(self.adapter_share(lane, folder) for folder in self.adapters) for lane in self.lanes}

    def adapter_share(self, lane: Lane, folder: str) -> float:
        return lane.adapter_shares.get(folder, 0.0) if folder in self.effective_adapters else 0.0

    @property
    def base_mixture(self) -> Mixture:
        """The mixture of the base alone."""
        return (0.0,) * len(self.adapters)

    def forward(self, rows: Sequence[Mixture], **inputs: Any) -> Any:
        """One pass over a batch; `rows` holds each row's mixture."""
        self.shares.set_rows(torch.tensor(rows, dtype=torch.float32, device=self.device))
        with torch.inference_mode():
            return self.model(**inputs)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context_length(self) -> int:
        """In tokens."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    @property
    def vocabulary_size(self) -> int:
        return int(self.model.config.get_text_config().vocab_size)

    @cached_property
    def end_token_ids(self) -> frozenset[int]:
        """The end tokens of the model and of the tokenizer."""
        named = self.model.generation_config.eos_token_id
        several = named if isinstance(named, list) else [named]
        return frozenset(token for token in (*several, self.tokenizer.eos_token_id) if token is not None)


def load_lanes(model: str, precision: Precision, lanes: Sequence[Lane]) -> LaneSet:
    """Load the base once, with the adapters of all lanes.

    Raises:
        ConfigError: two lanes have the same name.
        ModelError: names the model or adapter that cannot be loaded.
    """
    name, count = Counter(lane.name for lane in lanes).most_common(1)[0]
    if count > 1:
        raise ConfigError("loaded_lanes.same_name", count=count, name=name)
    owners = {folder: lane for lane in reversed(lanes) for folder in lane.adapter_folders}
    try:
        check_adapter_files(model, owners)
        tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        base: Any = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, **weight_options(precision))
    except (OSError, ValueError) as error:
        raise ModelError("loaded_lanes.bad_model", model=model, reason=str(error)) from error
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)  # torch 2.13: NaN with padded batches (trl#7181)
    base.get_output_embeddings().register_forward_pre_hook(contiguous_hidden)
    shares = AdapterWeights()
    tuned, effective = mix_adapters(base, owners, shares)
    tokenizer = with_adapter_template(tokenizer, owners)
    return LaneSet(tuned.eval(), tokenizer, tuple(lanes), tuple(owners), effective, shares)


def with_adapter_template(tokenizer: PreTrainedTokenizerBase, folders: Iterable[str]) -> PreTrainedTokenizerBase:
    """The tokenizer with an adapter's chat template if the base has none; it applies to every lane."""
    saved = (Path(folder) / "chat_template.jinja" for folder in folders)
    if not tokenizer.chat_template and (file := next(filter(Path.is_file, saved), None)):
        tokenizer.chat_template = file.read_text(encoding="utf-8")
    return tokenizer


def contiguous_hidden(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    # The selected positions are strided, and torch would copy the whole head for each of their rows.
    return (args[0].contiguous(), *args[1:])


def check_adapter_files(model: str, owners: Mapping[str, Lane]) -> None:
    """Check every adapter against an outline of the base on the meta device.

    Raises:
        ModelError: names the lane whose adapter is refused.
    """
    # Loading the base takes minutes, so a wrong adapter is refused before it.
    config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    for folder, lane in owners.items():
        adapter_checks.check_adapter(lane.name, Path(folder), outline)


def mix_adapters(base: Any, owners: Mapping[str, Lane], shares: AdapterWeights) -> tuple[Any, frozenset[str]]:
    """The base with all adapters, mixed per row, and the folders of those with an effect.

    Raises:
        ModelError: an adapter does not fit the base.
    """
    if not owners:
        return base, frozenset()
    folders = {f"adapter{index}": folder for index, folder in enumerate(owners)}
    for name, folder in folders.items():
        with adapter_checks.label_errors(owners[folder].name):
            base = add_adapter(base, name, Path(folder))
    effective = install_mixed_lora(base, list(folders), shares)
    return base.get_base_model(), frozenset(folders[name] for name in effective)


def add_adapter(model: Any, name: str, folder: Path) -> PeftModel:
    """The model with one more PEFT adapter.

    Raises:
        ModelError: it does not fit the base.
    """
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError("loaded_lanes.bad_fit", folder=str(folder), reason=str(error)[:300]) from error
    adapter_checks.check_weights_loaded(model, name, folder)
    return model


def weight_options(precision: Precision) -> dict[str, Any]:
    """Options of `from_pretrained`. "auto" is 4-bit on a GPU and 32-bit on a CPU."""
    on_gpu = torch.cuda.is_available()
    if precision == "auto":
        precision = "nf4" if on_gpu else "fp32"
    place = {"device_map": {"": 0}} if on_gpu else {}
    half = half_dtype()
    if precision == "nf4":
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=half,
        )
        return {"quantization_config": four_bit, "dtype": half, **place}
    return {"dtype": torch.float32 if precision == "fp32" else half, **place}


def half_dtype(cuda: Any = torch.cuda) -> torch.dtype:
    """The 16-bit format of the device, as in training: float16 where bfloat16 is only emulated (Turing)."""
    emulated = cuda.is_available() and not cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if emulated else torch.bfloat16


def verify_adapters(lanes: LaneSet) -> tuple[AdapterCheck, ...]:
    """Each lane's adapter hashes, and the largest difference of its logits from the base's on a fixed prompt."""
    # The base is a row of the same batch: rounding is then the same, and a lane without an effect differs by exactly 0.
    rows = [lanes.base_mixture, *lanes.mixtures.values()]
    ids = lanes.tokenizer(CHECK_PROMPT, return_tensors="pt")["input_ids"].to(lanes.device).expand(len(rows), -1)
    logits = lanes.forward(rows, input_ids=ids).logits.float()
    difference = (logits[1:] - logits[:1]).abs().flatten(1).amax(1).tolist()
    return tuple(
        AdapterCheck(lane.name, adapter_hashes(lane), far, lane.strength, lane.share if lane.other else 0.0)
        for lane, far in zip(lanes.lanes, difference, strict=True)
    )


def adapter_hashes(lane: Lane) -> str:
    return " + ".join(adapter_checks.weights_hash(folder) for folder in lane.adapter_folders)


def with_adjusted_lane(lanes: LaneSet, request: AdjustLaneRequest) -> LaneSet:
    """The lanes, one of them with another strength or blend.

    Raises:
        UserError: a lane is not loaded, or has no adapter.
    """
    lane, other = lanes.find_lane(request.lane), lanes.find_lane(request.other) if request.other else None
    for one in (lane, other):
        if one and not one.adapter:
            raise UserError("loaded_lanes.no_adapter", lane=one.name)
    change = {"strength": request.strength, "other": other and other.adapter, "share": request.share}
    changed = lane.model_copy(update=change)
    return replace(lanes, lanes=tuple(changed if one is lane else one for one in lanes.lanes))
