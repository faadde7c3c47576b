"""Set-up and start: the choices as tables, and the launcher itself in a small project of its own, without a network."""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import launch
from launcher import SetupError, compiler, install_steps, venv
from launcher.cuda_support import choose_device, find_installed_build, name_for_cuda
from launcher.nvidia_driver import DriverGpu, NvidiaDriver, query_driver
from launcher.paths import REQUIREMENTS, ROOT, TEST_REQUIREMENTS
from launcher.venv import VenvStamp, choose_python

ADA, VOLTA = DriverGpu("NVIDIA GeForce RTX 4090", (8, 9)), DriverGpu("Tesla V100-SXM2-16GB", (7, 0))
FITS = NvidiaDriver(version="580.95.05", cuda=13_000, gpus=(ADA,))
OLD = NvidiaDriver(version="570.86.10", cuda=12_080, gpus=(ADA,))
OLDER = NvidiaDriver(version="470.256.02", cuda=11_040, gpus=(ADA,))
BLACKWELL = DriverGpu("NVIDIA GeForce RTX 5090", (12, 0), index=1, uuid="GPU-b5090000-1111")
TWO = replace(FITS, gpus=(replace(ADA, uuid="GPU-a4090000-2222"), BLACKWELL))
NO_SLICE = replace(ADA, unusable="MIG is on for it and it has no slice.")


# ---- CPU or CUDA


@pytest.mark.parametrize(
    ("asked", "driver", "build", "reason"),
    [
        ("auto", None, "cpu", "no NVIDIA driver"),
        ("auto", FITS, "cu130", "RTX 4090, NVIDIA driver 580.95.05"),
        ("auto", replace(FITS, cuda=13_020), "cu130", "RTX 4090"),
        ("auto", replace(FITS, gpus=(VOLTA, ADA)), "cu130", "RTX 4090"),
        ("auto", replace(FITS, gpus=(DriverGpu("NVIDIA GeForce GTX 1660", (7, 5)),)), "cu130", "GTX 1660"),
        ("auto", replace(FITS, gpus=(VOLTA,)), "cpu", "V100-SXM2-16GB has compute capability 7.0; CUDA 13.0 needs 7.5"),
        ("auto", replace(OLD, gpus=(VOLTA,)), "cpu", "compute capability 7.0"),
        ("auto", replace(FITS, gpus=()), "cpu", "driver 580.95.05 sees no GPU"),
        ("auto", NvidiaDriver(error=9), "cpu", "NVML error 9"),
        ("cpu", FITS, "cpu", "the CPU was chosen"),
        ("cpu", OLD, "cpu", "the CPU was chosen"),
        ("cuda", FITS, "cu130", "RTX 4090"),
        ("auto", OLD, "cu126", "runs CUDA up to 12.8, so torch's build for CUDA 12.6 is taken"),
        ("cuda", replace(OLD, version="525.60.13", cuda=12_000), "cu126", "up to 12.0"),
        ("auto", TWO, "cu130", "RTX 5090"),
        ("auto", replace(FITS, gpus=(NO_SLICE, ADA)), "cu130", "RTX 4090"),
    ],
)
def test_the_device_is_chosen_with_a_reason(asked: str, driver: NvidiaDriver | None, build: str, reason: str) -> None:
    choice = choose_device(asked, driver)
    assert (choice.build, choice.device) == (build, "cpu" if build == "cpu" else "cuda")
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("asked", "driver", "said"),
    [
        ("auto", OLDER, "driver 470.256.02 runs CUDA up to 11.4; CUDA 12.6 is needed, which takes driver 525.60.13"),
        ("cuda", OLDER, "528.33 on Windows"),
        (
            "auto",
            replace(OLD, gpus=(ADA, BLACKWELL)),
            "5090 (compute capability 12.0): NVIDIA driver 570.86.10 runs CUDA up to",
        ),
        ("auto", replace(OLD, gpus=(BLACKWELL,)), "CUDA 13.0 is needed, which takes driver 580.65.06"),
        ("auto", replace(FITS, gpus=(NO_SLICE,)), "MIG is on"),
        ("auto", NvidiaDriver(error=18), "Restart the machine"),
        ("cuda", None, "no NVIDIA driver is installed"),
        ("cuda", replace(FITS, gpus=(VOLTA,)), "needs 7.5"),
    ],
)
def test_a_gpu_that_needs_a_hand_is_not_passed_over(asked: str, driver: NvidiaDriver | None, said: str) -> None:
    with pytest.raises(SetupError) as caught:
        choose_device(asked, driver)
    assert said in str(caught.value)
    assert "--device cpu" in str(caught.value)


