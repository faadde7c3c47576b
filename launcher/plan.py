"""What a set-up will do, and why, before any download."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher import SetupError, compiler, cuda_support
from launcher.cuda_support import DeviceChoice
from launcher.system import System

SIZES = {
    "cpu": "0.6 GB to download, 2.2 GB on disk",
    "cu130": "3 GB to download, 8 GB on disk",
    "cu126": "3 GB to download, 8 GB on disk",
}
"""By build of torch. The last value is that of cu130, not measured."""


@dataclass(frozen=True)
class SetupPlan:
    """`python` makes .venv. With `fetch_python`, uv first downloads another one of that version, because this one lacks Python.h.

    card: CUDA_VISIBLE_DEVICES during the trial; empty on the CPU.
    """

    choice: DeviceChoice
    python: str
    version: str
    fetch_python: bool = False
    card: str = ""
    lines: tuple[str, ...] = field(default=())


def make_plan(
    choice: DeviceChoice,
    python: tuple[str, str],
    system: System,
    environ: Mapping[str, str] = os.environ,
    ask_python: Callable[[str], compiler.PythonHeaders] = compiler.ask_python,
    count_cuda: Callable[[str], int] = cuda_support.count_cuda_cards,
) -> SetupPlan:
    """The plan for this choice and this Python (path, version).

    Raises:
        SetupError: something is missing that set-up cannot install: a compiler, a writable folder.
    """
    path, version = python
    lines = [
        f"Setting Tunebench up for {choice.device.upper()}: {choice.reason}.",
        f"This happens once: about {SIZES[choice.build]}.",
    ]
    if choice.device != "cuda" or choice.gpu is None:
        return SetupPlan(choice, path, version, lines=tuple(lines))
    check_kernel_folder(environ)
    card = cuda_support.name_for_cuda(choice.gpu, count_cuda)
    if card != choice.gpu.uuid:
        lines.append(f"CUDA does not know this card by its UUID, so it is named by its number, {card}.")
    fetch_python = system.platform != "win32" and is_header_missing(path, version, system, environ, ask_python)
    if fetch_python:
        lines.append(f"Python {version} comes from uv: {path} has no Python.h, with which Triton builds its kernels.")
    return SetupPlan(choice, path, version, fetch_python, card, tuple(lines))


def is_header_missing(
    python: str,
    version: str,
    system: System,
    environ: Mapping[str, str],
    ask_python: Callable[[str], compiler.PythonHeaders] = compiler.ask_python,
) -> bool:
    """Is only Python.h missing, which another Python provides? Raises SetupError if there is no compiler."""
    headers = ask_python(python)
    finding = compiler.check_build_tools(headers, environ)
    if "compiler" in finding.missing:
        raise SetupError(compiler.build_tools_advice(finding, headers, version, system))
    return "header" in finding.missing


def check_kernel_folder(environ: Mapping[str, str]) -> None:
    """Triton caches its builds in a user folder; raises SetupError if that is not writable."""
    home = Path(environ.get("TRITON_HOME") or os.path.expanduser("~"))
    folder = Path(environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(folder)):
            pass
    except OSError as error:
        raise SetupError(
            f"Triton keeps its kernels in {folder}, and that cannot be written ({error.strerror}). "
            "Set TRITON_CACHE_DIR to a folder that can."
        ) from None
