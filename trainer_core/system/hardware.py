"""The machine's current hardware. The only module that uses NVML, and the one that binds a worker to one card."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from launcher.cuda_support import CudaBuild, card_shortfall, driver_shortfall, find_installed_build
from trainer_core.errors import error_chain
from trainer_core.system.format import GIB, format_gb
from trainer_core.texts import Text

NO_GPU_FOUND = Text("gpu.not_found")
NVML_TEXTS = {
    4: Text("gpu.no_permission"),
    9: Text("gpu.driver_not_loaded"),
    12: NO_GPU_FOUND,
    18: Text("gpu.driver_updated"),
}
"""Reasons for a failed NVML start, by return code: no permission, not loaded, no library, version mismatch."""

NVML_NO_LIBRARY = 12
NVML_CARD_IS_GONE = (15, 16)  # lost from the bus; needs a reset
NVML_NOT_FOUND = 6

TORCH_QUESTION = """
import json, torch
def card(i):
    p, (free, total) = torch.cuda.get_device_properties(i), torch.cuda.mem_get_info(i)
    return dict(index=i, uuid="GPU-" + str(p.uuid), name=p.name, total=total, free=free, capability=[p.major, p.minor])
print(json.dumps([card(i) for i in range(torch.cuda.device_count())]))
"""
TORCH_COMMAND = (sys.executable, "-c", TORCH_QUESTION)
TORCH_SECONDS = 30
DRIVER_QUESTION = """
import ctypes, sys
driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
sys.exit(driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value != 1)
"""
DRIVER_COMMAND = (sys.executable, "-S", "-c", DRIVER_QUESTION)
"""Does CUDA_VISIBLE_DEVICES leave one card? Asks only the driver, in a tenth of a second."""

CARD_LOST = re.compile(
    r"unspecified launch failure|launch timed out|GPU is lost|fallen off the bus|uncorrectable ECC|hardware stack error"
    r"|no CUDA-capable device|No CUDA GPUs are available|CUDA-capable device\(s\) is/are busy or unavailable"
    r"|(?:CUDA|Triton)[^\n]*unknown error"
    r"|CUDA_ERROR_(?:LAUNCH_FAILED|LAUNCH_TIMEOUT|UNKNOWN|ECC_UNCORRECTABLE|NO_DEVICE|DEVICE_UNAVAILABLE)",
    re.IGNORECASE,
)
"""Messages of CUDA, torch, Triton and NVML when a card no longer responds (cudaGetErrorString, CUDA 13)."""

Nvml = Any
"""The pynvml module, or an object with the same functions."""


@dataclass(frozen=True)
class GpuProcess:
    """A process with memory on a card. Windows does not report how much."""

    name: str
    pid: int
    bytes: int | None

    @property
    def describe(self) -> str:
        if self.bytes is None:
            return str(Text("gpu.unknown_holder", name=self.name))
        return str(Text("gpu.holder", name=self.name, size=format_gb(self.bytes)))


@dataclass(frozen=True)
class Gpu:
    """One card, or one MIG slice of a card. None: the card does not report it. `problem` empty: usable for training."""

    index: int
    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    driver: str | None = None
    capability: tuple[int, int] | None = None
    celsius: int | None = None
    watts: float | None = None
    busy_percent: int | None = None
    holders: tuple[GpuProcess, ...] = ()
    problem: str = ""

    def bytes_used_by(self, pids: Iterable[int]) -> int:
        """Bytes that these processes hold on the card."""
        wanted = set(pids)
        return sum(holder.bytes or 0 for holder in self.holders if holder.pid in wanted)

    def budget_bytes(self, own_pids: Iterable[int] = ()) -> int:
        """Bytes available to a new worker: free, plus those our own worker will release, minus a reserve."""
        return max(0, self.free_bytes + self.bytes_used_by(own_pids) - reserve_bytes(self.total_bytes))

    @property
    def memory_sentence(self) -> str:
        """`0.3 of 24.0 GB free. python3 holds 21.0 GB.`, with the three largest holders."""
        known = [holder.describe for holder in self.holders[:3] if holder.bytes != 0]
        free = Text("gpu.free", free=self.free_bytes / GIB, total=format_gb(self.total_bytes))
        return f"{free} {', '.join(known)}." if known else str(free)


@dataclass(frozen=True)
class Cpu:
    name: str
    cores: int
    """Logical processors available to this process."""
    total_bytes: int
    free_bytes: int
    """Memory available without swapping, within the container's limit if there is one."""
    bfloat16: bool = False
    """Computes in bfloat16 natively (AVX-512 or AMX), so 16 bit is faster than 32 bit, not slower."""

    def budget_bytes(self) -> int:
        """Bytes available to a new worker."""
        return max(0, self.free_bytes - reserve_bytes(self.total_bytes))


