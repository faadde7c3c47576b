"""llama.cpp's quantiser, if it is on this computer. No package of ours has one: K-quants need compiled code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PROGRAM = "llama-quantize"
FOLDER_VARIABLE = "TUNEBENCH_LLAMA_CPP"
"""Names the folder of llama.cpp's programs, where they are not on the PATH."""


def find_quantiser() -> Path | None:
    """The program, from the folder that the user names or from the PATH."""
    folder = os.environ.get(FOLDER_VARIABLE)
    found = shutil.which(PROGRAM, path=folder) if folder else shutil.which(PROGRAM)
    return Path(found) if found else None
