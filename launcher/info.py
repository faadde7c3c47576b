"""Facts for support, in one block to paste: versions, card, driver, compiler, torch, memory, the last error.

Works with a missing or broken .venv: this Python reads everything but the packages, and an unreadable fact becomes a
line that says so. trainer_core/system/redact.py removes secrets, and the user's home folder is written as ~.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher import compiler, cuda_support, venv
from launcher.install_steps import trial_step
from launcher.nvidia_driver import DriverGpu, NvidiaDriver, read_driver
from launcher.paths import ROOT, VENV, VENV_PYTHON
from launcher.system import System, read_system
from launcher.version import read_commit, read_version
from trainer_core.system.redact import redact_text

PACKAGES = [
    "unsloth",
    "unsloth-zoo",
    "trl",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "triton",
    "triton-windows",
    "xformers",
    "gradio",
]
PACKAGES_PROGRAM = """
import importlib.metadata as metadata, json, platform, sys
versions = {}
for name in sys.argv[1:]:
    try: versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError: pass
import torch
cards = torch.cuda.device_count() if torch.version.cuda else 0
print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "cards": cards, "versions": versions}))
"""
SECONDS, TRIAL_SECONDS = 60, 600
TRIAL_LINES = 5
GIB = 2**30
MAX_RUNS, TAIL_BYTES, ERROR_LINES, ERROR_LETTERS = 100, 64 * 1024, 30, 3000
"""Newest runs searched for an error, bytes read of each one's events, and how much of the error is shown."""
LABEL_WIDTH = 14


@dataclass(frozen=True)
class InfoSources:
    """Sources of the facts; tests replace what the machine lacks."""

    workspace: Path
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    driver: Callable[[], NvidiaDriver | None] = read_driver
    system: Callable[[], System] = read_system
    python: Path = VENV_PYTHON


def system_report(sources: InfoSources, with_trial: bool = False) -> str:
    """The block, one line per fact. Never raises: an unreadable fact becomes a line that says so."""
    facts: list[tuple[str, Callable[[], str]]] = [
        ("Tunebench", tunebench_line),
        ("System", lambda: system_line(sources.system())),
        ("Python", lambda: f"{platform.python_version()}, {sys.executable}"),
        (".venv", venv_line),
        ("Packages", lambda: packages_line(sources.python)),
        ("Driver", lambda: driver_line(sources.driver())),
        ("Cards", lambda: "; ".join(map(card_line, driver_cards(sources.driver()))) or "none"),
        ("Variables", lambda: variables_line(sources.environ)),
        ("Compiler", lambda: compiler_line(sources)),
        ("Memory", memory_line),
        ("Disk", lambda: disk_line(sources.workspace)),
        ("Last error", lambda: last_error(sources.workspace / "runs")),
    ]
    if with_trial:
        facts.insert(-1, ("Trial", lambda: run_trial(sources.python)))
    lines = "\n".join(f"{name:<{LABEL_WIDTH}}{read_fact(fact)}" for name, fact in facts)
    return redact_text(lines).replace(os.path.expanduser("~"), "~")


def read_fact(fact: Callable[[], str]) -> str:
    """A fact in printable characters; its further lines follow below the first."""
    try:
        text = fact()
    except Exception as error:  # a report about something broken must not break
        text = f"could not be read: {type(error).__name__}: {error}"
    lines = text.splitlines() or [""]
    return ("\n" + " " * LABEL_WIDTH).join(
        "".join(letter if letter.isprintable() else "?" for letter in line.expandtabs()) for line in lines
    )


def tunebench_line() -> str:
    at = read_commit()
    return f"{read_version()}, commit {at}" if at else read_version()


def system_line(system: System) -> str:
    names = [system.title, platform.system(), platform.release(), platform.machine(), "WSL" if system.wsl else ""]
    return " ".join(filter(None, names))


def venv_line() -> str:
    stamp = venv.read_stamp()
    if not VENV.is_dir():
        return "missing; `python launch.py` makes it"
    if stamp is None:
        return "was not made by this launcher, or its set-up failed in the trial"
    state = "ready" if stamp.ready else "set-up not finished"
    tried = f", trial passed: {stamp.trial}" if stamp.trial else ""
    return f"{stamp.device}, torch build {stamp.build}, Python {stamp.python}, {state}{tried}"