@dataclass(frozen=True)
class Machine:
    """One reading. `problem` tells the user about the cards: empty, or complete sentences."""

    cpu: Cpu
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""

    @property
    def usable_gpus(self) -> tuple[Gpu, ...]:
        return tuple(gpu for gpu in self.gpus if not gpu.problem)

    @property
    def best_gpu(self) -> Gpu | None:
        """The card with the most free memory; None: use the processor."""
        return max(self.usable_gpus, key=lambda gpu: gpu.free_bytes, default=None)

    def find_gpu(self, uuid: str) -> Gpu | None:
        """The card's current state; None if it is gone."""
        return next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)


def reserve_bytes(total_bytes: int) -> int:
    """Bytes never allocated in a plan: half a GiB or 3 % of the total, whichever is more."""
    return max(GIB // 2, total_bytes * 3 // 100)


def is_wsl(system: str = sys.platform, release: str = platform.release()) -> bool:
    """Is this Linux inside Windows, by its kernel's name?"""
    return system == "linux" and "microsoft" in release.lower()


@cache
def has_one_card(name: str, command: tuple[str, ...] = DRIVER_COMMAND) -> bool:
    """Does CUDA find one card if CUDA_VISIBLE_DEVICES is `name`? Cached."""
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    try:
        asked = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=TORCH_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return asked.returncode == 0


def cuda_device_name(gpu: Gpu, wsl: bool, takes: Callable[[str], bool] = has_one_card) -> str:
    """The card's name for CUDA_VISIBLE_DEVICES: its UUID, or its number in PCI order on a WSL that rejects the UUID."""
    return next((name for name in (gpu.uuid, str(gpu.index)) if not wsl or takes(name)), gpu.uuid)


NO_CARD = {"CUDA_VISIBLE_DEVICES": "", "TUNEBENCH_CARD": "", "UNSLOTH_FORCE_CPU": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""Environment variables of a worker on the processor; see `worker_environment`."""


def worker_environment(
    gpu: Gpu | None,
    system: str = sys.platform,
    release: str = platform.release(),
    takes: Callable[[str], bool] = has_one_card,
) -> Mapping[str, str]:
    """Environment variables that a worker needs before it imports torch.

    A card is named by its UUID: NVML counts in PCI order and CUDA fastest first, so a number may mean another card.
    Without a card every card is hidden, so Unsloth trains on the processor. There torch's threads sleep while they wait for
    each other instead of spinning: beside another busy program, spinning cost more than 4 in 5 of the speed (two cores, two
    busy loops: no step in 60 s against 220 tokens/s); sleeping costs a quarter when alone.

    Args:
        system, release: values of sys.platform and platform.release().
        takes: on WSL, whether CUDA finds one card under this name.
    """
    if gpu is None:
        return NO_CARD
    wsl = is_wsl(system, release)
    named = {"CUDA_VISIBLE_DEVICES": cuda_device_name(gpu, wsl, takes), "TUNEBENCH_CARD": gpu.uuid}
    pinned = {**named, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if system == "linux" and not wsl:  # elsewhere torch does not support them, and WSL's driver fails with them
        pinned["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    return pinned


def card_number_notice(gpu: Gpu, environ: Mapping[str, str]) -> str:
    """A notice if the worker's environment names the card by a number; empty for a UUID."""
    if environ.get("CUDA_VISIBLE_DEVICES") == gpu.uuid:
        return ""
    return str(Text("gpu.by_number", number=gpu.index))


def has_card(environ: Mapping[str, str]) -> bool:
    """Does this worker environment name a card? See `worker_environment`."""
    return bool(environ.get("CUDA_VISIBLE_DEVICES"))


def card_uuid(environ: Mapping[str, str]) -> str:
    """The UUID of the card in this worker environment; empty: the processor."""
    return environ.get("TUNEBENCH_CARD") or environ.get("CUDA_VISIBLE_DEVICES", "")


def find_card_loss(error: BaseException) -> str:
    """The line about a card that no longer responds, from the error or its causes; empty if there is none.

    Running out of memory and illegal memory access do not count.
    """
    lines = (line.strip() for one in error_chain(error) for line in str(one).splitlines())
    return next((line for line in lines if CARD_LOST.search(line)), "")


@contextlib.contextmanager
def nvml_session(nvml: Nvml | None = None) -> Iterator[None]:
    """Keeps NVML open, so that each `detect_machine` inside costs a few milliseconds. `detect_machine` reports a failure."""
    nvml = nvml or pynvml_module()
    opened = nvml is not None and try_init_nvml(nvml)
    try:
        yield
    finally:
        if nvml is not None and opened:
            shut_down_nvml(nvml)


def detect_machine(
    nvml: Nvml | None = None,
    environ: Mapping[str, str] = os.environ,
    torch_command: tuple[str, ...] = TORCH_COMMAND,
    devices: Path = Path("/dev"),
    build: CudaBuild | None = None,
) -> Machine:
    """Reads every card and the processor once. Driver and card errors do not raise: they are in `Machine.problem`.

    `nvml` has pynvml's functions (the default). Without an NVML library, and only if `devices` or CUDA_VISIBLE_DEVICES
    suggest a card, `torch_command` runs in a child process, once per process because it takes seconds.
    CUDA_VISIBLE_DEVICES is obeyed; its numbers are in PCI order, as in nvidia-smi. `build` is the CUDA build of torch to
    check driver and cards against, by default the installed one.
    """
    cpu = read_cpu()
    if environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return Machine(cpu, problem=str(Text("gpu.all_hidden")))
    nvml = nvml or pynvml_module()
    gpus, problem, has_library = (
        read_nvml(nvml, build or find_installed_build()) if nvml else ((), str(NO_GPU_FOUND), False)
    )
    if not has_library and has_card_hint(environ, devices):
        gpus, problem = ask_torch(torch_command)
    seen = visible_gpus(gpus, environ)
    if gpus and not seen:
        problem = str(Text("gpu.wrong_name", name=environ["CUDA_VISIBLE_DEVICES"]))
    return Machine(cpu, seen, problem)


def pynvml_module() -> ModuleType | None:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml  # type: ignore[no-any-return]


def read_nvml(nvml: Nvml, build: CudaBuild) -> tuple[tuple[Gpu, ...], str, bool]:
    """The cards, the problem, and whether there is an NVML library."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        number = nvml_error_code(error)
        text = NVML_TEXTS.get(number, Text("gpu.driver_not_started", reason=str(error)))
        return (), str(text), number != NVML_NO_LIBRARY
    try:
        return *read_cards(nvml, build), True
    except nvml.NVMLError as error:
        return (), str(Text("gpu.driver_stopped", reason=str(error))), True
    finally:
        shut_down_nvml(nvml)


def try_init_nvml(nvml: Nvml) -> bool:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return False
    return True


def shut_down_nvml(nvml: Nvml) -> None:
    with contextlib.suppress(nvml.NVMLError):  # fails harmlessly if the driver is gone
        nvml.nvmlShutdown()


def read_cards(nvml: Nvml, build: CudaBuild) -> tuple[tuple[Gpu, ...], str]:
    driver = decode_nvml_text(nvml.nvmlSystemGetDriverVersion())
    cuda = call_optional(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2) or build.driver_cuda
    old = driver_shortfall(driver, cuda, build)
    gpus: list[Gpu] = []
    sentences: list[str] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            found = read_card(nvml, index, driver)
            gpus += (replace(gpu, problem=gpu.problem or old or unsupported_reason(gpu, build)) for gpu in found)
        except nvml.NVMLError as error:
            sentences.append(str(Text("gpu.card_lost", index=index, reason=str(error))))
    sentences += [gpu.problem for gpu in gpus if gpu.problem]
    if not gpus and not sentences:
        sentences = [str(NO_GPU_FOUND)]
    return tuple(gpus), " ".join(dict.fromkeys(sentences))


def read_card(nvml: Nvml, index: int, driver: str) -> list[Gpu]:
    """The card as one Gpu, or as one for each of its MIG slices."""
    card = nvml.nvmlDeviceGetHandleByIndex(index)
    mig = call_optional(nvml, nvml.nvmlDeviceGetMigMode, card)
    if not mig or mig[0] != 1:
        return [read_gpu(nvml, card, card, index, driver)]
    slices = [read_gpu(nvml, part, card, index, driver) for part in mig_slices(nvml, card)]
    if slices:
        return slices
    whole = read_gpu(nvml, card, card, index, driver)
    return [replace(whole, problem=str(Text("gpu.no_slice", name=whole.name)))]


def read_gpu(nvml: Nvml, device: Any, card: Any, index: int, driver: str) -> Gpu:
    """Memory and name of `device`; temperature, power and load of its `card`, since a slice reports none."""

    def ask(call: Callable[..., Any], *args: Any) -> Any:
        return call_optional(nvml, call, *args)

    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    power, load = ask(nvml.nvmlDeviceGetPowerUsage, card), ask(nvml.nvmlDeviceGetUtilizationRates, card)
    capability = ask(nvml.nvmlDeviceGetCudaComputeCapability, card)
    name = short_gpu_name(decode_nvml_text(nvml.nvmlDeviceGetName(device)))
    return Gpu(
        index=index,
        uuid=decode_nvml_text(nvml.nvmlDeviceGetUUID(device)),
        name=name,
        total_bytes=memory.total,
        free_bytes=memory.free,
        driver=driver,
        capability=tuple(capability) if capability else None,
        celsius=ask(nvml.nvmlDeviceGetTemperature, card, 0),
        watts=None if power is None else power / 1000,
        busy_percent=None if load is None else load.gpu,
        holders=list_gpu_processes(nvml, device),
        problem=unfit_reason(name, tuple(capability)) if capability else "",
    )


def unfit_reason(name: str, capability: tuple[int, int]) -> str:
    """Why the card is unusable for training; empty if it is usable."""
    lack = card_shortfall(name, capability)
    return str(Text("gpu.too_old", lack=lack)) if lack else ""


def unsupported_reason(gpu: Gpu, build: CudaBuild) -> str:
    """Why this build of torch has no kernels for the card; empty if it has."""
    lack = card_shortfall(gpu.name, gpu.capability, build) if gpu.capability else ""
    return f"{lack}." if lack else ""


def mig_slices(nvml: Nvml, card: Any) -> Iterator[Any]:
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(card)):
        try:
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
        except nvml.NVMLError as error:
            if nvml_error_code(error) != NVML_NOT_FOUND:  # an empty place is not an error
                raise


def list_gpu_processes(nvml: Nvml, device: Any) -> tuple[GpuProcess, ...]:
    """Processes with memory on the device, largest first. One that both computes and draws is listed once."""
    found: dict[int, int | None] = {}
    for call in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in call_optional(nvml, call, device) or ():
            found[process.pid] = max((found.get(process.pid), process.usedGpuMemory), key=lambda used: used or 0)
    listed = [GpuProcess(process_name(nvml, pid), pid, used) for pid, used in found.items()]
    return tuple(sorted(listed, key=lambda holder: -(holder.bytes or 0)))


def process_name(nvml: Nvml, pid: int) -> str:
    """The process's file name. In a container NVML reports pids of the host, which have no name here."""
    path = decode_nvml_text(call_optional(nvml, nvml.nvmlSystemGetProcessName, pid) or b"")
    if name := re.split(r"[\\/]", path.split(" --")[0])[-1].strip():
        return name
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return f"process {pid}"


def call_optional(nvml: Nvml, call: Callable[..., Any], *args: Any) -> Any:
    """The answer, or None if the card does not support the query. A lost card raises NVMLError."""
    try:
        return call(*args)
    except nvml.NVMLError as error:
        if nvml_error_code(error) in NVML_CARD_IS_GONE:
            raise
        return None


def nvml_error_code(error: Exception) -> int:
    return int(getattr(error, "value", 0))


def decode_nvml_text(value: str | bytes) -> str:
    """NVML returns names as bytes in some versions."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def short_gpu_name(name: str) -> str:
    """`RTX 4090` for `NVIDIA GeForce RTX 4090`."""
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def visible_gpus(gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The cards that CUDA_VISIBLE_DEVICES allows, by number or UUID prefix."""
    asked = environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return gpus
    names = [name.strip() for name in asked.split(",") if name.strip()]
    return tuple(gpu for gpu in gpus if any(name == str(gpu.index) or gpu.uuid.startswith(name) for name in names))


def has_card_hint(environ: Mapping[str, str], devices: Path) -> bool:
    return bool(environ.get("CUDA_VISIBLE_DEVICES")) or any(devices.glob("nvidia[0-9]*"))


@cache
def ask_torch(command: tuple[str, ...]) -> tuple[tuple[Gpu, ...], str]:
    """The cards as torch sees them in a child process: name and memory, no temperature, power or other processes."""
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_SECONDS, check=True)
        rows = json.loads(child.stdout.strip().splitlines()[-1])
        gpus = tuple(torch_gpu(row) for row in rows)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError):
        gpus = ()
    if not gpus:
        return (), str(Text("gpu.out_of_reach"))
    problems = [gpu.problem for gpu in gpus if gpu.problem]
    return gpus, " ".join([*problems, str(Text("gpu.no_library"))])


