"""What is installed into .venv, from where, in which order. Knows where each build of torch is to be had.

Everything is installed with --no-deps: the requirement files list every package, and unsloth asks for a certifi that
the index does not have. They name no index, so a machine's own mirror serves them; uv knows PyTorch's own indexes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.paths import REQUIREMENTS, VENV, VENV_PYTHON

INSTALLER = "uv==0.13.9"
CUDA_BACKEND = "cu130"
"""Not uv's "auto": that takes the newest CUDA the driver runs, which need not be the one the pins were made for."""
PYTHON = str(VENV_PYTHON)
PIP = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off", "--no-deps")
UV = (PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "--no-deps")


@dataclass(frozen=True)
class Step:
    """One part of the set-up. `ways` are commands that do it, best first: the next is tried when one fails."""

    title: str
    ways: tuple[tuple[str, ...], ...]
    advice: str = "If the network failed, just start again: what is already downloaded is kept."
    needed: bool = True


def bare_venv(python: str, version: str) -> Step:
    advice = "Debian and Ubuntu keep a part of it apart: `apt install python3-venv`. Then start again."
    return Step(f"Python {version} environment in {VENV.name}", ((python, "-m", "venv", "--clear", str(VENV)),), advice)


def install(device: str, platform: str) -> list[Step]:
    """What fills a bare .venv. `platform` is sys.platform's word."""
    uv = Step("installer uv", ((*PIP, INSTALLER),), needed=False)
    return [uv, *torch(device, platform), packages(REQUIREMENTS[device])]


def torch(device: str, platform: str) -> list[Step]:
    """torch by itself where the usual index has the other build: it has CUDA for Linux, CPU for Windows and macOS."""
    pins = pinned(REQUIREMENTS[device])
    wanted = f"torch=={pins['torch']}"
    if (device, platform) == ("cpu", "linux"):
        ways = ((*PIP, f"{wanted}+cpu"), (*UV, "--torch-backend=cpu", wanted))
        return [Step(f"{wanted}, CPU build: by pip's own settings, else from PyTorch's index", ways)]
    if (device, platform) == ("cuda", "win32"):
        pair = (wanted, f"torchvision=={pins['torchvision']}")
        return [Step(f"{wanted}, CUDA build from PyTorch's index", ((*UV, f"--torch-backend={CUDA_BACKEND}", *pair),))]
    return []


def packages(file: Path) -> Step:
    """All pins of a file. uv is many times faster; pip knows the machine's own mirrors and certificates."""
    return Step(f"the packages of {file.name}", ((*UV, "-r", str(file)), (*PIP, "-r", str(file))))


def into_folder(file: Path, folder: Path) -> Step:
    """All pins of a file into a folder that is no site-packages. Nothing but tests reads it, so it is not needed."""
    target = ("--target", str(folder), "-r", str(file))
    return Step(
        f"the packages of {file.name}, in a folder of their own", ((*UV, *target), (*PIP, *target)), needed=False
    )


def pinned(file: Path) -> dict[str, str]:
    """Version by name."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return dict(line.split()[0].split("==") for line in lines if line and not line.startswith("#"))


def trial(device: str) -> Step:
    """The last step: what is installed must work."""
    advice = "The next start makes .venv anew. If that ends here too: with a GPU, `--device cpu` may still work."
    return Step(f"trial: import unsloth and torch, multiply on {device}", ((PYTHON, "-c", TRIAL, device),), advice)


def starter() -> Step:
    """The embedded model, made ready once here, so that the first click does not wait for it."""
    advice = "It is made at the first run instead."
    return Step("starter model", ((PYTHON, "-P", "-m", "trainer_core", "starter"),), advice, needed=False)


TRIAL = """
import sys
import unsloth, torch
device = sys.argv[1]
if device == "cpu" and torch.version.cuda:
    sys.exit(f"torch {torch.__version__} is a CUDA build; a CPU build is needed here.")
if device == "cuda" and not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} finds no CUDA device.")
ones = torch.ones(64, 64, device=device)
if float((ones @ ones).sum()) != 64.0**3:
    sys.exit(f"A product of two matrices is wrong on {device}.")
print(f"torch {torch.__version__} and unsloth {unsloth.__version__} work on {device}.")
"""