def packages_line(python: Path) -> str:
    """torch and the packages built on it, queried in a child, which may hang or crash."""
    command = [str(python), "-P", "-c", PACKAGES_PROGRAM, *PACKAGES]
    answer = subprocess.run(command, cwd=str(ROOT), stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    if answer.returncode:
        said = answer.stderr.decode("utf-8", "replace").strip().splitlines()[-3:]
        return f"asking .venv failed with status {answer.returncode}: " + " / ".join(said)
    found = json.loads(answer.stdout.decode("utf-8", "replace").splitlines()[-1])
    names = [
        f"torch {found['torch']} (sees {found['cards']} cards)",
        *(f"{name} {at}" for name, at in found["versions"].items()),
    ]
    return ", ".join([f"Python {found['python']}", *names])


def driver_line(driver: NvidiaDriver | None) -> str:
    if driver is None:
        return "no NVIDIA driver"
    if driver.error:
        return f"NVIDIA, does not answer: NVML error {driver.error}"
    return f"NVIDIA {driver.version}, CUDA up to {cuda_support.format_cuda_version(driver.cuda)}"


def driver_cards(driver: NvidiaDriver | None) -> tuple[DriverGpu, ...]:
    return driver.gpus if driver else ()


def card_line(gpu: DriverGpu) -> str:
    memory = f", {gpu.free_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f} GB free" if gpu.total_bytes else ""
    return (
        f"{gpu.index}: {gpu.name}, compute capability "
        f"{cuda_support.format_version(gpu.capability)}{memory} {gpu.unusable}"
    ).strip()


def variables_line(environ: Mapping[str, str]) -> str:
    """Variables that change which card is visible and which compiler is used."""
    names = (
        cuda_support.VISIBLE_VARIABLE,
        "CUDA_DEVICE_ORDER",
        "CC",
        "TRITON_CACHE_DIR",
        "TORCHINDUCTOR_CACHE_DIR",
        "TMPDIR",
        "LD_LIBRARY_PATH",
    )
    return ", ".join(f"{name}={environ[name]}" for name in names if name in environ) or "none of ours are set"


def compiler_line(sources: InfoSources) -> str:
    if sources.system().platform == "win32":
        return "triton-windows brings its own"
    python = str(sources.python if sources.python.exists() else sys.executable)
    finding = compiler.check_build_tools(compiler.ask_python(python), sources.environ)
    found = compiler.find_compiler(sources.environ) or "none"
    said = f" ({finding.said})" if finding.said else ""
    return (
        f"{found}; missing: {', '.join(finding.missing)}{said}" if finding.missing else f"{found}, builds with Python.h"
    )


def memory_line() -> str:
    """Linux reports it in a file; elsewhere the page shows it."""
    table = Path("/proc/meminfo")
    if not table.is_file():
        return "not read on this system"
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in table.open())}
    return f"{sizes['MemAvailable'] / GIB:.1f} of {sizes['MemTotal'] / GIB:.1f} GB free"


def disk_line(workspace: Path) -> str:
    folder = next(place for place in (workspace, *workspace.parents) if place.exists())
    usage = shutil.disk_usage(str(folder))
    return f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GB free at {workspace}"


def run_trial(python: Path) -> str:
    """Run the last step of set-up again. On a card it takes some memory and a minute."""
    stamp = venv.read_stamp()
    if stamp is None:
        return "there is no finished .venv to try"
    ((_, *words),) = trial_step(stamp.build).ways
    done = subprocess.run(
        [str(python), *words],
        cwd=str(VENV),
        env=venv.venv_environment(stamp),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TRIAL_SECONDS,
    )
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()[-TRIAL_LINES:]
    return lines[-1] if done.returncode == 0 else "\n".join([f"failed with status {done.returncode}:", *lines])


# ---- the last error


def last_error(runs: Path) -> str:
    """The final event of the newest failed run."""
    for folder in newest_runs(runs):
        for event in reversed(list(read_last_events(folder / "events.jsonl"))):
            if event.get("kind") in ("RunFailed", "Failed"):
                words = f"{event.get('message', '')}\n{event.get('details', '')}".strip()[-ERROR_LETTERS:]
                return "\n".join([f"run {folder.name}, {event.get('at', '')}", *words.splitlines()[-ERROR_LINES:]])
    return "no run has failed"


def newest_runs(runs: Path) -> list[Path]:
    """Run folders, newest first. Links are skipped: they may lead out of the workspace."""
    try:
        found = [Path(entry.path) for entry in os.scandir(str(runs)) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)[:MAX_RUNS]


def read_last_events(file: Path) -> Iterator[dict[str, object]]:
    """The events at the end of a file, which is untrusted: a pipe, a link, no JSON, of any size."""
    try:
        handle = os.open(str(file), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return
    with os.fdopen(handle, "rb") as opened:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            return
        opened.seek(max(0, about.st_size - TAIL_BYTES))
        lines = opened.read(TAIL_BYTES).splitlines()
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event
