"""Decides whether .venv is complete, and completes it.

.venv/tunebench.json describes .venv, and is marked ready last: the next start resumes an interrupted set-up,
and rebuilds a .venv made from other requirement files or by an older launcher.
"""
# ruff: noqa: T201

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from launcher import SetupError, compiler, cuda_support, install_steps
from launcher.managed_python import fetch_python
from launcher.nvidia_driver import NvidiaDriver, read_driver
from launcher.paths import (
    REHEARSAL,
    REHEARSAL_REQUIREMENTS,
    REQUIREMENTS,
    ROOT,
    TEST_REQUIREMENTS,
    VENV,
    VENV_PYTHON,
    WINDOWS,
)
from launcher.plan import SetupPlan, make_plan
from launcher.run_step import perform_step
from launcher.system import System, read_system

STAMP = VENV / "tunebench.json"
LAUNCHER = 1
"""Increased when launcher/ fills .venv differently, so that every .venv is rebuilt once."""
TRIAL_NAME = "kernels"
"""Changed when the trial on a card covers more: a CUDA .venv must pass the new trial once."""
PYTHONS = ((3, 13), (3, 12), (3, 11))
"""Python versions for which every pinned package has a wheel on Linux, Windows and Apple silicon."""


@dataclass(frozen=True)
class VenvStamp:
    """Description of a .venv, complete or not. `closure` and `tests`: fingerprints of its requirement files.

    build: of torch, a key of REQUIREMENTS.
    trial: the trial it has passed.
    """

    device: str
    python: str
    closure: str
    ready: bool = False
    tests: str = ""
    build: str = "cpu"
    trial: str = ""


def ensure_venv(asked: str) -> VenvStamp:
    """The stamp of a .venv that is ready for `asked` (auto, cpu, cuda). Costs one small hash if it already is."""
    if (found := read_stamp()) and is_finished(found, asked) and not is_outgrown(found, asked):
        return found
    with setup_lock():
        found = read_stamp()  # another launcher may have completed it meanwhile
        if found and is_finished(found, asked) and not is_outgrown(found, asked):
            return found
        return set_up_venv(asked, found)


def is_finished(found: VenvStamp, asked: str, python: Path = VENV_PYTHON) -> bool:
    current = found.closure == requirements_fingerprint(found.build, found.python)
    tried = found.device == "cpu" or found.trial == TRIAL_NAME
    return current and tried and found.ready and asked in ("auto", found.device) and python.exists()


def is_outgrown(found: VenvStamp, asked: str, read_driver: Callable[[], NvidiaDriver | None] = read_driver) -> bool:
    """Is CUDA required, and does the driver now support a better build than .venv's, or no longer .venv's?"""
    if asked != "cuda" or found.device != "cuda":
        return False
    return (
        cuda_support.choose_device(asked, read_driver(), os.environ.get(cuda_support.VISIBLE_VARIABLE)).build
        != found.build
    )


def set_up_venv(
    asked: str, found: VenvStamp | None, read_driver: Callable[[], NvidiaDriver | None] = read_driver
) -> VenvStamp:
    system = read_system()
    wanted = found.device if found and asked == "auto" else asked
    choice = cuda_support.choose_device(wanted, read_driver(), os.environ.get(cuda_support.VISIBLE_VARIABLE), system)
    python = choose_python(current_python_version(), sys.executable, find_pythons)
    plan = make_plan(choice, python, system)
    goal = VenvStamp(
        choice.device, plan.version, requirements_fingerprint(choice.build, plan.version), build=choice.build
    )
    print("\n".join(plan.lines), flush=True)
    print(f".venv is {VENV}.", flush=True)
    parts = [
        *install_steps.list_install_steps(choice.build, sys.platform),
        install_steps.trial_step(choice.build),
        install_steps.starter_step(),
    ]
    if found and replace(found, ready=False, tests="", trial="") == goal and is_sound(VENV_PYTHON, plan):
        print("An earlier set-up was cut short or tried less; going on with it.")
    else:
        refuse_while_running()
        base = python_with_headers(plan, system)
        perform_step(install_steps.venv_step(base, plan.version, system), f"[1/{len(parts) + 1}]", os.environ)
        write_stamp(goal)
    for number, step in enumerate(parts, start=2):
        try:
            perform_step(step, f"[{number}/{len(parts) + 1}]", venv_environment(goal, plan.card))
        except SetupError:
            if step.title.startswith("trial"):
                STAMP.unlink()  # the next start must not build on an installation that does not work
            raise
    return write_stamp(replace(goal, ready=True, trial=TRIAL_NAME))


def is_sound(python: Path, plan: SetupPlan) -> bool:
    """Does .venv's Python exist, with Python.h if the plan fetches one for it?"""
    if not python.exists() or not plan.fetch_python:
        return python.exists()
    return "header" not in compiler.check_build_tools(compiler.ask_python(str(python))).missing


def python_with_headers(plan: SetupPlan, system: System) -> str:
    """The Python to make .venv with: uv's if Python.h is missing. SetupError says what to install if that is not available."""
    if not plan.fetch_python:
        return plan.python
    try:
        return fetch_python(plan.version, plan.python, "[1/1]")
    except SetupError as error:
        headers = compiler.ask_python(plan.python)
        remedy = compiler.build_tools_advice(compiler.check_build_tools(headers), headers, plan.version, system)
        raise SetupError(f"{error}\n{remedy}") from error


def add_test_tools(stamp: VenvStamp, system: tuple[str, str] = (sys.platform, platform.machine())) -> None:
    """Packages for tests. `system`: sys.platform and machine name, because Triton's wheel is for Linux on x86-64."""
    wanted = file_fingerprint(TEST_REQUIREMENTS, stamp.closure)
    if stamp.tests != wanted:
        with setup_lock():
            perform_step(install_steps.packages_step(TEST_REQUIREMENTS), "[1/1]", venv_environment(stamp))
            write_stamp(replace(stamp, tests=wanted))
    if system == ("linux", "x86_64"):
        add_rehearsal(stamp, REHEARSAL)