@pytest.mark.parametrize(
    ("visible", "card"),
    [
        (None, "RTX 5090"),
        ("0", "RTX 4090"),
        ("1,0", "RTX 5090"),
        ("GPU-a409", "RTX 4090"),
        (" GPU-b5090000-1111 ", "RTX 5090"),
    ],
)
def test_cuda_visible_devices_chooses_the_card(visible: str | None, card: str) -> None:
    chosen = choose_device("auto", TWO, visible).gpu
    assert chosen
    assert chosen.name.endswith(card)


@pytest.mark.parametrize(
    ("visible", "said"), [("", "is empty"), ("-1", "is -1"), ("7", "=7 names no GPU"), ("GPU-c", "=GPU-c names no GPU")]
)
def test_a_hidden_card_is_the_users_word_and_is_said(visible: str, said: str) -> None:
    choice = choose_device("auto", TWO, visible)
    assert choice.build == "cpu"
    assert said in choice.reason
    with pytest.raises(SetupError, match="CUDA cannot be used: CUDA_VISIBLE_DEVICES"):
        choose_device("cuda", TWO, visible)
    assert "CUDA_VISIBLE_DEVICES" not in choose_device("auto", None, visible).reason


@pytest.mark.parametrize(
    ("known", "name"), [(["GPU-b5090000-1111", "1"], "GPU-b5090000-1111"), (["1"], "1"), ([], "GPU-b5090000-1111")]
)
def test_a_card_is_named_by_its_number_where_cuda_does_not_know_its_uuid(known: list[str], name: str) -> None:
    assert name_for_cuda(BLACKWELL, lambda visible: int(visible in known)) == name
    assert name_for_cuda(replace(BLACKWELL, uuid=""), lambda visible: 0) == "1"


@pytest.mark.parametrize(
    ("torch", "name"),
    [("2.13.0", "cu130"), ("2.13.0+cu130", "cu130"), ("2.13.0+cu126", "cu126"), ("2.13.0+cpu", "cu126"), ("", "cu130")],
)
def test_a_driver_is_held_against_the_torch_that_is_installed(torch: str, name: str) -> None:
    assert find_installed_build(torch).name == name


class Library:
    """Answers as libnvidia-ml does: error codes returned, values written where the caller points."""

    def __init__(self, init: int = 0, cards: tuple[DriverGpu | None, ...] = (), slices: int | None = None) -> None:
        self.init, self.cards, self.slices = init, cards, slices

    def nvmlInit_v2(self) -> int:
        return self.init

    def nvmlShutdown(self) -> int:
        return 0

    def nvmlSystemGetDriverVersion(self, text: Any, length: int) -> int:
        text.value = b"580.95.05"
        return 0

    def nvmlSystemGetCudaDriverVersion_v2(self, number: Any) -> int:
        number._obj.value = 13_000
        return 0

    def nvmlDeviceGetCount_v2(self, number: Any) -> int:
        number._obj.value = len(self.cards)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = index + 1
        return 0 if self.cards[index] else 15

    def nvmlDeviceGetName(self, handle: Any, text: Any, length: int) -> int:
        card = self.cards[handle.value - 1]
        text.value = card.name.encode() if card else b""
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        card = self.cards[handle.value - 1]
        major._obj.value, minor._obj.value = card.capability if card else (0, 0)
        return 0

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, length: int) -> int:
        text.value = f"MIG-{handle.value - 100}".encode() if handle.value >= 100 else f"GPU-{handle.value - 1}".encode()
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.free = 24 * 2**30, 3 * 2**30
        return 0

    def nvmlDeviceGetMigMode(self, handle: Any, mode: Any, pending: Any) -> int:
        mode._obj.value = 1
        return 3 if self.slices is None else 0  # not supported, as by every GeForce

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, number: Any) -> int:
        number._obj.value = 7
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, place: int, part: Any) -> int:
        part._obj.value = 100 + place
        return 0 if place < (self.slices or 0) else 6


