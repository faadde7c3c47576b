"""What set-up needs beside packages on a machine with a card: a compiler, Python.h, folders to write; and the trial's kernels.

The card is pretended, by arguments. Compilers, headers and Triton's own build step are real.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher import SetupError, compiler, trial
from launcher.compiler import BuildToolsCheck, PythonHeaders, ask_python, check_build_tools
from launcher.cuda_support import DeviceChoice
from launcher.managed_python import fetch_python
from launcher.nvidia_driver import DriverGpu
from launcher.paths import REHEARSAL, ROOT
from launcher.plan import SetupPlan, make_plan
from launcher.system import System, driver_advice, install_command, read_system

CARD = DriverGpu("NVIDIA GeForce RTX 4090", (8, 9), index=2, uuid="GPU-4090")
ON_CARD = DeviceChoice("cuda", "RTX 4090, NVIDIA driver 580.95.05", "cu130", CARD)
UBUNTU = System(family="ubuntu", title="Ubuntu 24.04.2 LTS")
NO_HEADER = PythonHeaders("/nonexistent/include/python3.12", stock=True)

needs_compiler = pytest.mark.skipif(
    sys.platform == "win32" or not compiler.find_compiler(os.environ), reason="no gcc or clang here"
)
needs_triton = pytest.mark.skipif(
    not (REHEARSAL / "triton").is_dir(), reason=f"no Triton in {REHEARSAL.name}; `launch.py test` fetches it"
)


# ---- compiler and header


@needs_compiler
def test_what_triton_needs_is_found_by_building(tmp_path: Path) -> None:
    headers = ask_python(sys.executable)
    assert check_build_tools(headers) == BuildToolsCheck()
    assert check_build_tools(replace(headers, include="/nonexistent")).missing == ("header",)
    assert check_build_tools(replace(headers, venv=False)).missing == ("venv",)
    empty = {"PATH": str(tmp_path)}
    assert check_build_tools(headers, empty) == BuildToolsCheck(("compiler",), "neither gcc nor clang is on the PATH")
    assert check_build_tools(NO_HEADER, empty).missing == ("compiler", "header")
    assert check_build_tools(headers, {**os.environ, "CC": "no-such-cc"}) == BuildToolsCheck(
        ("compiler",), "CC=no-such-cc is not there"
    )


@needs_compiler
def test_a_compiler_that_builds_nothing_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "gcc"
    broken.write_text("#!/bin/sh\necho 'trial.c:1:10: fatal error: stdlib.h: No such file or directory'\nexit 1\n")
    broken.chmod(0o755)
    finding = check_build_tools(ask_python(sys.executable), {"PATH": f"{tmp_path}:/bin:/usr/bin"})
    assert finding.missing == ("compiler",)
    assert "stdlib.h" in finding.said


@needs_compiler
def test_a_python_h_that_does_not_compile_is_said(tmp_path: Path) -> None:
    (tmp_path / "Python.h").write_text("#include <pyconfig-that-is-elsewhere.h>\n", encoding="ascii")
    finding = check_build_tools(PythonHeaders(str(tmp_path)))
    assert finding.missing == ("header",)
    assert "pyconfig-that-is-elsewhere.h" in finding.said


@needs_compiler
@needs_triton
@pytest.mark.parametrize("hidden", ["", "compiler", "header"])
def test_triton_itself_fails_where_we_say_so_and_nowhere_else(hidden: str, tmp_path: Path) -> None:
    headers = ask_python(sys.executable)
    include = str(tmp_path) if hidden == "header" else headers.include
    (tmp_path / "bin").mkdir()
    path = str(tmp_path / "bin") if hidden == "compiler" else os.environ["PATH"]
    environ = {"PATH": path, "PYTHONPATH": str(REHEARSAL), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    program = (
        "import sys, sysconfig; paths = sysconfig.get_paths\n"
        f"sysconfig.get_paths = lambda *given, **named: {{**paths(*given, **named), 'include': {include!r}}}\n"
        "from triton.runtime.build import compile_module_from_src\n"
        "source = '#include <Python.h>\\n' + open(sys.argv[1]).read()\n"
        "print(compile_module_from_src(source, 'tried').answer())"
    )
    source = tmp_path / "tried.c"
    source.write_text(MODULE, encoding="ascii")
    done = subprocess.run([sys.executable, "-c", program, source], env=environ, capture_output=True, text=True)
    finding = check_build_tools(replace(headers, include=include), environ)
    assert finding.missing == ((hidden,) if hidden else ())
    assert (done.returncode == 0) == (not hidden), done.stderr
    assert done.stdout == ("" if hidden else "42\n")


MODULE = """
static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "tried", NULL, -1, methods};
PyMODINIT_FUNC PyInit_tried(void) { return PyModule_Create(&module); }
"""


# ---- the one command


BOTH = ("compiler", "header")


@pytest.mark.parametrize(
    ("system", "missing", "stock", "command"),
    [
        (UBUNTU, BOTH, True, "sudo apt install gcc python3.12-dev"),
        (UBUNTU, (*BOTH, "venv"), True, "sudo apt install gcc python3.12-dev python3.12-venv"),
        (UBUNTU, ("compiler",), True, "sudo apt install gcc libc6-dev"),
        (UBUNTU, ("venv",), False, "sudo apt install python3.12-venv"),
        (replace(UBUNTU, root=True), BOTH, True, "apt install gcc python3.12-dev"),
        (System(family="fedora"), BOTH, True, "sudo dnf install gcc python3-devel"),
        (System(family="fedora"), BOTH, False, "sudo dnf install gcc python3.12-devel"),
        (System(family="arch"), ("compiler",), True, "sudo pacman -S --needed gcc"),
        (System(family="opensuse"), BOTH, True, "sudo zypper install gcc python312-devel"),
        (System(), BOTH, True, ""),
    ],
)
def test_each_distribution_has_one_command(system: System, missing: tuple[str, ...], stock: bool, command: str) -> None:
    assert install_command(system, missing, "3.12", stock) == command
    said = compiler.build_tools_advice(
        BuildToolsCheck(missing, "no gcc"), replace(NO_HEADER, stock=stock), "3.12", system
    )
    if missing == ("venv",):
        assert said == ""
    else:
        assert (f"`{command}`" if command else "Linux's package manager") in said


@pytest.mark.parametrize(
    ("text", "family", "title"),
    [
        ('ID=ubuntu\nID_LIKE=debian\nPRETTY_NAME="Ubuntu 24.04.2 LTS"\n', "ubuntu", "Ubuntu 24.04.2 LTS"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "ubuntu", "Linux"),
        ('# made by hand\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "suse", "Linux"),
        ("ID=nixos\nPRETTY_NAME='NixOS \"quoted\n", "", 'NixOS "quoted'),
        ("", "", "Linux"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="os-release is Linux's")
def test_the_distribution_is_read_from_os_release(text: str, family: str, title: str, tmp_path: Path) -> None:
    file = tmp_path / "os-release"
    file.write_text(text, encoding="utf-8")
    system = read_system([tmp_path / "missing", file])
    assert (system.family, system.title) == (family, title)


@pytest.mark.parametrize(
    ("system", "said"),
    [
        (UBUNTU, "sudo ubuntu-drivers install"),
        (replace(UBUNTU, wsl=True), "in Windows"),
        (System("win32", title="Windows"), "nvidia.com/drivers"),
    ],
)
def test_a_driver_is_updated_in_one_way(system: System, said: str) -> None:
    assert said in driver_advice(system)


# ---- the plan


def plan_for(headers: PythonHeaders, environ: dict[str, str], known: tuple[str, ...] = (CARD.uuid,)) -> SetupPlan:
    return make_plan(
        ON_CARD, ("/usr/bin/python3.12", "3.12"), UBUNTU, environ, lambda _: headers, lambda name: int(name in known)
    )


@needs_compiler
def test_the_plan_says_what_was_picked_and_why(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "TRITON_CACHE_DIR": str(tmp_path)}
    good = plan_for(ask_python(sys.executable), environ)
    assert (good.fetch_python, good.card) == (False, "GPU-4090")
    assert "RTX 4090, NVIDIA driver 580.95.05" in good.lines[0]

    headerless = plan_for(NO_HEADER, environ, known=("2",))
    assert (headerless.fetch_python, headerless.card) == (True, "2")
    assert any("Python 3.12 comes from uv: /usr/bin/python3.12 has no Python.h" in line for line in headerless.lines)
    assert any("by its number, 2" in line for line in headerless.lines)


def test_without_a_compiler_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"`sudo apt install gcc python3\.12-dev`"):
        plan_for(NO_HEADER, {"PATH": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path)})


def test_a_processor_and_windows_need_no_compiler(tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path)}
    on_cpu = make_plan(DeviceChoice("cpu", "no driver"), ("python", "3.12"), UBUNTU, nothing, lambda _: NO_HEADER)
    windows = System("win32", title="Windows")
    on_windows = make_plan(ON_CARD, ("python", "3.12"), windows, nothing, lambda _: NO_HEADER, lambda _: 1)
    assert [on_cpu.fetch_python, on_windows.fetch_python] == [False, False]


def test_a_folder_that_triton_cannot_write_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="Set TRITON_CACHE_DIR"):
        plan_for(NO_HEADER, {"PATH": os.environ["PATH"], "TRITON_HOME": str(tmp_path / "file")})


UV = """#!/bin/sh
echo "$@" >> {log}
case "$2" in find) echo {found};; install) exit {status};; esac
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for uv")
@pytest.mark.parametrize("status", [0, 2])
def test_a_python_with_headers_comes_from_uv(status: int, tmp_path: Path) -> None:
    uv, log = tmp_path / "uv", tmp_path / "log"
    uv.write_text(UV.format(log=log, found=sys.executable, status=status), encoding="utf-8")
    uv.chmod(0o755)
    if status:
        with pytest.raises(SetupError, match=r"Python 3\.12 of uv's own"):
            fetch_python("3.12", sys.executable, "[1/1]", str(uv))
    else:
        assert fetch_python("3.12", sys.executable, "[1/1]", str(uv)) == sys.executable
        assert log.read_text().splitlines() == ["python install 3.12", "python find --managed-python 3.12"]


