"""The last step of set-up, run by .venv's Python: checks that the installation works on this device.

    python -P launcher/trial.py cpu
    python -P launcher/trial.py cuda 13.0        the CUDA version that torch must be built for

A card must multiply, launch a Triton kernel and run the output of torch.compile: training needs all three.
"""
# ruff: noqa: T201

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from types import ModuleType

from launcher import compiler
from launcher.system import read_system


class TrialError(Exception):
    """An installed package does not work; the text says which, and what to do."""


def main(device: str, cuda: str = "") -> str:
    """Run the trial and describe what works.

    Raises:
        TrialError: something does not work.
    """
    unsloth, torch = import_libraries()
    built = torch.version.cuda
    if device == "cpu" and built:
        raise TrialError(f"torch {torch.__version__} is a CUDA build; a CPU build is needed here.")
    if device == "cuda" and built != cuda:
        raise TrialError(f"torch {torch.__version__} is built for CUDA {built}; CUDA {cuda} is needed here.")
    if device == "cuda" and not torch.cuda.is_available():
        raise TrialError(no_device_message(torch.__version__, os.environ.get("CUDA_VISIBLE_DEVICES")))
    check_product(torch, device)
    if device == "cuda":
        from launcher import trial_kernels

        check_kernel("A Triton kernel", trial_kernels.TOLERANCE, lambda: trial_kernels.kernel_error(device))
        check_kernel("torch.compile", trial_kernels.TOLERANCE, lambda: trial_kernels.measure_compile_error(device))
    return f"torch {torch.__version__} and unsloth {unsloth.__version__} work on {device}."


def import_libraries() -> tuple[ModuleType, ModuleType]:
    """unsloth and torch, in the order that unsloth requires."""
    try:
        import unsloth
    except Exception as error:
        raise TrialError(describe_failure("import unsloth", error)) from error
    import torch

    return unsloth, torch


def no_device_message(version: str, visible: str | None) -> str:
    chosen = f" with CUDA_VISIBLE_DEVICES={visible}" if visible is not None else ""
    return f"torch {version} finds no CUDA device{chosen}. `nvidia-smi -L` lists the cards that the driver sees."


def check_product(torch: ModuleType, device: str) -> None:
    ones = torch.ones(64, 64, device=device)
    if float((ones @ ones).sum()) != 64.0**3:
        raise TrialError(f"A product of two matrices is wrong on {device}.")


def check_kernel(what: str, tolerance: float, error_of: Callable[[], float]) -> None:
    """Run a trial kernel; raises TrialError if it fails or differs from torch's result by more than `tolerance`."""
    try:
        difference = error_of()
    except Exception as error:
        raise TrialError(describe_failure(what, error)) from error
    if not difference <= tolerance:  # also rejects NaN
        raise TrialError(f"{what} is wrong: an RMS norm differs by {difference:.3g}, allowed is {tolerance:g}.")


def describe_failure(what: str, error: Exception) -> str:
    """The failure, and what to do if a missing tool explains it."""
    lines = str(error).strip().splitlines() or [""]
    return f"{what} failed: {type(error).__name__}: {lines[-1]}\n{missing_tools()}".strip()


def missing_tools() -> str:
    """What Triton lacks to build C with the running Python; empty if nothing, and on Windows."""
    if sys.platform == "win32":
        return ""
    headers = compiler.ask_python(sys.executable)
    version = ".".join(platform.python_version_tuple()[:2])
    return compiler.build_tools_advice(compiler.check_build_tools(headers), headers, version, read_system())


if __name__ == "__main__":
    try:
        print(main(*sys.argv[1:]))
    except TrialError as failure:
        sys.exit(str(failure))
