"""torch as on an RTX 4090 or a T4, without a card: what is put on it stays in main memory.

So the classes, patches and kernels that Unsloth has for CUDA are really taken. Not there: memory, speed, `torch.compile`, and
bitsandbytes' kernels for CUDA. Only for a process of its own, since it changes torch for good.
"""

from __future__ import annotations

import contextlib
import os
import types
from dataclasses import dataclass
from functools import partial
from typing import Any

UUID = "GPU-00000000-0000-0000-0000-000000000000"
GIB = 2**30
ENVIRONMENT = {
    "TRITON_INTERPRET": "1",  # before anything imports triton: what is decorated earlier is not interpreted
    "TORCHDYNAMO_DISABLE": "1",
    "HF_DEACTIVATE_ASYNC_LOAD": "1",  # other threads do not know the card
    "CUDA_VISIBLE_DEVICES": UUID,
}
"""For the process, from its start."""


@dataclass(frozen=True)
class Card:
    name: str
    capability: tuple[int, int]
    total: int
    free: int


RTX_4090 = Card("NVIDIA GeForce RTX 4090", (8, 9), 24 * GIB, 22 * GIB)
TESLA_T4 = Card("Tesla T4", (7, 5), 16 * GIB, 15 * GIB)


class Inert:
    """A stream, an event, a device guard: nothing waits for anything here."""

    cuda_stream, idx = 0, 0

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def install_card(card: Card) -> None:
    """From now on torch answers as with that card."""
    import bitsandbytes  # noqa: F401  before torch says that it has CUDA: it loads its library for the processor
    import torch

    answers = cuda_answers(card)
    for name, value in answers.items():
        setattr(torch.cuda, name, value)
    torch.cuda.random.get_rng_state = torch.cuda.get_rng_state
    torch.cuda.random.set_rng_state = torch.cuda.set_rng_state
    for name, value in accelerator_answers(card, answers).items():
        setattr(torch.accelerator, name, value)
    torch._C._cuda_getCurrentRawStream = lambda _: 0  # type: ignore[attr-defined]
    torch._C._cuda_getDeviceCount = lambda: 1
    torch.version.cuda = "13.0"
    os.geteuid = lambda: 1000  # as root and without bitsandbytes' CUDA library, unsloth runs ldconfig
    redirect_autocast()
    tensors_in_main_memory().__enter__()


def cuda_answers(card: Card) -> dict[str, Any]:
    """What torch.cuda answers, by name."""
    import torch

    state = torch.zeros(16, dtype=torch.uint8)
    properties = types.SimpleNamespace(
        name=card.name, total_memory=card.total, major=card.capability[0], minor=card.capability[1], multi_processor_count=128,
        warp_size=32, gcnArchName="", uuid=UUID.removeprefix("GPU-"), max_threads_per_multi_processor=1536,
        L2_cache_size=72 * 2**20, shared_memory_per_block=49152, shared_memory_per_block_optin=101376,
        regs_per_multiprocessor=65536, is_integrated=0, is_multi_gpu_board=0,
    )  # fmt: skip

    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return card.capability >= (8, 0) or including_emulation  # as torch: a T4 "supports" it, slowly

    zeros = ("memory_reserved", "max_memory_reserved", "memory_allocated", "max_memory_allocated", "current_device")
    silent = (
        "init", "_lazy_init", "synchronize", "empty_cache", "ipc_collect", "reset_peak_memory_stats", "set_device",
        "reset_max_memory_allocated", "set_per_process_memory_fraction", "set_stream", "manual_seed", "manual_seed_all",
        "seed_all", "set_rng_state", "set_rng_state_all",
    )  # fmt: skip
    return {
        **{name: lambda *_, **__: 0 for name in zeros},
        **{name: lambda *_, **__: None for name in silent},
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "device_count": lambda: 1,
        "get_device_properties": lambda *_, **__: properties,
        "get_device_capability": lambda *_, **__: card.capability,
        "get_device_name": lambda *_, **__: card.name,
        "is_bf16_supported": is_bf16_supported,
        "mem_get_info": lambda *_, **__: (card.free, card.total),
        "memory_stats": lambda *_, **__: {},
        "get_per_process_memory_fraction": lambda *_: 1.0,
        "get_rng_state": lambda *_, **__: state,
        "get_rng_state_all": lambda: [state],
        "get_arch_list": lambda: ["sm_75", "sm_80", "sm_86", "sm_90", "sm_120"],
        "current_stream": lambda *_, **__: Inert(),
        "default_stream": lambda *_, **__: Inert(),
        "stream": lambda *_: contextlib.nullcontext(),
        "device": Inert, "device_of": Inert, "Stream": Inert, "Event": Inert,
    }  # fmt: skip


def accelerator_answers(card: Card, cuda: dict[str, Any]) -> dict[str, Any]:
    """What torch.accelerator answers, by name."""
    import torch

    same = (
        "synchronize", "empty_cache", "reset_peak_memory_stats", "memory_reserved", "max_memory_reserved",
        "memory_allocated", "max_memory_allocated", "current_stream", "set_stream", "memory_stats",
    )  # fmt: skip
    return {
        **{name: cuda[name] for name in same},
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_accelerator": lambda *_, **__: torch.device("cuda"),
        "current_device_index": lambda: 0,
        "get_memory_info": lambda *_, **__: (card.free, card.total),
    }


def redirect_autocast() -> None:
    """Autocast for the card is autocast for the processor."""
    import torch

    usual = torch.autocast.__init__

    def autocast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        usual(self, "cpu" if str(device_type).startswith("cuda") else device_type, *args, **kwargs)

    torch.autocast.__init__ = autocast  # type: ignore[method-assign]
    for name in ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_enabled", "set_autocast_dtype"):
        default = ("cpu",) if name == "is_autocast_enabled" else ()
        setattr(torch, name, partial(ask_processor, getattr(torch, name), default))
    torch.get_autocast_gpu_dtype = lambda: torch.get_autocast_dtype("cpu")


def ask_processor(usual: Any, default: tuple[str, ...], *args: Any) -> Any:
    """Autocast's state for the processor, where that of the card is asked for."""
    if args and isinstance(args[0], str) and args[0].startswith("cuda"):
        args = ("cpu", *args[1:])
    return usual(*(args or default))


def tensors_in_main_memory() -> Any:
    """A mode in which every tensor that shall lie on the card lies in main memory."""
    import torch
    from torch.overrides import TorchFunctionMode

    def resolve(device: Any) -> Any:
        card = (isinstance(device, torch.device) and device.type == "cuda") or (
            isinstance(device, str) and device.startswith("cuda")
        )
        return torch.device("cpu") if card or type(device) is int else device

    class InMainMemory(TorchFunctionMode):
        def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
            if func is torch.device:  # number 0 is the card, and has an index, which unsloth keeps lists by
                return torch.device("cpu", 0) if args and type(args[0]) is int else func(*args, **kwargs)
            if "device" in kwargs:
                kwargs["device"] = resolve(kwargs["device"])
            kwargs.pop("pin_memory", None) if kwargs.get("pin_memory") else None
            if name in ("cuda", "pin_memory"):
                return args[0]
            if name == "is_pinned":
                return False
            if name == "record_stream":
                return None
            if name == "to":
                args = (args[0], *(resolve(argument) for argument in args[1:]))
            return func(*args, **kwargs)

    return InMainMemory()