def test_the_driver_is_read_through_nvml() -> None:
    lost_card: Any = Library(cards=(ADA, None, VOLTA))
    memory = {"free_bytes": 3 * 2**30, "total_bytes": 24 * 2**30}
    cards = replace(ADA, index=0, uuid="GPU-0", **memory), replace(VOLTA, index=2, uuid="GPU-2", **memory)
    assert query_driver(lost_card) == NvidiaDriver(version="580.95.05", cuda=13_000, gpus=cards)
    no_driver: Any = Library(init=9)
    assert query_driver(no_driver) == NvidiaDriver(error=9)


def test_a_card_in_slices_is_its_slices() -> None:
    library: Any = Library(cards=(ADA,), slices=2)
    driver = query_driver(library)
    assert [gpu.uuid for gpu in driver.gpus] == ["MIG-0", "MIG-1"]
    assert choose_device("auto", driver, "MIG-1").gpu == driver.gpus[1]
    none: Any = Library(cards=(ADA,), slices=0)
    with pytest.raises(SetupError, match="nvidia-smi -i 0 -mig 0"):
        choose_device("auto", query_driver(none))


# ---- Python, torch, commands

OTHERS = {(3, 11): "/usr/bin/python3.11", (3, 13): "/opt/python3.13"}


@pytest.mark.parametrize(
    ("running", "others", "chosen"),
    [
        ((3, 11), OTHERS, ("this", "3.11")),
        ((3, 13), {}, ("this", "3.13")),
        ((3, 14), OTHERS, ("/opt/python3.13", "3.13")),
        ((3, 8), {(3, 11): "/usr/bin/python3.11"}, ("/usr/bin/python3.11", "3.11")),
    ],
)
def test_the_running_python_is_used_if_it_fits(
    running: Any, others: Mapping[Any, str], chosen: tuple[str, str]
) -> None:
    assert choose_python(running, "this", lambda: others) == chosen


def test_without_a_python_that_fits_its_number_is_said() -> None:
    with pytest.raises(SetupError, match=re.escape("this is Python 3.14; Tunebench needs 3.11, 3.12 or 3.13")):
        choose_python((3, 14), "this", dict)


@pytest.mark.parametrize(
    ("build", "platform", "ways"),
    [
        ("cpu", "linux", [("pip", "torch==2.13.0+cpu"), ("uv", "--torch-backend=cpu torch==2.13.0")]),
        ("cu130", "win32", [("uv", "--torch-backend=cu130 torch==2.13.0 torchvision==0.28.0")]),
        ("cu130", "linux", []),
        ("cpu", "win32", []),
        ("cpu", "darwin", []),
    ],
)
def test_torch_is_taken_apart_only_where_the_usual_index_has_the_other_build(
    build: str, platform: str, ways: list[tuple[str, str]]
) -> None:
    found = [(way[2], " ".join(way)) for step in install_steps.torch_steps(build, platform) for way in step.ways]
    assert [tool for tool, _ in found] == [tool for tool, _ in ways]
    assert all(text.endswith(end) for (_, text), (_, end) in zip(found, ways, strict=True))


def test_everything_is_installed_without_dependencies_but_torch_for_an_older_driver() -> None:
    every = [
        (build, way)
        for build in REQUIREMENTS
        for platform in ("linux", "win32")
        for step in install_steps.list_install_steps(build, platform)
        for way in step.ways
    ]
    resolved = {(build, " ".join(way[-3:])) for build, way in every if "--no-deps" not in way}
    assert resolved == {("cu126", "--torch-backend=cu126 torch==2.13.0 torchvision==0.28.0")}


def test_torch_for_an_older_driver_comes_last_and_finds_its_own_requirements_pinned() -> None:
    titles = [step.title for step in install_steps.list_install_steps("cu126", "linux")]
    assert ["installer" in titles[0], "requirements-cu126.txt" in titles[1], "torch==2.13.0" in titles[2]] == [True] * 3
    older, newer = PINS["requirements-cu126.txt"], PINS["requirements.txt"]
    gone = {name for name in newer.keys() - older.keys() if not name.startswith(("nvidia-", "cuda-"))}
    assert gone == {"torch", "torchvision"}
    assert {name for name in older if name.startswith(("nvidia-", "cuda-"))} == {"nvidia-ml-py"}
    assert older.items() <= newer.items()
    assert {"filelock", "sympy", "networkx", "jinja2", "fsspec", "typing-extensions", "triton"} <= older.keys()


