"""CPU or CUDA, and which CUDA: what the CUDA builds of the pinned torch need of a driver and a card.

trainer_core/system/hardware.py uses this too, so that the requirements are in one place.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from launcher import SetupError
from launcher.nvidia_driver import DriverGpu, NvidiaDriver
from launcher.system import System, driver_advice


@dataclass(frozen=True)
class CudaBuild:
    """A CUDA build of the pinned torch.

    name: as in PyTorch's index and uv.
    cuda: the version in torch.version.cuda.
    driver_cuda: the least CUDA version of the driver, as NVML writes it (13.0 is 13000).
    drivers: the first driver versions with it.
    newest: the last compute capability with kernels in this build; None: newer cards work too.
    """

    name: str
    cuda: str
    driver_cuda: int
    drivers: str
    newest: tuple[int, int] | None = None


BUILDS = (
    CudaBuild("cu130", "13.0", 13_000, "580.65.06 on Linux, 580.88 on Windows"),
    CudaBuild("cu126", "12.6", 12_000, "525.60.13 on Linux, 528.33 on Windows", newest=(9, 0)),
)
"""Best first. cu130 is the package index's own torch 2.13.0 for Linux (its metadata names cuda-toolkit 13.0).

Drivers: NVIDIA, CUDA release notes, minor version compatibility: every CUDA 12.x runs from 525.60.13 on. Capabilities:
PyTorch, RELEASE.md, CUDA support matrix: 12.6.3 has kernels from 5.0 to 9.0, so none for Blackwell (10.0, 12.0).
"""
CAPABILITY_NEEDED = (7, 5)
"""CUDA 13.0 dropped every GPU before Turing: Maxwell, Pascal and Volta (NVIDIA, CUDA 13.0 release notes)."""
REBOOT_NEEDED = 18
"""NVML_ERROR_LIB_RM_VERSION_MISMATCH: the driver was updated and its old kernel module still runs."""
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
CUDA_SECONDS = 60
CUDA_COUNT_PROGRAM = """
import ctypes, sys
cuda, count = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"), ctypes.c_int()
print(0 if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) else count.value)
"""


@dataclass(frozen=True)
class DeviceChoice:
    """`build` is a key of paths.REQUIREMENTS: cpu, or the name of a CUDA build."""

    device: str
    reason: str
    build: str = "cpu"
    gpu: DriverGpu | None = None


def choose_device(
    asked: str,
    driver: NvidiaDriver | None,
    visible: str | None = None,
    system: System = System(),  # noqa: B008
) -> DeviceChoice:  # noqa: B008
    """Choose cpu or cuda for `asked` (auto, cpu, cuda). `visible` is CUDA_VISIBLE_DEVICES.

    Raises:
        SetupError: a GPU needs a user action first, or CUDA is required but not available.
    """
    if asked == "cpu":
        return DeviceChoice("cpu", "the CPU was chosen, now or when .venv was made")
    if driver and visible is not None:
        driver = replace(driver, gpus=tuple(gpu for gpu in driver.gpus if is_visible(gpu, visible)))
    lack = hidden_reason(driver, visible) or missing_gpu_reason(driver)
    if driver is None or lack:
        if asked == "cuda":
            raise SetupError(f"CUDA cannot be used: {lack}. `--device cpu` sets up for the CPU.")
        return DeviceChoice("cpu", lack)
    if hindrance := required_action(driver, system):
        raise SetupError(f"{hindrance} Or use --device cpu.")
    gpu = pick_gpu(driver)
    build = best_build(driver.cuda, gpu.capability) or BUILDS[0]
    reason = f"{gpu.name}, NVIDIA driver {driver.version}"
    if build is not BUILDS[0]:
        better = f"CUDA {BUILDS[0].cuda} takes driver {BUILDS[0].drivers}"
        reason += (
            f". It runs CUDA up to {format_cuda_version(driver.cuda)}, so torch's build for "
            f"CUDA {build.cuda} is taken ({better})"
        )
    return DeviceChoice("cuda", reason, build.name, gpu)


def is_visible(gpu: DriverGpu, visible: str) -> bool:
    """Does CUDA_VISIBLE_DEVICES include this card, by number in PCI order or by the beginning of its UUID?"""
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return any(
        name == str(gpu.index) or (name.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(name)) for name in names
    )


def hidden_reason(driver: NvidiaDriver | None, visible: str | None) -> str:
    """Why CUDA_VISIBLE_DEVICES hides all cards; empty if it hides none, or is not set."""
    if visible is None or driver is None or driver.error or driver.gpus:
        return ""
    if visible.strip() in ("", "-1"):
        return f"{VISIBLE_VARIABLE} is {visible.strip() or 'empty'}, which hides every GPU; unset it to use one"
    return (
        f"{VISIBLE_VARIABLE}={visible} names no GPU of this machine; unset it, or name one that `nvidia-smi -L` lists"
    )


def missing_gpu_reason(driver: NvidiaDriver | None) -> str:
    """Why torch can use no GPU here; empty if it can."""
    if driver is None:
        return "no NVIDIA driver is installed"
    if driver.error == REBOOT_NEEDED:
        return ""
    if driver.error:
        return f"NVIDIA's library is installed, but no driver answers it (NVML error {driver.error})"
    if not driver.gpus:
        return f"NVIDIA driver {driver.version} sees no GPU"
    gpu = pick_gpu(driver)
    return card_shortfall(gpu.name, gpu.capability)


def card_shortfall(name: str, capability: tuple[int, int], build: CudaBuild = BUILDS[0]) -> str:
    """Why this build of torch cannot use this card; empty if it can."""
    if capability < CAPABILITY_NEEDED:
        return f"{name} has compute capability {format_version(capability)}; CUDA 13.0 needs {format_version(CAPABILITY_NEEDED)}"
    if build.newest and capability > build.newest:
        return (
            f"{name} has compute capability {format_version(capability)}; the installed torch is for "
            f"CUDA {build.cuda}, which ends "
            f"at {format_version(build.newest)}. Install driver {BUILDS[0].drivers} or newer, then "
            f"`python launch.py --device cuda`"
        )
    return ""


def best_build(driver_cuda: int, capability: tuple[int, int]) -> CudaBuild | None:
    """The best build that this driver and this card support."""
    return next(
        (
            build
            for build in BUILDS
            if driver_cuda >= build.driver_cuda and (build.newest is None or capability <= build.newest)
        ),
        None,
    )


def driver_shortfall(version: str, cuda: int, build: CudaBuild = BUILDS[0], system: System | None = None) -> str:
    """What to do about a driver that is too old for `build`; empty if it is not."""
    if cuda >= build.driver_cuda:
        return ""
    return (
        f"NVIDIA driver {version} runs CUDA up to {format_cuda_version(cuda)}; CUDA {build.cuda} is needed, which takes driver "
        f"{build.drivers} or newer. {driver_advice(system) if system else 'Update the driver.'}"
    )


def find_installed_build(torch_version: str | None = None) -> CudaBuild:
    """The CUDA build of .venv's torch. Without one: the build with the lowest driver requirement.

    The package index's torch for Linux has no local version: it is the first of BUILDS.
    """
    if torch_version is None:
        try:
            torch_version = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            torch_version = "+cpu"
    local = torch_version.partition("+")[2]
    return next((build for build in BUILDS if build.name == local), BUILDS[-1] if local == "cpu" else BUILDS[0])


def required_action(driver: NvidiaDriver, system: System = System()) -> str:  # noqa: B008
    """What the user must do before the GPU can be used; empty if nothing."""
    if driver.error == REBOOT_NEEDED:
        return "The NVIDIA driver was updated and the old one still runs. Restart the machine."
    gpu = pick_gpu(driver)
    if gpu.unusable:
        return gpu.unusable
    if best_build(driver.cuda, gpu.capability):
        return ""
    least = next(
        (build for build in reversed(BUILDS) if build.newest is None or gpu.capability <= build.newest), BUILDS[0]
    )
    card = f"For {gpu.name} (compute capability {format_version(gpu.capability)}): "
    return card + driver_shortfall(driver.version, driver.cuda, least, system)


def pick_gpu(driver: NvidiaDriver) -> DriverGpu:
    """The card to set up for: usable ones first."""
    return max(driver.gpus, key=lambda gpu: (not gpu.unusable, gpu.capability))


def format_version(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


def format_cuda_version(cuda: int) -> str:
    """NVML's 12080 as 12.8."""
    return format_version((cuda // 1000, cuda % 1000 // 10))


# ---- how CUDA itself knows a card


def name_for_cuda(gpu: DriverGpu, count: Callable[[str], int]) -> str:
    """CUDA_VISIBLE_DEVICES for this card: its UUID, or its number if CUDA does not accept UUIDs.

    Under WSL some drivers do not. `count`: how many cards CUDA finds with that value.
    """
    if not gpu.uuid or (count(gpu.uuid) == 0 and count(str(gpu.index)) > 0):
        return str(gpu.index)
    return gpu.uuid


def count_cuda_cards(visible: str, environ: Mapping[str, str] = os.environ) -> int:
    """Cards that the CUDA driver finds with this CUDA_VISIBLE_DEVICES, queried in a child; 0 if it fails."""
    pinned = {**environ, VISIBLE_VARIABLE: visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    try:
        answer = subprocess.run(
            [sys.executable, "-c", CUDA_COUNT_PROGRAM],
            env=pinned,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=CUDA_SECONDS,
        )
        return int(answer.stdout or 0)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