def add_rehearsal(stamp: VenvStamp, folder: Path) -> bool:
    """Fill `folder` from requirements-rehearsal.txt if needed. False if that fails: its tests are skipped."""
    wanted, mark = file_fingerprint(REHEARSAL_REQUIREMENTS, stamp.python), folder / "tunebench.txt"
    if mark.is_file() and mark.read_text(encoding="utf-8") == wanted:
        return True
    new = folder.with_name(folder.name + "-new")
    with setup_lock():
        shutil.rmtree(new, ignore_errors=True)
        if not perform_step(
            install_steps.target_folder_step(REHEARSAL_REQUIREMENTS, new), "[1/1]", venv_environment(stamp)
        ):
            return False
        (new / mark.name).write_text(wanted, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        new.replace(folder)
    return True


def venv_environment(stamp: VenvStamp, card: str = "") -> dict[str, str]:
    """Environment for everything in .venv: our modules on the path, UTF-8, no telemetry, no GPU if torch cannot use one.

    Python may store its bytecode: each worker imports 3,000 files, which take 17 s more of the processor to compile.

    `card`: the only one visible to CUDA; if empty, CUDA's visible cards are unchanged.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ours = {"PYTHONPATH": path, "PYTHONUTF8": "1", "TUNEBENCH_DEVICE": stamp.device}
    pinned = {cuda_support.VISIBLE_VARIABLE: card, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if card else {}
    quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **ours, **quiet, **pinned, **({"UNSLOTH_FORCE_CPU": "1"} if stamp.device == "cpu" else {})}


def requirements_fingerprint(build: str, python: str) -> str:
    return file_fingerprint(
        REQUIREMENTS[build], "cpu" if build == "cpu" else "cuda", python, str(LAUNCHER), install_steps.INSTALLER
    )


def file_fingerprint(file: Path, *words: str) -> str:
    return hashlib.sha256(" ".join(words).encode() + b"\n" + file.read_bytes()).hexdigest()[:16]


def read_stamp(file: Path = STAMP) -> VenvStamp | None:
    """None if there is no .venv, or if this launcher cannot have made it."""
    try:
        facts = dict(json.loads(file.read_text(encoding="utf-8")))
        facts.setdefault("build", "cpu" if facts["device"] == "cpu" else "cu130")  # an earlier launcher wrote none
        known = {field.name for field in fields(VenvStamp)}
        stamp = VenvStamp(**{name: value for name, value in facts.items() if name in known})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return stamp if stamp.build in REQUIREMENTS else None


def write_stamp(stamp: VenvStamp) -> VenvStamp:
    new = STAMP.with_suffix(".new")
    new.write_text(json.dumps(asdict(stamp)), encoding="utf-8")
    new.replace(STAMP)
    return stamp


def current_python_version() -> tuple[int, int]:
    return sys.version_info[0], sys.version_info[1]


def choose_python(
    version: tuple[int, int], executable: str, others: Callable[[], Mapping[tuple[int, int], str]]
) -> tuple[str, str]:
    """The Python to make .venv with, and its version: the running one if suitable, else the newest found."""
    if version in PYTHONS:
        return executable, cuda_support.format_version(version)
    for found, path in sorted(others().items(), reverse=True):
        return path, cuda_support.format_version(found)
    raise SetupError(
        f"this is Python {cuda_support.format_version(version)}; Tunebench needs 3.11, 3.12 or 3.13, and none was found. "
        "Install one and start again."
    )


def find_pythons() -> dict[tuple[int, int], str]:
    """Suitable Pythons. A name on the PATH may be a dead shim, so each is asked for its real path."""
    found = {}
    for version in PYTHONS:
        name = cuda_support.format_version(version)
        command = ["py", f"-{name}"] if WINDOWS else [f"python{name}"]
        with contextlib.suppress(OSError):
            answer = subprocess.run(
                [*command, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True
            )
            if answer.returncode == 0:
                found[version] = answer.stdout.strip()
    return found


def refuse_while_running(refused: str = ".venv must be made anew") -> None:
    """Refuse while a training run, which outlives the app, still loads modules from .venv. Windows itself protects .venv."""
    if not VENV.exists() or WINDOWS or not shutil.which("ps"):
        return
    table = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, errors="replace")
    for process in table.stdout.splitlines():
        if str(VENV) in process and ("trainer_core" in process or "app.py" in process):
            raise SetupError(
                f"{refused}, but Tunebench still runs from it (process {process.split()[0]}). "
                "Let its training end or stop it, close the app, and start again."
            )


@contextlib.contextmanager
def setup_lock(folder: Path | None = None) -> Iterator[None]:
    """One set-up of this folder at a time. The operating system releases the lock of a dead process."""
    name = f"tunebench-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:16]}.lock"
    path = (folder or temporary_folder()) / name
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:  # for example if another user of this computer set up this folder
        raise SetupError(
            f"{path} cannot be opened ({error.strerror}). Delete it, or set TMPDIR to a folder of yours."
        ) from None
    with file:
        try:
            lock_file(file.fileno())
        except OSError:
            raise SetupError("another launch.py is setting .venv up right now. Wait until it has finished.") from None
        yield


def temporary_folder(find: Callable[[], str] = tempfile.gettempdir) -> Path:
    try:
        return Path(find())
    except FileNotFoundError as error:
        raise SetupError(f"{error.strerror}. Set TMPDIR to a folder that can be written.") from None


def lock_file(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