@pytest.mark.parametrize(
    ("build", "given"), [("cpu", ["cpu"]), ("cu130", ["cuda", "13.0"]), ("cu126", ["cuda", "12.6"])]
)
def test_the_trial_knows_which_torch_it_must_find(build: str, given: list[str]) -> None:
    (command,) = install_steps.trial_step(build).ways
    assert list(command[3:]) == given
    assert Path(command[2]).is_file()


@pytest.mark.parametrize(
    ("given", "started"),
    [
        ("", "app.py --device cpu"),
        ("--no-browser --port 7861 --workspace w", "app.py --device cpu --no-browser --port 7861 --workspace w"),
        ("--lan --no-warm", "app.py --device cpu --lan --no-warm"),
        ("train r.toml --port 3", "-P -m trainer_core train r.toml --port 3"),
        ("--device cpu demo", "-P -m trainer_core demo"),
        ("test -k launch", "-P -m tools.check -k launch"),
        ("report last", "-P -m trainer_core report last"),
    ],
)
def test_commands_reach_their_programs_with_their_own_options(given: str, started: str) -> None:
    assert " ".join(launch.target_command(launch.parse_arguments(given.split()), "cpu")).endswith(started)


def test_options_of_the_app_are_refused_before_another_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch.parse_arguments(["--port", "7861", "demo"])
    assert "demo takes its own" in capsys.readouterr().err


# ---- the pins

PINS = {file.name: install_steps.read_pinned_versions(file) for file in (*REQUIREMENTS.values(), TEST_REQUIREMENTS)}


@pytest.mark.parametrize("name", PINS)
def test_every_requirement_is_one_version_and_names_no_index(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.match(r"[a-z0-9._-]+==[0-9][\w.+!]*( ;.*)?( +#.*)?$", line) for line in lines)
    assert len(lines) == len(PINS[name]) > 10
    assert "://" not in text
    assert "--" not in text.replace("--no-deps", "").replace("--override", "")


def test_the_files_agree_with_each_other_and_with_their_source() -> None:
    source = (ROOT / "requirements.in").read_text(encoding="utf-8")
    wanted = {
        name.replace("_", "-"): version for name, version in re.findall(r"^([\w-]+)==(\S+)", source, re.MULTILINE)
    }
    for pins in PINS.values():
        assert {name: wanted[name] for name in pins if name in wanted} == {n: v for n, v in pins.items() if n in wanted}
    cpu, cuda, test = (PINS[f"requirements{kind}.txt"] for kind in ("-cpu", "", "-test"))
    assert wanted.keys() <= cuda.keys() | test.keys()
    assert cpu.items() <= cuda.items()
    assert not test.keys() & cuda.keys()


def test_the_rehearsal_has_the_triton_that_cuda_has() -> None:
    cuda, rehearsal = (
        (ROOT / f"requirements{kind}.txt").read_text(encoding="utf-8").splitlines() for kind in ("", "-rehearsal")
    )
    assert [line for line in rehearsal if not line.startswith("#")] == [
        line for line in cuda if line.startswith("triton==")
    ]


def test_only_the_cuda_closure_carries_cuda() -> None:
    gpu_only = {"torchvision", "xformers", "triton", "triton-windows", "nvidia-cublas", "nvidia-cudnn-cu13"}
    assert gpu_only <= PINS["requirements.txt"].keys()
    extra = PINS["requirements.txt"].keys() - PINS["requirements-cpu.txt"].keys()
    assert gpu_only <= extra
    assert {name for name in PINS["requirements-cpu.txt"] if name.startswith(("nvidia", "cuda"))} == {"nvidia-ml-py"}


# ---- the launcher itself, in a project of two tiny packages that pip finds in a folder

