"""Limits for data files. Real data sets stay far below them; malicious files do not."""

from __future__ import annotations

from dataclasses import dataclass

from trainer_core.system.child_process import ChildLimits
from trainer_core.system.format import MIB


@dataclass(frozen=True)
class FileLimits:
    """Bounds on one file. The child's memory and time limits come on top of them."""

    line_bytes: int = 8 * MIB
    """One row of text."""
    document_bytes: int = 128 * MIB
    """One JSON object that holds the whole list; lists and JSONL are read piece by piece and may be larger."""
    batch_bytes: int = 256 * MIB
    """256 rows of Parquet, or a whole Parquet file inside gzip."""
    unpacked_bytes: int = 16 << 30
    unpacked_ratio: int = 200
    """Packed text shrinks 3 to 20 times. Files made to fill the memory claim thousands."""
    unpacked_free: int = 64 * MIB
    """Below this much the ratio does not matter."""
    depth: int = 64
    rows: int = 5_000_000

    def max_unpacked(self, packed: int) -> int:
        """How many bytes a file of `packed` bytes may unpack to."""
        return min(self.unpacked_bytes, max(self.unpacked_free, self.unpacked_ratio * packed))


FILE_LIMITS = FileLimits()
CHILD_LIMITS = ChildLimits(memory_bytes=4 << 30, cpu_seconds=60, watch_seconds=0.2)
"""Bounds on the process that reads."""
BYTES_PER_SECOND = 2 * MIB
"""Processor time allowed on top, by the size of the files; an honest file is read at 20 MB/s and more."""
