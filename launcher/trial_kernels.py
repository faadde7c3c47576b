"""Kernels of the trial on a card: an RMS norm in Triton and one compiled by torch, forward and backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS = COLUMNS = 64
EPSILON = 1e-6
TOLERANCE = 1e-3
"""Both sides compute in float32; sums of 64 terms differ only by their order."""


@triton.jit
def rms_norm_kernel(x, weight, y, columns: tl.constexpr, epsilon: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.program_id(0), tl.arange(0, columns)
    values = tl.load(x + row * columns + column)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, axis=0) / columns + epsilon)
    tl.store(y + row * columns + column, values * scale * tl.load(weight + column))


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * weight


def make_inputs(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(ROWS, COLUMNS, generator=random), torch.randn(COLUMNS, generator=random)
    return x.to(device), weight.to(device)


def kernel_error(device: str) -> float:
    """Launch the kernel; returns the largest difference from torch's result."""
    x, weight = make_inputs(device)
    y = torch.empty_like(x)
    rms_norm_kernel[(ROWS,)](x, weight, y, COLUMNS, EPSILON)
    return float((y - rms_norm(x, weight)).abs().max())


def measure_compile_error(device: str) -> float:
    """Compile forward and backward; returns the largest difference of value and gradients from torch's."""
    plain, compiled = compute_gradients(rms_norm, device), compute_gradients(torch.compile(rms_norm), device)
    return max(float((ours - theirs).abs().max()) for ours, theirs in zip(compiled, plain, strict=True))


def compute_gradients(function, device: str) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
    x, weight = (tensor.requires_grad_() for tensor in make_inputs(device))
    y = function(x, weight)
    y.square().sum().backward()
    return [y.detach(), x.grad, weight.grad]