FAKE_TORCH = """
from types import SimpleNamespace
__version__, version = "2.13.0+cpu", SimpleNamespace(cuda={cuda!r})
cuda = SimpleNamespace(is_available=lambda: False)
class Square:
    def __matmul__(self, other): return self
    def sum(self): return 64.0**3
def ones(*shape, device): return Square()
"""
STUB = "import os, sys; print('started', *sys.argv[1:], os.environ['TUNEBENCH_DEVICE']); sys.exit(7)\n"


@dataclass(frozen=True)
class Project:
    root: Path

    @property
    def wheels(self) -> Path:
        return self.root / "wheels"

    @property
    def stamp(self) -> Path:
        return self.root / ".venv" / "tunebench.json"

    def launch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.root / "launch.py"), "--device", "cpu", *arguments)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        away = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_CONFIG_FILE": os.devnull,
            "UV_OFFLINE": "1",
        }
        environ = {**os.environ, **away, "PYTHONPATH": str(self.root)}
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=environ, cwd=self.root, timeout=120
        )

    def requires(self, *lines: str) -> None:
        (self.root / "requirements-cpu.txt").write_text("\n".join(["torch==2.13.0", *lines]) + "\n", encoding="utf-8")

    def offers(self, name: str, version: str, module: str) -> None:
        """A wheel in the folder that stands for the package index."""
        self.wheels.mkdir(exist_ok=True)
        about = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(self.wheels / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", module)
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    shutil.copy(ROOT / "launch.py", tmp_path)
    shutil.copytree(ROOT / "launcher", tmp_path / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "app.py").write_text(STUB, encoding="utf-8")
    (tmp_path / "trainer_core").mkdir()
    (tmp_path / "trainer_core" / "__init__.py").touch()
    (tmp_path / "trainer_core" / "__main__.py").write_text(STUB, encoding="utf-8")
    made = Project(tmp_path)
    made.offers("torch", "2.13.0+cpu", FAKE_TORCH.format(cuda=None))
    return made


@pytest.mark.real
def test_a_set_up_that_fails_is_said_and_continued_then_starts_at_once(project: Project) -> None:
    project.requires("unsloth==2026.10.9")
    failed = project.launch()
    assert failed.returncode == 1
    assert "'the packages of requirements-cpu.txt' failed." in failed.stderr
    assert "No matching distribution found for unsloth==2026.10.9" in failed.stderr
    assert json.loads(project.stamp.read_text())["ready"] is False
    assert "started" not in failed.stdout
    assert "] the packages of requirements-cpu.txt\n" in failed.stdout and "If the network failed" in failed.stderr
    assert "not to be had that way; trying another" in failed.stdout, "uv is not there, so pip is tried"

    project.offers("unsloth", "2026.10.9", "__version__ = '2026.10.9'")
    continued = project.launch("--port", "7861")
    assert "going on with it" in continued.stdout
    assert continued.stdout.endswith("started --device cpu --port 7861 cpu\n")
    assert continued.returncode == 7, continued.stderr
    assert json.loads(project.stamp.read_text())["ready"] is True

    shutil.rmtree(project.wheels)
    only_set_up = project.launch("setup")
    assert (only_set_up.returncode, "is set up for CPU" in only_set_up.stdout) == (0, True)
    assert min(warm_seconds(project) for _ in range(3)) < 1.0
    renewed_only_when_nothing_runs_from_it(project)


def warm_seconds(project: Project) -> float:
    began = time.monotonic()
    warm = project.launch("demo", "--steps", "2")
    assert (warm.stdout, warm.returncode) == ("started demo --steps 2 cpu\n", 7)
    return time.monotonic() - began


def renewed_only_when_nothing_runs_from_it(project: Project) -> None:
    project.requires("no-such-package==1")
    python = project.root / ".venv" / "bin" / "python"
    worker = subprocess.Popen([python, "-c", "import time; time.sleep(60)", "trainer_core.worker"])
    refused = project.launch()
    worker.kill()
    worker.wait()
    assert f"still runs from it (process {worker.pid})" in refused.stderr
    assert python.exists()
    assert json.loads(project.stamp.read_text())["ready"] is True


@pytest.mark.real
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="Triton's wheel is for Linux x86-64"
)
def test_the_rehearsals_triton_is_kept_out_of_site_packages_and_missing_it_is_no_failure(project: Project) -> None:
    project.requires("unsloth==2026.10.9")
    project.offers("unsloth", "2026.10.9", "__version__ = '2026.10.9'")
    (project.root / "requirements-test.txt").write_text("unsloth==2026.10.9\n", encoding="utf-8")
    pins = project.root / "requirements-rehearsal.txt"
    pins.write_text("triton==3.7.1\n", encoding="utf-8")
    (project.root / "tools").mkdir()
    (project.root / "tools" / "__init__.py").touch()
    (project.root / "tools" / "check.py").write_text(STUB, encoding="utf-8")
    folder = project.root / ".venv" / "rehearsal"

    without = project.launch("test")
    assert (without.returncode, folder.exists()) == (7, False), without.stderr
    assert "could not be had" in without.stdout

    project.offers("triton", "3.7.1", "")
    assert project.launch("test").returncode == 7
    assert (folder / "triton" / "__init__.py").is_file()
    assert not list((project.root / ".venv").glob("lib/*/site-packages/triton*"))

    project.offers("triton", "3.8.0", "newer = True")
    assert "rehearsal" not in project.launch("test").stdout  # it is there already
    pins.write_text("triton==3.8.0\n", encoding="utf-8")
    assert project.launch("test").returncode == 7
    assert "newer" in (folder / "triton" / "__init__.py").read_text(encoding="utf-8")
    assert not list(folder.glob("triton-3.7.1*"))


