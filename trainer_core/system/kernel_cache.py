"""The cache of compiled GPU kernels: where it is, and how large it may become."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

MAX_CACHE_BYTES = 4 * 1024**3
"""Beyond this all of it is deleted and compiled anew; torch and Triton never delete any."""
INDUCTOR_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def kernel_cache_folder(root: Path, system: str = sys.platform, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder: in the workspace `root`, since the system's temp folder is cleared by a restart. On Windows beside the user's
    other programs' data: Triton's names are long, and a path may have 260 letters."""
    local = environ.get("LOCALAPPDATA") if system == "win32" else None
    return Path(local) / "tunebench" if local else root / "compiled"


def kernel_cache_environment(folder: Path) -> dict[str, str]:
    """What tells torch, Triton and Unsloth. Unsloth's part is a folder of its own, since Python looks for modules in it."""
    names = {"UNSLOTH_COMPILE_LOCATION": "unsloth", INDUCTOR_VARIABLE: "inductor", "TRITON_CACHE_DIR": "triton"}
    return {variable: str(folder / name) for variable, name in names.items()}


@contextmanager
def preserve_inductor_variable(environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Torch's place stays what it was: Unsloth's import removes the variable on a card (`patch_torch_compile`)."""
    before = environ.get(INDUCTOR_VARIABLE)
    try:
        yield
    finally:
        if before is not None:
            environ[INDUCTOR_VARIABLE] = before


def trim_kernel_cache(folder: Path, most: int = MAX_CACHE_BYTES) -> None:
    """Delete all of it where it has become too large; what cannot be deleted is tried again before the next run."""
    if sum(path.lstat().st_size for path in folder.rglob("*")) > most:
        shutil.rmtree(folder, ignore_errors=True)
