"""What is packed for a bare CUDA machine: all that the benches import there, for its Python, in the versions that are pinned."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import gpu_packages
from trainer_core.system.project import PROJECT

ROOTS = (
    "bench/__main__.py",
    "bench/suites/gpu_child.py",
    "bench/suites/compare_ways.py",
    "bench/suites/gpu_kernel.py",
    "trainer_core/worker/runner.py",
)
OURS = ("bench", "trainer_core", "launcher")
CPYTHON_312 = re.compile(
    r"(py3|py312|py2\.py3|cp3(?:\d|1[0-2]))-(none|abi3|cp312)-(any|manylinux\S+x86_64|linux_x86_64)"
)


def imported(file: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(module: str) -> Path | None:
    place = PROJECT / module.replace(".", "/")
    return next((one for one in (place.with_suffix(".py"), place / "__init__.py") if one.exists()), None)


@cache
def outside() -> dict[str, str]:
    """Top-level modules that are neither ours nor Python's → a file of ours that imports it, however far from the roots."""
    seen, ahead, found = set[Path](), [PROJECT / root for root in ROOTS], dict[str, str]()
    while ahead:
        file = ahead.pop()
        if file in seen:
            continue
        seen.add(file)
        for module in imported(file):
            top = module.split(".")[0]
            if top in OURS:
                parts = module.split(".")
                packages = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
                ahead += [one for one in map(file_of, packages) if one]
            elif top not in sys.stdlib_module_names:
                found.setdefault(top, file.relative_to(PROJECT).as_posix())
    return found


def carried() -> list[str]:
    pins = gpu_packages.read_pins(gpu_packages.REQUIREMENTS.read_text(encoding="utf-8"))
    return [one.partition("==")[0] for one in gpu_packages.missing_packages(pins, gpu_packages.machine_packages())]


def there() -> set[str]:
    return {*carried(), *gpu_packages.machine_packages()}


@cache
def installed() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def package_of(module: str) -> str:
    return canonicalize_name(installed().get(module, [module])[0])


def test_what_the_benches_import_is_packed_or_there() -> None:
    assert {"torch", "unsloth", "trl", "peft", "orjson", "triton", "pydantic", "chardet"} <= set(outside())
    assert {module: file for module, file in outside().items() if package_of(module) not in there()} == {}


def test_what_the_packed_packages_need_is_packed_or_there() -> None:
    lacking = dict[str, str]()
    for name in carried():
        for line in metadata.requires(name) or ():
            need = Requirement(line)
            for_it = need.marker is None or need.marker.evaluate({**gpu_packages.TARGET, "extra": ""})
            if for_it and canonicalize_name(need.name) not in there() | gpu_packages.OPTIONAL_PACKAGES:
                lacking[need.name] = name
    assert lacking == {}


def test_what_the_machine_is_said_to_have_is_something_we_need() -> None:
    pins = gpu_packages.read_pins(gpu_packages.REQUIREMENTS.read_text(encoding="utf-8"))
    assert set(gpu_packages.machine_packages()) - set(pins) == set()


def test_a_package_that_only_the_page_or_the_machines_torch_asks_for_is_not_packed() -> None:
    text = """
a==1  # via gradio
b==2  # via c, gradio
c==3  # via -r requirements.in
d==4  # via torch
e==5 ; sys_platform == 'win32'  # via -r requirements.in
gradio==6  # via -r requirements.in
torch==7  # via -r requirements.in
xformers==8  # via c
"""
    pins = gpu_packages.read_pins(text)
    assert gpu_packages.missing_packages(pins, {"torch": "7"}) == ["b==2", "c==3"]
    assert gpu_packages.missing_packages(pins, {"torch": "7"}, frozenset()) == ["b==2", "c==3", "xformers==8"]


@pytest.mark.long
def test_the_package_is_whole_and_for_the_machines_python(tmp_path: Path) -> None:
    """Downloads about 100 MB."""
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["tools/pack_gpu.sh"], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sys.stdout.write(done.stdout)
    packed = PROJECT / ".gpu" / "site.tar.xz"
    assert packed.stat().st_size < 60e6
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    site, tokenizer = tmp_path / "site", tmp_path / "workspace" / "models" / "SmolLM2-135M-Instruct"
    wheels = {file.parent.name: file.read_text(encoding="utf-8") for file in site.glob("*.dist-info/WHEEL")}
    tags = {name: re.findall(r"^Tag: (.+)$", text, re.M) for name, text in wheels.items()}
    assert len(tags) == len(carried())
    assert {name: found for name, found in tags.items() if not any(map(CPYTHON_312.fullmatch, found))} == {}
    assert not list(site.rglob("*.cpython-311*")) and not list(site.rglob("*.cpython-313*"))
    here = {path.name.split(".")[0] for path in site.iterdir()}
    machine = set(gpu_packages.machine_packages())
    assert {module for module in outside() if module not in here and package_of(module) not in machine} == set()
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {file.name for file in tokenizer.iterdir()}
    assert [file.name for file in site.glob("bitsandbytes/libbitsandbytes_cuda*.so")] == ["libbitsandbytes_cuda130.so"]