@pytest.mark.skipif(not shutil.which("git"), reason="no git here")
def test_after_an_update_the_new_launcher_sets_up(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    def git(folder: Path, *words: str) -> None:
        name = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(folder), *name, *words], check=True, capture_output=True)

    origin = tmp_path_factory.mktemp("origin")
    git(project.root, "init", "-q", "-b", "main")
    git(project.root, "add", "-A")
    git(project.root, "commit", "-q", "-m", "old")
    git(origin, "clone", "-q", str(project.root), "clone")
    git(project.root, "remote", "add", "origin", str(origin / "clone"))
    (origin / "clone" / "launch.py").write_text("import sys; print('new', *sys.argv[1:])\n", encoding="utf-8")
    git(origin / "clone", "commit", "-q", "-a", "-m", "new")
    git(project.root, "fetch", "-q", "origin")
    git(project.root, "branch", "--set-upstream-to=origin/main")
    done = project.launch("update")
    assert done.stdout.endswith("new --device cpu setup\n"), done.stderr


@pytest.mark.real
def test_packages_that_do_not_work_are_not_built_upon(project: Project) -> None:
    project.requires("unsloth==2026.10.9")
    project.offers("torch", "2.13.0+cpu", FAKE_TORCH.format(cuda="13.0"))
    project.offers("unsloth", "2026.10.9", "__version__ = '2026.10.9'")
    failed = project.launch()
    assert failed.returncode == 1
    assert "is a CUDA build; a CPU build is needed here" in failed.stderr
    assert not project.stamp.exists()


def test_a_finished_venv_is_one_for_these_files_this_device_and_an_existing_python() -> None:
    closure = venv.requirements_fingerprint("cpu", "3.11")
    made, python = VenvStamp("cpu", "3.11", closure, ready=True), Path(sys.executable)
    on_card = VenvStamp(
        "cuda", "3.11", venv.requirements_fingerprint("cu130", "3.11"), ready=True, build="cu130", trial=venv.TRIAL_NAME
    )
    assert venv.is_finished(on_card, "cuda", python)
    assert not venv.is_finished(replace(on_card, trial=""), "cuda", python)
    assert venv.is_finished(made, "auto", python)
    assert venv.is_finished(made, "cpu", python)
    assert not venv.is_finished(made, "cuda", python)
    assert not venv.is_finished(made, "auto", python / "gone")
    assert not venv.is_finished(replace(made, ready=False), "auto", python)
    assert not venv.is_finished(replace(made, closure="other"), "auto", python)
    assert (
        len(
            {
                closure,
                venv.requirements_fingerprint("cpu", "3.12"),
                venv.requirements_fingerprint("cu130", "3.11"),
                venv.requirements_fingerprint("cu126", "3.11"),
            }
        )
        == 4
    )


