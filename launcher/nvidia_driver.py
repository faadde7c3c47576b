"""Queries the NVIDIA driver and its cards through NVML, which is part of it.

Uses ctypes, because nothing is installed yet; once .venv exists, trainer_core/system/hardware.py uses
nvidia-ml-py.
"""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass, replace

from launcher.paths import WINDOWS


@dataclass(frozen=True)
class DriverGpu:
    """A card, or a MIG slice of one. `unusable`: why CUDA cannot run on it with any driver, or empty.

    free_bytes, total_bytes: 0 if the driver does not report them.
    """

    name: str
    capability: tuple[int, int]
    index: int = 0
    uuid: str = ""
    unusable: str = ""
    free_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True)
class NvidiaDriver:
    """NVML's answers. `error`: NVML's code, 0 on success; `cuda`: the newest CUDA it supports, 13.0 as 13000."""

    error: int = 0
    version: str = ""
    cuda: int = 0
    gpus: tuple[DriverGpu, ...] = ()


class NvmlMemory(ctypes.Structure):
    """NVML's nvmlMemory_t, in bytes."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def read_driver() -> NvidiaDriver | None:
    """None if no NVIDIA driver is installed. nvidia-smi is not needed."""
    for name in ["nvml.dll"] if WINDOWS else ["libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1"]:
        with contextlib.suppress(OSError):
            return query_driver(ctypes.CDLL(name))
    return None


def query_driver(nvml: ctypes.CDLL) -> NvidiaDriver:
    error = nvml.nvmlInit_v2()
    if error:
        return NvidiaDriver(error=error)
    version, cuda, count = ctypes.create_string_buffer(80), ctypes.c_int(), ctypes.c_uint()
    error = (
        nvml.nvmlSystemGetDriverVersion(version, len(version))
        or nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(cuda))
        or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    )
    gpus = [gpu for index in range(count.value) for gpu in query_gpu(nvml, index)]
    nvml.nvmlShutdown()
    return NvidiaDriver(error, version.value.decode(errors="replace"), cuda.value, tuple(gpus))


def query_gpu(nvml: ctypes.CDLL, index: int) -> list[DriverGpu]:
    """The card, or its MIG slices; empty if it is counted but does not answer, as after falling off the bus."""
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    major, minor = ctypes.c_int(), ctypes.c_int()
    error = (
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        or nvml.nvmlDeviceGetName(handle, name, len(name))
        or nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    )
    if error:
        return []
    memory = NvmlMemory()
    nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    gpu = DriverGpu(
        name.value.decode(errors="replace"),
        (major.value, minor.value),
        index,
        device_uuid(nvml, handle),
        free_bytes=memory.free,
        total_bytes=memory.total,
    )
    mig, pending = ctypes.c_uint(), ctypes.c_uint()
    if nvml.nvmlDeviceGetMigMode(handle, ctypes.byref(mig), ctypes.byref(pending)) or mig.value != 1:
        return [gpu]
    return [replace(gpu, uuid=part) for part in mig_slice_uuids(nvml, handle)] or [
        replace(
            gpu,
            unusable=f"MIG is on for {gpu.name} and it has no slice. Make one, or switch MIG off: "
            f"`nvidia-smi -i {index} -mig 0`.",
        )
    ]


def mig_slice_uuids(nvml: ctypes.CDLL, card: ctypes.c_void_p) -> list[str]:
    count, found = ctypes.c_uint(), []
    nvml.nvmlDeviceGetMaxMigDeviceCount(card, ctypes.byref(count))
    for place in range(count.value):
        part = ctypes.c_void_p()
        if not nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place, ctypes.byref(part)):
            found.append(device_uuid(nvml, part))
    return found


def device_uuid(nvml: ctypes.CDLL, device: ctypes.c_void_p) -> str:
    """Empty if the driver does not report it."""
    text = ctypes.create_string_buffer(96)
    return "" if nvml.nvmlDeviceGetUUID(device, text, len(text)) else text.value.decode(errors="replace")
