"""The machine as it is read once a second, and the card that runs use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from trainer_core.errors import DeviceError
from trainer_core.system.hardware import Gpu, Machine
from trainer_core.system.hardware_history import HardwareHistory

DeviceChoice = Literal["auto", "cpu", "cuda"]
"""auto takes the GPU if there is one, cpu never does, cuda demands one."""


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
        """The card that runs use; None means the processor.

        Raises:
            DeviceError: a GPU was demanded and there is none.
        """
        best = None if self.choice == "cpu" else self.machine.best_gpu
        if self.choice == "cuda" and best is None:
            raise DeviceError("device_choice.no_gpu", problem=self.machine.problem)
        return best
