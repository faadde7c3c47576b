"""What is installed into .venv, from where, in which order, and where each build of torch comes from.

Everything is installed with --no-deps: the requirement files list every package, and unsloth requires a certifi that
the index does not have. They name no index, so a machine's own mirror works; uv knows PyTorch's own indexes.
Only torch for CUDA 12.6 installs its dependencies: only PyTorch's index knows which CUDA libraries it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.cuda_support import BUILDS
from launcher.paths import REQUIREMENTS, ROOT, VENV, VENV_PYTHON
from launcher.system import System, install_command

INSTALLER = "uv==0.13.9"
PYTHON = str(VENV_PYTHON)
PIP = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps")
UV = (PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "--no-deps")


@dataclass(frozen=True)
class InstallStep:
    """One part of the set-up. `ways`: alternative commands, best first; the next is tried if one fails."""

    title: str
    ways: tuple[tuple[str, ...], ...]
    advice: str = "If the network failed, just start again: what is already downloaded is kept."
    needed: bool = True


def venv_step(python: str, version: str, system: System) -> InstallStep:
    command = install_command(system, ["venv"], version, stock=False) or "apt install python3-venv"
    advice = f"Debian and Ubuntu keep a part of Python apart: `{command}`. Then start again."
    return InstallStep(
        f"Python {version} environment in {VENV.name}", ((python, "-m", "venv", "--clear", str(VENV)),), advice
    )


def list_install_steps(build: str, platform: str) -> list[InstallStep]:
    """Steps that fill a bare .venv. `build` is a key of REQUIREMENTS, `platform` is sys.platform."""
    uv = InstallStep("installer uv", ((*PIP, INSTALLER),), needed=False)
    rest = packages_step(REQUIREMENTS[build])
    if build == "cu126":  # torch last: its dependencies outside CUDA are then present in the pinned versions
        return [uv, rest, torch_cuda_step(build)]
    return [uv, *torch_steps(build, platform), rest]


def torch_steps(build: str, platform: str) -> list[InstallStep]:
    """torch on its own if the usual index has the other build: it has CUDA 13.0 for Linux, CPU for Windows and macOS.

    The CUDA build is explicit, because uv's "auto" takes the newest CUDA of the driver, whatever the pins need.
    """
    wanted = requirement_line(build, "torch")
    if (build, platform) == ("cpu", "linux"):
        ways = ((*PIP, f"{wanted}+cpu"), (*UV, "--torch-backend=cpu", wanted))
        return [InstallStep(f"{wanted}, CPU build: by pip's own settings, else from PyTorch's index", ways)]
    if (build, platform) == ("cu130", "win32"):
        pair = (wanted, requirement_line(build, "torchvision"))
        return [InstallStep(f"{wanted}, CUDA build from PyTorch's index", ((*UV, f"--torch-backend={build}", *pair),))]
    return []


def torch_cuda_step(build: str) -> InstallStep:
    """A CUDA build that the usual index lacks for every system, with its CUDA libraries."""
    pair = (requirement_line("cu130", "torch"), requirement_line("cu130", "torchvision"))
    command = tuple(word for word in UV if word != "--no-deps") + (f"--torch-backend={build}", *pair)
    advice = (
        "This build comes from download.pytorch.org only. If that cannot be reached, a newer driver "
        f"({BUILDS[0].drivers}) lets torch come from the usual index."
    )
    return InstallStep(f"{pair[0]} and its CUDA libraries, {build}, from PyTorch's index", (command,), advice)


def requirement_line(build: str, name: str) -> str:
    """The package's line in this build's requirement file, `torch==2.13.0`."""
    return f"{name}=={read_pinned_versions(REQUIREMENTS[build])[name]}"


def packages_step(file: Path) -> InstallStep:
    """All pins of a file. uv is many times faster; pip uses the machine's own mirrors and certificates."""
    return InstallStep(f"the packages of {file.name}", ((*UV, "-r", str(file)), (*PIP, "-r", str(file))))


def target_folder_step(file: Path, folder: Path) -> InstallStep:
    """All pins of a file, in a folder that is not a site-packages. Only tests use it, so it is optional."""
    target = ("--target", str(folder), "-r", str(file))
    return InstallStep(
        f"the packages of {file.name}, in a folder of their own", ((*UV, *target), (*PIP, *target)), needed=False
    )


def read_pinned_versions(file: Path) -> dict[str, str]:
    """Version by name."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return dict(line.split()[0].split("==") for line in lines if line and not line.startswith("#"))


def trial_step(build: str) -> InstallStep:
    """The last step: verifies that the installation works."""
    advice = "The next start makes .venv anew. If that ends here too: with a GPU, `--device cpu` may still work."
    cuda = next((known.cuda for known in BUILDS if known.name == build), "")
    device = ("cuda", cuda) if cuda else ("cpu",)
    does = "multiply, launch a Triton kernel, compile one" if cuda else "multiply"
    command = (PYTHON, "-P", str(ROOT / "launcher" / "trial.py"), *device)
    return InstallStep(f"trial on {device[0]}: import unsloth and torch, {does}", (command,), advice)


def starter_step() -> InstallStep:
    """Prepares the embedded starter model, so that the first run does not wait for it."""
    advice = "It is made at the first run instead."
    return InstallStep("starter model", ((PYTHON, "-P", "-m", "trainer_core", "starter"),), advice, needed=False)
