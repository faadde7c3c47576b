"""What every part of an export is made from, and where it reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer_core.config.export_targets import EXPORT_TARGETS
from trainer_core.config.jobs import ExportJob
from trainer_core.export.staging import ExportStaging
from trainer_core.runs.events import Event
from trainer_core.runs.export_events import ExportProgress
from trainer_core.runs.progress import ProgressTracker
from trainer_core.runs.workspace import Workspace


def part_name(job: ExportJob, target: str) -> str:
    """The name of a target's folder or file."""
    suffix = EXPORT_TARGETS[target].suffix
    return f"{job.name}{suffix}" if suffix else target.replace(":", "-")


WritePart = Callable[["ExportContext", Path], None]


@dataclass(frozen=True)
class ExportContext:
    """base: the folder of the base's weights. base_name: the base as others find it; empty: it is on this computer alone."""

    job: ExportJob
    base: Path
    base_name: str
    staging: ExportStaging
    run_dir: Path
    """Of the export."""
    emit: Callable[[Event], None]
    tracker: ProgressTracker[ExportProgress]

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer and the chat template of training lie: the lane's own adapter."""
        return Path(self.job.lane.adapter or self.base)

    @property
    def lane_run(self) -> Path:
        """The folder of the run that the lane comes from; it may be gone."""
        return Workspace.for_run(self.run_dir).runs / (self.job.run or "-")

    def part_path(self, target: str) -> Path:
        return self.staging.path(part_name(self.job, target))

    def make_part(self, name: str, write: WritePart) -> Path:
        """Write a part of this name, unless it is complete already, and return its place."""
        if not self.staging.is_complete(name):
            with self.staging.build_part(name) as path:
                write(self, path)
        return self.staging.path(name)