def torch_gpu(row: dict[str, Any]) -> Gpu:
    name, capability = short_gpu_name(row["name"]), (row["capability"][0], row["capability"][1])
    return Gpu(
        index=row["index"],
        uuid=row["uuid"],
        name=name,
        total_bytes=row["total"],
        free_bytes=row["free"],
        capability=capability,
        problem=unfit_reason(name, capability),
    )


def read_cpu(cgroup: Path = Path("/sys/fs/cgroup")) -> Cpu:
    """The processor and its memory, within a container's limit."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    if limit := read_cgroup_numbers(cgroup / "memory.max").get(""):
        cached = read_cgroup_numbers(cgroup / "memory.stat").get("inactive_file", 0)  # the kernel frees it on demand
        held = read_cgroup_numbers(cgroup / "memory.current").get("", 0) - cached
        total, free = min(total, limit), min(free, max(0, limit - held))
    return Cpu(cpu_name(), count_cores(), total, free, has_bfloat16())


def count_cores() -> int:
    """Logical processors available to this process."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


def read_cgroup_numbers(path: Path) -> dict[str, int]:
    """The `name number` lines of a cgroup file; a bare number has an empty name, `max` is skipped."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    pairs = (line.rpartition(" ") for line in lines)
    return {name: int(value) for name, _, value in pairs if value.isdigit()}


@cache
def cpu_name() -> str:
    return cpu_info("model name") or platform.processor() or platform.machine()


@cache
def has_bfloat16() -> bool:
    return bool({"avx512_bf16", "amx_bf16"} & set(cpu_info("flags").split()))


def cpu_info(key: str) -> str:
    """The first value of a key in Linux's /proc/cpuinfo; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    match = re.search(rf"^{key}\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.M) if info.exists() else None
    return match[1].strip() if match else ""
