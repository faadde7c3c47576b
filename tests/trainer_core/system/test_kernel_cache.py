"""Where compiled kernels lie: in the workspace, in few letters on Windows, and never without a bound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer_core.system import kernel_cache
from trainer_core.system.project import PROJECT

pytestmark = pytest.mark.real

WORKSPACE = Path("/home/somebody/with/a/very/long/path/to/the/program/called/tunebench/workspace")


def test_they_lie_in_the_workspace_and_on_windows_in_few_letters() -> None:
    local = "C:/Users/Jané Doe/AppData/Local"
    assert kernel_cache.kernel_cache_folder(WORKSPACE, "linux", {"LOCALAPPDATA": local}) == WORKSPACE / "compiled"
    assert kernel_cache.kernel_cache_folder(WORKSPACE, "win32", {}) == WORKSPACE / "compiled"
    there = kernel_cache.kernel_cache_environment(
        kernel_cache.kernel_cache_folder(WORKSPACE, "win32", {"LOCALAPPDATA": local})
    )
    assert all(len(path) <= len(local) + len("/tunebench/inductor") for path in there.values())


def test_python_finds_no_module_among_them() -> None:
    """Unsloth puts its part on the path: a folder named triton in it would be taken for the library."""
    places = kernel_cache.kernel_cache_environment(WORKSPACE)
    unsloth = places.pop("UNSLOTH_COMPILE_LOCATION")
    assert not any(Path(place).is_relative_to(unsloth) for place in places.values())


def test_an_import_that_removes_torchs_place_changes_nothing() -> None:
    environ = {kernel_cache.INDUCTOR_VARIABLE: "here"}
    with kernel_cache.preserve_inductor_variable(environ):
        del environ[kernel_cache.INDUCTOR_VARIABLE]
    assert environ == {kernel_cache.INDUCTOR_VARIABLE: "here"}
    with kernel_cache.preserve_inductor_variable(unset := {}):
        pass
    assert unset == {}


def test_unsloth_does_remove_it() -> None:
    """What it runs when it is imported on a card, run here: the day it no longer does, `unmoved` can go."""
    code = (
        "import os; from unsloth_zoo.patching_utils import patch_torch_compile; from trainer_core.system import kernel_cache\n"
        "os.environ[kernel_cache.INDUCTOR_VARIABLE] = 'here'\n"
        "with kernel_cache.preserve_inductor_variable():\n"
        "    patch_torch_compile(); inside = os.environ.get(kernel_cache.INDUCTOR_VARIABLE)\n"
        "assert inside != 'here' and os.environ[kernel_cache.INDUCTOR_VARIABLE] == 'here', inside"
    )
    subprocess.run([sys.executable, "-c", "import unsloth\n" + code], cwd=PROJECT, check=True)


def test_too_much_is_deleted_whole(tmp_path: Path) -> None:
    for name in ("inductor/a", "triton/b"):
        (tmp_path / "compiled" / name).parent.mkdir(parents=True)
        (tmp_path / "compiled" / name).write_bytes(bytes(600))
    kernel_cache.trim_kernel_cache(tmp_path / "compiled", most=20_000)
    assert (tmp_path / "compiled" / "triton" / "b").exists()
    kernel_cache.trim_kernel_cache(tmp_path / "compiled", most=1000)
    assert not (tmp_path / "compiled").exists()
    kernel_cache.trim_kernel_cache(tmp_path / "compiled", most=1000)