@pytest.mark.parametrize(
    ("asked", "build", "driver", "outgrown"),
    [
        ("cuda", "cu126", FITS, True),
        ("cuda", "cu130", FITS, False),
        ("cuda", "cu130", OLD, True),
        ("auto", "cu126", FITS, False),
    ],
)
def test_asked_for_by_name_cuda_follows_the_driver(
    asked: str, build: str, driver: NvidiaDriver, outgrown: bool
) -> None:
    assert venv.is_outgrown(VenvStamp("cuda", "3.11", "", build=build), asked, lambda: driver) == outgrown


def test_stamps_of_other_launchers_are_read(tmp_path: Path) -> None:
    stamp = tmp_path / "tunebench.json"
    stamp.write_text('{"device": "cuda", "python": "3.11", "closure": "c", "ready": true, "tests": "", "newer": 1}')
    assert venv.read_stamp(stamp) == VenvStamp("cuda", "3.11", "c", ready=True, build="cu130")
    for text in ('{"device": "tpu", "build": "x", "python": "3", "closure": "c"}', "[]", "{", '{"device": "cpu"}'):
        stamp.write_text(text)
        assert venv.read_stamp(stamp) is None
    assert venv.read_stamp(tmp_path / "none") is None


@pytest.mark.parametrize(
    "file",
    ["launch.py", "trainer_core/system/redact.py", *(f"launcher/{p.name}" for p in (ROOT / "launcher").glob("*.py"))],
)
def test_an_old_python_can_read_why_it_is_too_old(file: str) -> None:
    ast.parse((ROOT / file).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_two_set_ups_at_once_are_one_too_many() -> None:
    with venv.setup_lock(), pytest.raises(SetupError, match="another launch.py"), venv.setup_lock():
        pass


def test_a_folder_for_temporary_files_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    with pytest.raises(SetupError, match="No usable temporary directory.*Set TMPDIR"):
        venv.temporary_folder(none)
    assert venv.temporary_folder(lambda: str(tmp_path)) == tmp_path
    with (
        pytest.raises(SetupError, match="cannot be opened.*Delete it, or set TMPDIR"),
        venv.setup_lock(tmp_path / "none"),
    ):
        pass


CARD_SET_UP = """
from launcher import SetupError, nvidia_driver, venv
card = nvidia_driver.DriverGpu("NVIDIA GeForce RTX 4090", (8, 9), uuid="GPU-4090")
driver = nvidia_driver.NvidiaDriver(version={version!r}, cuda={cuda}, gpus=(card,))
try: venv.set_up_venv("auto", None, lambda: driver)
except SetupError as error: print("refused:", error)
"""


@pytest.mark.real
@pytest.mark.skipif(not compiler.find_compiler(os.environ), reason="no gcc or clang here")
def test_a_set_up_for_a_pretended_card_reaches_the_trial_with_that_card(project: Project) -> None:
    """All but card and torch is real: the plan, .venv, the packages, and the trial, which finds no card."""
    (project.root / "requirements.txt").write_text("torch==2.13.0\nunsloth==2026.10.9\n", encoding="utf-8")
    project.offers("torch", "2.13.0+cpu", FAKE_TORCH.format(cuda="13.0"))
    project.offers("unsloth", "2026.10.9", "__version__ = '2026.10.9'")
    done = project.run("-c", CARD_SET_UP.format(version="580.95.05", cuda=13_000))
    assert "for CUDA: NVIDIA GeForce RTX 4090, NVIDIA driver 580.95.05" in done.stdout
    assert "finds no CUDA device with CUDA_VISIBLE_DEVICES=GPU-4090" in done.stderr
    assert not project.stamp.exists()


def test_children_are_told_the_device_and_keep_their_words_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    on_cpu = venv.venv_environment(VenvStamp("cpu", "3.11", ""))
    on_cuda = venv.venv_environment(VenvStamp("cuda", "3.11", "", build="cu130"), card="1")
    assert (on_cuda["CUDA_VISIBLE_DEVICES"], on_cuda["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")
    assert on_cpu.get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")
    assert on_cpu["UNSLOTH_FORCE_CPU"] == "1"
    assert on_cpu["TUNEBENCH_DEVICE"] == "cpu"
    assert "PYTHONDONTWRITEBYTECODE" not in on_cpu
    assert on_cuda["TUNEBENCH_DEVICE"] == "cuda"
    assert on_cuda["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert on_cuda["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert on_cuda["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
