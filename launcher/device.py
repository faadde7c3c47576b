"""CPU or CUDA. Knows what the pinned CUDA build of torch needs of a driver and of a GPU.

NVML, which comes with the driver, is asked through ctypes here because nothing is installed yet; once .venv exists,
trainer_core/hardware.py asks it with nvidia-ml-py, and what is needed stands here for both.
"""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass

from launcher import SetupError
from launcher.paths import WINDOWS

CUDA_NEEDED = 13_000
"""13.0 as NVML writes it: what the package index's torch 2.13.0 is built for (its metadata names cuda-toolkit 13.0)."""
DRIVERS_NEEDED = "580.65.06 on Linux, 580.88 on Windows"
"""The first drivers that run CUDA 13.0 (NVIDIA, CUDA 13.0 release notes; for Windows the first of the R580 series)."""
CAPABILITY_NEEDED = (7, 5)
"""CUDA 13.0 dropped every GPU before Turing: Maxwell, Pascal and Volta (NVIDIA, CUDA 13.0 release notes)."""
REBOOT_NEEDED = 18
"""NVML_ERROR_LIB_RM_VERSION_MISMATCH: the driver was updated and its old kernel module still runs."""


@dataclass(frozen=True)
class Gpu:
    name: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Driver:
    """What NVML says. `error` is its own code, 0 when it answered; `cuda` is the newest CUDA it runs, 13.0 as 13000."""

    error: int = 0
    version: str = ""
    cuda: int = 0
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Choice:
    device: str
    reason: str


def choose(asked: str, driver: Driver | None) -> Choice:
    """cpu or cuda for `asked` (auto, cpu, cuda). SetupError where a GPU needs a hand first, or where it lacks CUDA."""
    if asked == "cpu":
        return Choice("cpu", "the CPU was chosen, now or when .venv was made")
    lack = lacking(driver)
    if driver is None or lack:
        if asked == "cuda":
            raise SetupError(f"CUDA cannot be used: {lack}. `--device cpu` sets up for the CPU.")
        return Choice("cpu", lack)
    if hindrance := curable(driver):
        raise SetupError(f"{hindrance} Or use --device cpu.")
    return Choice("cuda", f"{newest(driver).name}, NVIDIA driver {driver.version}")


def lacking(driver: Driver | None) -> str:
    """Why there is no GPU here that CUDA 13.0 can use; empty where there is one."""
    if driver is None:
        return "no NVIDIA driver is installed"
    if driver.error == REBOOT_NEEDED:
        return ""
    if driver.error:
        return f"NVIDIA's library is installed, but no driver answers it (NVML error {driver.error})"
    if not driver.gpus:
        return f"NVIDIA driver {driver.version} sees no GPU"
    gpu = newest(driver)
    return card_lacks(gpu.name, gpu.capability)


def card_lacks(name: str, capability: tuple[int, int]) -> str:
    """Why this card cannot be used, or nothing."""
    if capability >= CAPABILITY_NEEDED:
        return ""
    return f"{name} has compute capability {dotted(capability)}; CUDA 13.0 needs {dotted(CAPABILITY_NEEDED)}"


def driver_lacks(version: str, cuda: int) -> str:
    """What must be done about a driver that runs CUDA up to this one, or nothing."""
    if cuda >= CUDA_NEEDED:
        return ""
    runs = dotted((cuda // 1000, cuda % 1000 // 10))
    return (
        f"NVIDIA driver {version} runs CUDA up to {runs}; CUDA 13.0 is needed, which takes driver {DRIVERS_NEEDED} or newer. "
        "Update the driver."
    )


def curable(driver: Driver) -> str:
    """What the user must do before the GPU can be used; empty where nothing is in the way."""
    if driver.error == REBOOT_NEEDED:
        return "The NVIDIA driver was updated and the old one still runs. Restart the machine."
    return driver_lacks(driver.version, driver.cuda)


def newest(driver: Driver) -> Gpu:
    return max(driver.gpus, key=lambda gpu: gpu.capability)


def dotted(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


def read_driver() -> Driver | None:
    """None where no NVIDIA driver is installed. nvidia-smi need not be there."""
    for name in ["nvml.dll"] if WINDOWS else ["libnvidia-ml.so.1", "/usr/lib/wsl/lib/libnvidia-ml.so.1"]:
        with contextlib.suppress(OSError):
            return ask(ctypes.CDLL(name))
    return None


def ask(nvml: ctypes.CDLL) -> Driver:
    error = nvml.nvmlInit_v2()
    if error:
        return Driver(error=error)
    version, cuda, count = ctypes.create_string_buffer(80), ctypes.c_int(), ctypes.c_uint()
    error = (
        nvml.nvmlSystemGetDriverVersion(version, len(version))
        or nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(cuda))
        or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    )
    gpus = [ask_gpu(nvml, index) for index in range(count.value)]
    nvml.nvmlShutdown()
    return Driver(error, version.value.decode(errors="replace"), cuda.value, tuple(gpu for gpu in gpus if gpu))


def ask_gpu(nvml: ctypes.CDLL, index: int) -> Gpu | None:
    """None for a card that is counted but does not answer, such as one that fell off the bus."""
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)
    major, minor = ctypes.c_int(), ctypes.c_int()
    error = (
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        or nvml.nvmlDeviceGetName(handle, name, len(name))
        or nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
    )
    return None if error else Gpu(name.value.decode(errors="replace"), (major.value, minor.value))
