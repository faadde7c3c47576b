"""Readings of NVML as data, and what plays them back in the place of pynvml.

A reading is a JSON object: NVML function -> answer, and `cards` with the same per card. {"error": 15} raises that NVML
code; a function that a card leaves out answers "not supported". The values follow NVML's documentation and the data
sheets of the cards; they were written down, not taken from the cards themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FOLDER = Path(__file__).parent
NOT_SUPPORTED, NOT_FOUND = 3, 6
WORDS = {4: "Insufficient Permissions", 9: "Driver Not Loaded", 15: "GPU is lost", 999: "Unknown Error"}
SYSTEM_FUNCTIONS = (
    "nvmlInit",
    "nvmlShutdown",
    "nvmlSystemGetDriverVersion",
    "nvmlSystemGetCudaDriverVersion_v2",
)
CARD_FUNCTIONS = (
    "nvmlDeviceGetName",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
)


class NVMLError(Exception):
    """Like pynvml's: the code is in `value`."""

    def __init__(self, value: int):
        super().__init__(WORDS.get(value, f"code {value}"))
        self.value = value


def reading(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def card(
    total_gib: float, free_gib: float, name: str = "NVIDIA GeForce RTX 4090", uuid: str = "GPU-test"
) -> dict[str, Any]:
    """A reading of a machine with one modern card."""
    memory = {"total": round(total_gib * 2**30), "free": round(free_gib * 2**30)}
    basics = {"nvmlDeviceGetName": name, "nvmlDeviceGetUUID": uuid, "nvmlDeviceGetMemoryInfo": memory}
    return {
        "nvmlSystemGetDriverVersion": "580.95.05",
        "nvmlSystemGetCudaDriverVersion_v2": 13_000,
        "cards": [basics | {"nvmlDeviceGetCudaComputeCapability": [8, 9], "nvmlDeviceGetTemperature": 41}],
    }


def replay(*readings: str | dict[str, Any], as_bytes: bool = False) -> SimpleNamespace:
    """Something that answers like pynvml: the first reading, then the next one each time the cards are counted.

    The last reading stays. `calls` counts what was asked. `as_bytes`: texts as bytes, as old versions of NVML do.
    """
    frames = [reading(one) if isinstance(one, str) else one for one in readings]
    calls: dict[str, int] = {}

    def answer(where: dict[str, Any], name: str) -> Any:
        calls[name] = calls.get(name, 0) + 1
        value = where.get(name, {"error": NOT_SUPPORTED})
        if isinstance(value, dict) and "error" in value:
            raise NVMLError(value["error"])
        return shaped(value, as_bytes)

    def count() -> int:
        if calls.get("nvmlDeviceGetCount") and len(frames) > 1:
            del frames[0]
        return answer({"nvmlDeviceGetCount": len(frames[0].get("cards", ()))} | frames[0], "nvmlDeviceGetCount")

    def slice_of(handle: dict[str, Any], place: int) -> dict[str, Any]:
        slices = handle.get("slices", [])
        if place >= len(slices):
            raise NVMLError(NOT_FOUND)
        return slices[place]

    def of_card(name: str) -> Callable[..., Any]:
        return lambda handle, *_: answer(handle, name)

    def of_system(name: str) -> Callable[[], Any]:
        return lambda: answer({"nvmlInit": None, "nvmlShutdown": None} | frames[0], name)

    return SimpleNamespace(
        NVMLError=NVMLError,
        calls=calls,
        nvmlDeviceGetCount=count,
        nvmlDeviceGetHandleByIndex=lambda index: frames[0]["cards"][index],
        nvmlDeviceGetMigDeviceHandleByIndex=slice_of,
        nvmlSystemGetProcessName=lambda pid: answer(frames[0].get("names", {}), str(pid)),
        **{name: of_system(name) for name in SYSTEM_FUNCTIONS},
        **{name: of_card(name) for name in CARD_FUNCTIONS},
    )


def shaped(value: Any, as_bytes: bool) -> Any:
    """JSON as NVML gives it: structures with attributes, texts perhaps as bytes."""
    if isinstance(value, dict):
        return SimpleNamespace(**value)
    if isinstance(value, list):
        return [shaped(item, as_bytes) for item in value]
    return value.encode() if as_bytes and isinstance(value, str) else value
