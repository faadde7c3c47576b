"""Checks that Triton can build C here, which it does at the first kernel's launch (triton/runtime/build.py).

Triton uses the compiler in CC, else gcc, else clang, and includes Python.h of the running Python. The check builds a
three-line file as Triton does, because a gcc without the C library's headers does not work.
On Windows triton-windows includes a compiler and the headers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.system import System, install_command

BUILD_SECONDS = 60
HEADERS_PROGRAM = """
import importlib.util, json, os, sys, sysconfig
scheme = sysconfig.get_default_scheme() if hasattr(sysconfig, "get_default_scheme") else None
include = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme or sysconfig._get_default_scheme())["include"]
system = os.path.realpath("/usr/bin/python3") == os.path.realpath(sys.executable)
venv = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
print(json.dumps({"include": include, "venv": venv, "stock": system}))
"""
"""Debian's own scheme posix_local has no headers; Triton requests posix_prefix there, and so do we."""
C_SOURCE = "#include <stdlib.h>\n#include <dlfcn.h>\n"
PYTHON_C_SOURCE = "#include <Python.h>\n" + C_SOURCE


@dataclass(frozen=True)
class PythonHeaders:
    """Facts about a Python: where Python.h should be, whether it can make a .venv, whether it is the system's own."""

    include: str
    venv: bool = True
    stock: bool = False


@dataclass(frozen=True)
class BuildToolsCheck:
    """`missing` contains "compiler", "header" and "venv"; `said` is the compiler's first error line."""

    missing: tuple[str, ...] = ()
    said: str = ""


def ask_python(python: str) -> PythonHeaders:
    """Raises OSError or ValueError if this Python does not work."""
    answer = subprocess.run([python, "-I", "-c", HEADERS_PROGRAM], capture_output=True, timeout=BUILD_SECONDS)
    return PythonHeaders(**json.loads(answer.stdout.decode("utf-8", "replace")))


def find_compiler(environ: Mapping[str, str]) -> str:
    """The compiler's path as Triton finds it, or an empty string."""
    path = environ.get("PATH")
    if "CC" in environ:
        return shutil.which(environ["CC"], path=path) or ""
    return shutil.which("gcc", path=path) or shutil.which("clang", path=path) or ""


def check_build_tools(headers: PythonHeaders, environ: Mapping[str, str] = os.environ) -> BuildToolsCheck:
    """Which of compiler, Python.h and venv this Python lacks."""
    missing, said = [] if headers.venv else ["venv"], ""
    compiler = find_compiler(environ)
    if not compiler:
        missing.append("compiler")
        said = f"CC={environ['CC']} is not there" if "CC" in environ else "neither gcc nor clang is on the PATH"
    elif complaint := try_build(compiler, C_SOURCE, "", environ):
        missing.append("compiler")
        said = f"{compiler} does not build C: {complaint}"
    if not (Path(headers.include) / "Python.h").is_file():
        missing.append("header")
    elif "compiler" not in missing and (complaint := try_build(compiler, PYTHON_C_SOURCE, headers.include, environ)):
        missing.append("header")
        said = complaint
    return BuildToolsCheck(tuple(missing), said)


def try_build(compiler: str, source: str, include: str, environ: Mapping[str, str]) -> str:
    """Build a shared library from the source. Returns the compiler's first error line, or an empty string."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trial.c"
        file.write_text(source, encoding="ascii")
        command = [compiler, str(file), "-shared", "-fPIC", "-o", str(file.with_suffix(".so"))]
        try:
            done = subprocess.run(
                command + ([f"-I{include}"] if include else []),
                env={**environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=BUILD_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    first = next((line for line in lines if "error" in line.lower()), f"status {done.returncode}")
    return "" if done.returncode == 0 else first.replace(str(file), file.name)


def build_tools_advice(finding: BuildToolsCheck, headers: PythonHeaders, version: str, system: System) -> str:
    """What Triton lacks, and the one command that installs it; empty if nothing is missing."""
    names = {"compiler": "a C compiler", "header": f"Python.h of Python {version}"}
    lacking = [name for part, name in names.items() if part in finding.missing]
    if not lacking:
        return ""
    what = f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing"
    said = f" ({finding.said})" if finding.said else ""
    command = install_command(system, finding.missing, version, headers.stock)
    remedy = (
        f"Install it with `{command}`"
        if command
        else f"Install {' and '.join(lacking)} with {system.title}'s package manager"
    )
    return f"Triton builds a C file at its first kernel, and {what}{said}. {remedy}, then start again."
