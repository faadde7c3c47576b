"""The cache of compiled GPU kernels: its location and maximum size."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

MAX_CACHE_BYTES = 4 * 1024**3
"""Above this size the whole cache is deleted and kernels compile again; torch and Triton never delete any."""
INDUCTOR_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def kernel_cache_folder(root: Path, system: str = sys.platform, environ: Mapping[str, str] = os.environ) -> Path:
    """The cache folder in the workspace `root`, since a restart clears the system's temp folder. On Windows in LOCALAPPDATA:
    Triton's names are long and a path may have only 260 characters."""
    local = environ.get("LOCALAPPDATA") if system == "win32" else None
    return Path(local) / "tunebench" if local else root / "compiled"


def kernel_cache_environment(folder: Path) -> dict[str, str]:
    """Variables for torch, Triton and Unsloth. Unsloth has its own folder, since Python imports modules from it."""
    names = {"UNSLOTH_COMPILE_LOCATION": "unsloth", INDUCTOR_VARIABLE: "inductor", "TRITON_CACHE_DIR": "triton"}
    return {variable: str(folder / name) for variable, name in names.items()}


@contextmanager
def preserve_inductor_variable(environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Keeps torch's cache folder: on a card, Unsloth's import removes the variable (`patch_torch_compile`)."""
    before = environ.get(INDUCTOR_VARIABLE)
    try:
        yield
    finally:
        if before is not None:
            environ[INDUCTOR_VARIABLE] = before


def trim_kernel_cache(folder: Path, most: int = MAX_CACHE_BYTES) -> None:
    """Delete the whole cache if it is too large; files that resist are tried again before the next run."""
    if sum(path.lstat().st_size for path in folder.rglob("*")) > most:
        shutil.rmtree(folder, ignore_errors=True)
