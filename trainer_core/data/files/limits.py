"""Limits for data files. Real data sets stay far below them; malicious files do not."""

from __future__ import annotations

from dataclasses import dataclass

from trainer_core.system.child_process import ChildLimits
from trainer_core.system.format import MIB


@dataclass(frozen=True)
class FileLimits:
    """Limits for one file. The child's memory and time limits apply in addition."""

    line_bytes: int = 8 * MIB
    """One row of text."""
    document_bytes: int = 128 * MIB
    """One JSON object that holds the whole list; lists and JSONL are read piece by piece and may be larger."""
    batch_bytes: int = 256 * MIB
    """256 rows of Parquet, or a whole Parquet file inside gzip."""
    unpacked_bytes: int = 16 << 30
    unpacked_ratio: int = 200
    """Text compresses 3 to 20 times. Decompression bombs claim thousands."""
    unpacked_free: int = 64 * MIB
    """Below this size the ratio does not matter."""
    depth: int = 64
    rows: int = 5_000_000

    def max_unpacked(self, packed: int) -> int:
        """Maximum unpacked bytes of a file of `packed` bytes."""
        return min(self.unpacked_bytes, max(self.unpacked_free, self.unpacked_ratio * packed))


FILE_LIMITS = FileLimits()
CHILD_LIMITS = ChildLimits(memory_bytes=4 << 30, cpu_seconds=60, watch_seconds=0.2)
"""Limits of the process that reads."""
BYTES_PER_SECOND = 2 * MIB
"""Additional processor time by file size; a benign file is read at 20 MB/s and more."""