# ---- the trial


@pytest.mark.real
@needs_triton
def test_the_trials_kernel_computes_an_rms_norm() -> None:
    """In Triton's interpreter, which needs no card; the launcher's file as it is."""
    program = "from launcher import trial_kernels; print(trial_kernels.kernel_error('cpu'), trial_kernels.TOLERANCE)"
    environ = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{REHEARSAL}"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    error, tolerance = map(float, done.stdout.split())
    assert error <= tolerance


def test_a_kernel_that_fails_or_is_wrong_ends_the_trial() -> None:
    def raises() -> float:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")

    trial.check_kernel("A Triton kernel", 1e-3, lambda: 1e-4)
    with pytest.raises(trial.TrialError, match="A Triton kernel failed: RuntimeError: Failed to find C compiler"):
        trial.check_kernel("A Triton kernel", 1e-3, raises)
    for wrong in (0.5, float("nan")):
        with pytest.raises(trial.TrialError, match="allowed is 0.001"):
            trial.check_kernel("torch.compile", 1e-3, lambda error=wrong: error)


@needs_compiler
def test_the_trials_failure_says_what_is_missing(tmp_path: Path) -> None:
    program = (
        "from launcher import trial\n"
        "def fail(): raise RuntimeError('Failed to find C compiler.')\n"
        "try: trial.check_kernel('A Triton kernel', 1e-3, fail)\n"
        "except trial.TrialError as error: print(error)"
    )
    done = {
        path: subprocess.run(
            [sys.executable, "-c", program], env={"PATH": path, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        ).stdout
        for path in (os.environ["PATH"], str(tmp_path))
    }
    assert "is missing" not in done[os.environ["PATH"]]
    assert "a C compiler is missing (neither gcc nor clang is on the PATH)" in done[str(tmp_path)]
