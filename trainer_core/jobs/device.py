"""The machine, read once a second, and the card for runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from trainer_core.errors import DeviceError
from trainer_core.system.hardware import Gpu, Machine
from trainer_core.system.hardware_history import HardwareHistory

DeviceChoice = Literal["auto", "cpu", "cuda"]
"""auto: the GPU if there is one; cpu: never; cuda: required."""


class DeviceMonitor:
    def __init__(self, choice: DeviceChoice, read_machine: Callable[[], Machine]):
        self.choice, self.read_machine = choice, read_machine
        self.machine = read_machine()
        self.readings = HardwareHistory()

    def refresh(self) -> None:
        self.machine = self.read_machine()
        self.readings.record(self.machine)

    @property
    def gpu(self) -> Gpu | None:
        """The card for runs; None: the processor.

        Raises:
            DeviceError: a GPU is required and there is none.
        """
        best = None if self.choice == "cpu" else self.machine.best_gpu
        if self.choice == "cuda" and best is None:
            raise DeviceError("device_choice.no_gpu", problem=self.machine.problem)
        return best
