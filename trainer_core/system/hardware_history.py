"""Recent readings of memory, temperature, power and load: one per second for two hours, in memory only."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from trainer_core.system.format import GIB
from trainer_core.system.hardware import Machine

MAX_READINGS = 7200


@dataclass(frozen=True)
class HardwareReading:
    """One moment. Seconds since 1970, GiB, °C, watts, percent; None if the device does not report it."""

    at: float
    memory: float
    busy: float | None
    celsius: float | None = None
    watts: float | None = None


class HardwareHistory:
    """Readings of the card, or of the processor without one. It follows the same card as long as that is present."""

    def __init__(self, load: Callable[[], float] = psutil.cpu_percent, clock: Callable[[], float] = time.time):
        self.load, self.clock = load, clock
        self._uuid = ""
        self._kept: deque[HardwareReading] = deque(maxlen=MAX_READINGS)

    def record(self, machine: Machine) -> None:
        card = machine.find_gpu(self._uuid) or machine.best_gpu
        self._uuid = card.uuid if card else ""
        if card:
            used = (card.total_bytes - card.free_bytes) / GIB
            self._kept.append(HardwareReading(self.clock(), used, card.busy_percent, card.celsius, card.watts))
        else:
            used = (machine.cpu.total_bytes - machine.cpu.free_bytes) / GIB
            self._kept.append(HardwareReading(self.clock(), used, self.load()))

    def readings_since(self, at: float) -> list[HardwareReading]:
        """All readings later than `at`, oldest first."""
        return [one for one in tuple(self._kept) if one.at > at]
