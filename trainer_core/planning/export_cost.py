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

MERGED_BITS = 16.0


@dataclass(frozen=True)
class ExportCost:
    """Bytes on disk: of each part that stays, and of all that exist at once while it is written."""

    parts: Mapping[str, int]
    peak: int


def export_cost(
    targets: Sequence[str], base_bytes: int, base_bits: float, adapter_bytes: int, rounded_bytes: int = 0
) -> ExportCost:
    """What these targets take. What a program is given is a second name of the file that it is made from.

    Args:
        base_bytes: of the base's weight files. base_bits: per weight in them.
        rounded_bytes: of the base after the rounding to 4 bits, if it is written too. Merged models are then in 16 bits.
    """
    merged_bits = MERGED_BITS if rounded_bytes else base_bits
    sizes = {
        target: round(base_bytes * ((kind.bits or merged_bits) / base_bits)) if kind.is_model else adapter_bytes
        for target, kind in EXPORT_TARGETS.items()
    }
    return ExportCost(
        {target: sizes[target] for target in targets if EXPORT_TARGETS[target].write},
        rounded_bytes + sum(sizes[one] for one in with_sources(targets) if not EXPORT_TARGETS[one].register),
    )


def folder_bytes(folder: Path) -> int:
    """Bytes of the weight files of a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def free_bytes(out: Path) -> int:
    """Free bytes on the drive where a folder lies or will lie."""
    return psutil.disk_usage(str(nearest_existing(out))).free


def require_space(cost: ExportCost, out: Path, written: int = 0) -> None:
    """Check the space for what is not written yet.

    Raises:
        DiskError: too little, with both numbers.
    """
    needed, free = cost.peak - written + FREE_BYTES, free_bytes(out)
    if needed > free:
        raise DiskError("export.no_room", folder=str(out), needed=format_gb(needed), free=format_gb(free))
