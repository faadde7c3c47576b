"""What every part of an export is made from, and where it reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer_core.config.export_targets import EXPORT_TARGETS
from trainer_core.config.jobs import ExportJob
from trainer_core.export.staging import ExportStaging
from trainer_core.runs.control import StopRequests
from trainer_core.runs.events import Event
from trainer_core.runs.export_events import ExportProgress
from trainer_core.texts import NO_TEXT, Text

REPORT_SECONDS = 0.5


class ExportStopped(Exception):
    """The user stopped the export; what is complete stays for the next one."""


def part_name(job: ExportJob, target: str) -> str:
    """The name of a target's folder or file."""
    suffix = EXPORT_TARGETS[target].suffix
    return f"{job.name}{suffix}" if suffix else target


@dataclass
class ExportContext:
    """base: the folder of the base's weights. base_name: the base as others find it; empty: it is on this computer alone."""

    job: ExportJob
    base: Path
    base_name: str
    staging: ExportStaging
    emit: Callable[[Event], None]
    wants: StopRequests
    parts: int
    number: int = 0
    part: Text = NO_TEXT
    began: float = 0.0
    reported: float = 0.0

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer and the chat template of training lie: the lane's own adapter."""
        return Path(self.job.lane.adapter or self.base)

    def part_path(self, target: str) -> Path:
        return self.staging.path(part_name(self.job, target))

    def begin(self, part: Text) -> None:
        self.part, self.number, self.began = part, self.number + 1, time.monotonic()
        self.report(0, 1)

    def report(self, done: int, total: int) -> None:
        """Report the progress of this part, at most twice a second.

        Raises:
            ExportStopped: the user stopped the export.
        """
        if self.wants.should_stop:
            raise ExportStopped
        now = time.monotonic()
        if 0 < done < total and now - self.reported < REPORT_SECONDS:
            return
        self.reported = now
        left = round((now - self.began) / done * (total - done), 1) if done else None
        self.emit(ExportProgress(self.part, self.number, self.parts, done, total, left))
