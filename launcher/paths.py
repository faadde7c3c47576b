"""Paths of an installation."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
WINDOWS = sys.platform == "win32"
VENV_PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
REQUIREMENTS = {
    "cpu": ROOT / "requirements-cpu.txt",
    "cu130": ROOT / "requirements.txt",
    "cu126": ROOT / "requirements-cu126.txt",
}
"""By build of torch. The last file has neither torch nor CUDA libraries: only PyTorch's index knows them for CUDA 12.6."""
TEST_REQUIREMENTS = ROOT / "requirements-test.txt"
REHEARSAL_REQUIREMENTS = ROOT / "requirements-rehearsal.txt"
REHEARSAL = VENV / "rehearsal"
"""Triton for tests of the CUDA code on the processor: outside of site-packages, where `import unsloth` would find it."""
