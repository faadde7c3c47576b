"""Many LoRA adapters on one base in one pass, with a share of each adapter for every row."""

# The adapters' matrices of a layer are concatenated, so one product serves all of them: W x + B (shares · A x). This is the
# sum of the adapters' changes (PEFT's "cat" combination): share 0 adds exactly nothing, 1 is the adapter as trained, and
# blends and strengths need no reload. PEFT's own mixed batch gathers and scatters the rows of each adapter in each layer,
# which took half the time of a small model.
#
# On a base in 16 or 4 bits the adapters are stored and multiplied in 32 bits, and rounded where PEFT rounds. A LoRA lane then
# has the logits of plain PEFT, bit for bit in a batch of the same shape; adapters in 16 bits were up to a fifth further from
# the exact logits.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Embedding, Linear, LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from torch.nn import functional as F

from trainer_core.errors import ModelError


class AdapterWeights:
    """The adapters' shares in the next pass, rows × adapters; all layers read them."""

    def __init__(self) -> None:
        self.all_zero = True
        self._rows = torch.zeros(0, 0)
        self._rank_weights: dict[tuple[int, ...], torch.Tensor] = {}

    def set_rows(self, rows: torch.Tensor) -> None:
        self._rows, self._rank_weights = rows, {}
        self.all_zero = not rows.any().item()

    def rank_weights(self, ranks: tuple[int, ...]) -> torch.Tensor:
        """Rows × 1 × sum of ranks: an adapter's share, once for each of its ranks."""
        if ranks not in self._rank_weights:
            counts = torch.tensor(ranks, device=self._rows.device)
            self._rank_weights[ranks] = self._rows.repeat_interleave(counts, 1)[:, None]
        return self._rank_weights[ranks]

    def gain_weights(self, gains: torch.Tensor) -> torch.Tensor:
        """Rows × 1 × outputs: each row's weighted sum of the gains."""
        return (self._rows @ gains)[:, None]


@dataclass(frozen=True)
class LayerAdapter:
    """One adapter in one layer, with its scaling applied.

    Args:
        down: rank × inputs (for an embedding: rank × vocabulary).
        up: outputs × rank.
        gain: outputs, for DoRA.
    """

    down: torch.Tensor
    up: torch.Tensor
    gain: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def has_effect(self) -> bool:
        return bool(self.up.any() and self.down.any()) or self.gain is not None


class MixedLora(nn.Module):
    """A layer of the base with all its adapters; replaces PEFT's layer."""

    def __init__(self, layer: Any, parts: Sequence[LayerAdapter | None], shares: AdapterWeights):
        super().__init__()
        self.down: torch.Tensor
        self.up: torch.Tensor
        self.gains: torch.Tensor | None
        self.base_layer, self.shares = layer.get_base_layer(), shares
        held = [part for part in parts if part]
        self.ranks = tuple(part.rank if part else 0 for part in parts)
        down, up = torch.cat([part.down for part in held]), torch.cat([part.up for part in held], 1)
        embedding = isinstance(self.base_layer, nn.Embedding)
        self.project: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.embedding if embedding else apply_linear
        self.rounds_delta = not isinstance(layer, Linear | Embedding)
        self.register_buffer("down", (down.T if embedding else down).contiguous(), persistent=False)
        self.register_buffer("up", up.contiguous(), persistent=False)
        self.register_buffer("gains", stack_gains(parts, up.shape[0]), persistent=False)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.shares.all_zero:
            return result
        shares = self.shares.rank_weights(self.ranks)
        if x.shape[0] != shares.shape[0]:
            raise ModelError("mixed_lora.expert_layer")
        added = F.linear(self.project(x, self.down) * shares, self.up)
        if self.gains is not None:
            bias = getattr(self.base_layer, "bias", None)
            plain = result if bias is None else result - bias
            added = added + self.shares.gain_weights(self.gains) * plain
        added = added.to(result.dtype) if self.rounds_delta else added
        return (result + added).to(result.dtype)


def apply_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(x.to(weight.dtype), weight)


def stack_gains(parts: Sequence[LayerAdapter | None], outputs: int) -> torch.Tensor | None:
    """Adapters × outputs, 0 for adapters without a gain; None if no adapter has one."""
    gains = [part.gain if part else None for part in parts]
    if not any(gain is not None for gain in gains):
        return None
    device = next(gain.device for gain in gains if gain is not None)
    blank = torch.zeros(outputs, device=device)
    return torch.stack([blank if gain is None else gain for gain in gains])


def install_mixed_lora(model: nn.Module, names: Sequence[str], shares: AdapterWeights) -> set[str]:
    """Replace PEFT's LoRA layers by MixedLora; returns the names of the adapters with an effect.

    Args:
        names: PEFT's names of the adapters, in the order of the shares' columns.

    Raises:
        ModelError: an adapter changes a convolution.
    """
    effective: set[str] = set()
    for path, layer in [found for found in model.named_modules() if isinstance(found[1], LoraLayer)]:
        parts = [layer_adapter(layer, name, path) for name in names]
        effective |= {name for name, part in zip(names, parts, strict=True) if part and part.has_effect}
        owner, _, child = path.rpartition(".")
        setattr(model.get_submodule(owner), child, MixedLora(layer, parts, shares))
    return effective


def layer_adapter(layer: Any, name: str, path: str) -> LayerAdapter | None:
    """One adapter's weights in one of PEFT's layers; None if it does not change that layer.

    Raises:
        ModelError: the layer is a convolution.
    """
    if name in layer.lora_embedding_A and not layer.use_dora[name]:
        scale = layer._get_embed_scale()
        factor = layer.scaling[name] * (1.0 if scale is None else float(scale))
        return LayerAdapter(layer.lora_embedding_A[name].detach(), layer.lora_embedding_B[name].detach() * factor)
    if name not in layer.lora_A:
        return None
    down, up = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach() * layer.scaling[name]
    if down.dim() != 2:
        raise ModelError("mixed_lora.convolution", layer=path)
    return dora_adapter(layer, name, down, up) if layer.use_dora[name] else LayerAdapter(down, up)


def dora_adapter(layer: Any, name: str, down: torch.Tensor, up: torch.Tensor) -> LayerAdapter:
    """DoRA with frozen weights: s · (Wx + BAx) − Wx = (s − 1) · Wx + s · BAx, where s is magnitude ÷ column norm of W + BA.

    Source: Liu 2024, equation 5.
    """
    # The norm is constant: PEFT computes it in every pass, this once.
    magnitude = layer.lora_magnitude_vector[name]
    delta = up @ down
    weight = dequantize_module_weight(layer.get_base_layer()).to(delta.dtype)
    size = magnitude.get_weight_norm(weight, delta, 1.0)
    scale = (magnitude.weight.detach() / size).detach()
    return LayerAdapter(down, up * scale[:, None], scale - 1)
