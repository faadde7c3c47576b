"""What an export takes on the disk, part by part, before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from trainer_core.config.export_targets import EXPORT_TARGETS, with_sources
from trainer_core.errors import DiskError
from trainer_core.system.durable import nearest_existing
from trainer_core.system.format import format_gb

FREE_BYTES = 1 << 30
"""Bytes of free disk space that an export leaves."""


@dataclass(frozen=True)
class ExportCost:
    """Bytes on disk: of the parts that stay, and of all that exist at once while it is written."""

    parts: Mapping[str, int]
    peak: int

    @property
    def final(self) -> int:
        return sum(self.parts.values())


def export_cost(targets: Sequence[str], base_bytes: int, base_bits: float, adapter_bytes: int) -> ExportCost:
    """Args:
    base_bytes: of the base's weight files. base_bits: per weight in them.
    """
    sizes = {
        target: adapter_bytes if target == "adapter" else round(base_bytes * ((kind.bits or base_bits) / base_bits))
        for target, kind in EXPORT_TARGETS.items()
    }
    return ExportCost(
        {target: sizes[target] for target in targets}, sum(sizes[target] for target in with_sources(targets))
    )


def folder_bytes(folder: Path) -> int:
    """Bytes of the weight files of a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def free_bytes(out: Path) -> int:
    """Free bytes on the drive where a folder lies or will lie."""
    return psutil.disk_usage(str(nearest_existing(out))).free


def require_space(cost: ExportCost, out: Path) -> None:
    """Raises:
    DiskError: too little space, with both numbers.
    """
    free = free_bytes(out)
    if cost.peak + FREE_BYTES > free:
        needed = format_gb(cost.peak + FREE_BYTES)
        raise DiskError("export.no_room", folder=str(out), needed=needed, free=format_gb(free))
