"""What each kind of machine reads as, played back from data; the child that asks torch; the worker's environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.cuda_support import BUILDS
from tests.support.readings import card, replay
from trainer_core.system import hardware
from trainer_core.system.format import GIB, format_gb
from trainer_core.system.hardware import (
    Gpu,
    GpuProcess,
    Machine,
    detect_machine,
    nvml_session,
    read_cpu,
    worker_environment,
)
from trainer_core.texts import Text

MIB = 2**20
CUDA_13, CUDA_12 = BUILDS


def read(*names: str, nowhere: Path = Path("/nonexistent"), **environ: str) -> Machine:
    return detect_machine(replay(*names), environ=environ, devices=nowhere, build=CUDA_13)


OLD = (
    "NVIDIA driver {} runs CUDA up to {}; CUDA 13.0 is needed, which takes driver 580.65.06 on Linux, 580.88 on Windows or "
    "newer. Update the driver."
)
TABLE = {  # reading: (index, name, free MiB) of every card, the best card's index, what the user is told
    "none": ([], None, hardware.NO_GPU_FOUND),
    "no_cards": ([], None, hardware.NO_GPU_FOUND),
    "one_4090": ([(0, "RTX 4090", 22425)], 0, ""),
    "two_reversed": ([(0, "RTX 3060", 11911), (1, "RTX 4090", 22425)], 1, ""),
    "mig": ([(0, "A100-SXM4-40GB MIG 3g.20gb", 20083), (0, "A100-SXM4-40GB MIG 1g.5gb", 4857)], 0, ""),
    "mig_empty": (
        [(0, "A100-SXM4-40GB", 39800)],
        None,
        Text("gpu.no_slice", name="A100-SXM4-40GB"),
    ),
    "na_power": ([(0, "RTX 4060 Laptop GPU", 6900)], 0, ""),
    "300mb_free": ([(0, "RTX 4090", 300)], 0, ""),
    "old_driver": ([(0, "RTX 4090", 22425)], None, OLD.format("535.183.01", "12.2")),
    "driver_570": ([(0, "RTX 4090", 22425)], None, OLD.format("570.172.08", "12.8")),
    "old_card": (
        [(0, "GTX 1080", 7900)],
        None,
        "GTX 1080 has compute capability 6.1; CUDA 13.0 needs 7.5. Use an RTX 20, a T4 or anything newer.",
    ),
    "volta": (
        [(0, "V100-SXM2-16GB", 15900)],
        None,
        "V100-SXM2-16GB has compute capability 7.0; CUDA 13.0 needs 7.5. Use an RTX 20, a T4 or anything newer.",
    ),
    "one_of_two_lost": (
        [(0, "RTX 3060", 11911)],
        0,
        Text("gpu.card_lost", index=1, reason="GPU is lost"),
    ),
    "lost_between_questions": ([], None, Text("gpu.card_lost", index=0, reason="GPU is lost")),
    "driver_error": ([], None, Text("gpu.driver_stopped", reason="Unknown Error")),
    "not_loaded": ([], None, Text("gpu.driver_not_loaded")),
    "no_permission": ([], None, Text("gpu.no_permission")),
    "mismatch": ([], None, Text("gpu.driver_updated")),
}


@pytest.mark.parametrize("name", TABLE)
def test_every_machine_reads_as_cards_and_a_sentence(name: str) -> None:
    cards, best, problem = TABLE[name]
    machine = read(name)
    assert [(gpu.index, gpu.name, gpu.free_bytes // MIB) for gpu in machine.gpus] == cards
    assert (machine.best_gpu.index if machine.best_gpu else None) == best
    assert machine.problem == str(problem)
    assert machine.cpu.cores >= 1


def test_the_table_covers_every_reading() -> None:
    assert set(TABLE) == {path.stem for path in (Path(__file__).parents[2] / "support" / "readings").glob("*.json")}


def test_one_card_in_full() -> None:
    assert read("one_4090").gpus[0] == Gpu(
        index=0,
        uuid="GPU-5f1d2c3b-0a4e-7d61-9b58-2c7e11d04090",
        name="RTX 4090",
        total_bytes=24564 * MIB,
        free_bytes=22425 * MIB,
        driver="580.95.05",
        capability=(8, 9),
        celsius=41,
        watts=23.41,
        busy_percent=3,
        holders=(GpuProcess("code", 2711, 1200 * MIB), GpuProcess("Xorg", 1502, 612 * MIB)),
    )


def test_na_readings_are_none() -> None:
    (gpu,) = read("na_power").gpus
    assert (gpu.celsius, gpu.watts, gpu.busy_percent) == (None, None, None)
    assert gpu.holders == (GpuProcess("game.exe", 8844, None),)
    assert gpu.memory_sentence == "6.7 of 8.0 GB free. game.exe uses an unknown amount."


def test_who_holds_a_full_card() -> None:
    (gpu,) = read("300mb_free").gpus
    assert gpu.memory_sentence == "0.3 of 24.0 GB free. llama-server uses 23.0 GB, process 4999999 uses 0.4 GB."
    assert gpu.budget_bytes() == 0
    assert gpu.budget_bytes(own_pids=[991]) == 23900 * MIB - 24564 * MIB * 3 // 100


def test_a_slice_has_its_own_memory_and_its_cards_temperature() -> None:
    machine = read("mig")
    assert [(gpu.uuid[:4], gpu.celsius, gpu.watts, gpu.capability) for gpu in machine.gpus] == [
        ("MIG-", 33, 52.0, (8, 0))
    ] * 2
    assert worker_environment(machine.best_gpu)["CUDA_VISIBLE_DEVICES"] == "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"


def test_names_as_bytes() -> None:
    assert detect_machine(replay("one_4090", as_bytes=True), environ={}).gpus == read("one_4090").gpus


def test_a_card_lost_mid_run_and_back_again() -> None:
    nvml = replay("two_reversed", "one_of_two_lost", "two_reversed")
    with nvml_session(nvml):
        before, lost, after = (detect_machine(nvml, environ={}) for _ in range(3))
    uuid = before.best_gpu.uuid if before.best_gpu else ""
    assert lost.find_gpu(uuid) is None
    assert "Graphics card 1 does not respond" in lost.problem
    assert lost.best_gpu and lost.best_gpu.name == "RTX 3060"
    assert after == replace(before, cpu=after.cpu)


def test_every_open_is_closed() -> None:
    for name in TABLE:
        nvml = replay(name)
        with nvml_session(nvml):
            detect_machine(nvml, environ={}, devices=Path("/nonexistent"))
        failed = name in ("none", "not_loaded", "no_permission", "mismatch")
        assert (nvml.calls["nvmlInit"], nvml.calls.get("nvmlShutdown", 0)) == (2, 0 if failed else 2)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0", ["RTX 3060"]),
        ("1", ["RTX 4090"]),
        ("1,0", ["RTX 3060", "RTX 4090"]),
        ("GPU-5f1d", ["RTX 4090"]),
        ("7", []),
    ],
)
def test_cuda_visible_devices_is_obeyed(visible: str, names: list[str]) -> None:
    machine = detect_machine(replay("two_reversed"), environ={"CUDA_VISIBLE_DEVICES": visible})
    assert [gpu.name for gpu in machine.gpus] == names
    assert machine.problem == ("" if names else str(Text("gpu.wrong_name", name="7")))


@pytest.mark.parametrize("hidden", ["", "-1", " "])
def test_hidden_cards_mean_the_processor(hidden: str) -> None:
    machine = detect_machine(replay("one_4090"), environ={"CUDA_VISIBLE_DEVICES": hidden})
    assert machine.gpus == ()
    assert machine.problem == str(Text("gpu.all_hidden"))


def command(body: str) -> tuple[str, ...]:
    return (sys.executable, "-c", body)


def device_folder(tmp_path: Path) -> Path:
    (tmp_path / "nvidia0").touch()
    return tmp_path


def test_without_nvml_torch_is_asked_in_a_child(tmp_path: Path) -> None:
    row = {
        "index": 0,
        "uuid": "GPU-9",
        "name": "NVIDIA GeForce RTX 4070",
        "total": 12 * GIB,
        "free": 11 * GIB,
        "capability": [8, 9],
    }
    ask = command(f"print('a warning first'); print({json.dumps(json.dumps([row]))})")
    machine = detect_machine(replay("none"), environ={}, torch_command=ask, devices=device_folder(tmp_path))
    assert machine.best_gpu == Gpu(0, "GPU-9", "RTX 4070", 12 * GIB, 11 * GIB, capability=(8, 9))
    assert machine.problem.endswith(str(Text("gpu.no_library")))


@pytest.mark.parametrize("body", ["raise SystemExit(1)", "print('[]')", "print('no json')", "print('[{}]')", ""])
def test_a_child_that_cannot_say_is_a_sentence(tmp_path: Path, body: str) -> None:
    machine = detect_machine(replay("none"), environ={}, torch_command=command(body), devices=device_folder(tmp_path))
    assert machine.gpus == ()
    assert machine.problem == str(Text("gpu.out_of_reach"))


def test_torch_is_asked_once_and_only_with_a_hint(tmp_path: Path) -> None:
    log = tmp_path / "asked"
    ask = command(f"open({str(log)!r}, 'a').write('x'); print('[]')")
    detect_machine(replay("none"), environ={}, torch_command=ask, devices=tmp_path / "none")
    assert not log.exists()
    for _ in range(3):
        detect_machine(replay("none"), environ={}, torch_command=ask, devices=device_folder(tmp_path))
    assert log.read_text() == "x"


@pytest.mark.real
@pytest.mark.real
def test_the_question_for_torch_runs_where_torch_sees_no_card() -> None:
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    pytest.importorskip("torch", exc_type=ImportError)
    child = subprocess.run(hardware.TORCH_COMMAND, capture_output=True, text=True, env=environ, timeout=120)
    assert json.loads(child.stdout.strip().splitlines()[-1]) == []


def test_a_worker_is_pinned_by_uuid() -> None:
    best = read("two_reversed").best_gpu
    environment = worker_environment(best)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-5f1d2c3b-0a4e-7d61-9b58-2c7e11d04090"
    assert environment.get("PYTORCH_ALLOC_CONF") == ("expandable_segments:True" if sys.platform == "linux" else None)
    assert worker_environment(None) == {
        "CUDA_VISIBLE_DEVICES": "",
        "TUNEBENCH_CARD": "",
        "UNSLOTH_FORCE_CPU": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


WSL = "5.15.167.4-microsoft-standard-WSL2"


@pytest.mark.parametrize(
    ("system", "release", "segments"),
    [("linux", "6.8.0-51-generic", True), ("linux", WSL, False), ("win32", "11", False), ("darwin", "24.1.0", False)],
)
def test_only_linux_itself_has_expandable_segments(system: str, release: str, segments: bool) -> None:
    environment = worker_environment(read("one_4090").best_gpu, system, release, takes=lambda name: True)
    assert ("PYTORCH_ALLOC_CONF" in environment) == segments


@pytest.mark.parametrize(("taken", "name"), [("GPU-", "GPU-"), ("1", "1"), ("nothing", "GPU-")])
def test_on_wsl_a_card_is_named_as_its_cuda_takes_it(taken: str, name: str) -> None:
    """By UUID, else by number, else by UUID again, so that the worker says what is wrong."""
    best = read("two_reversed").best_gpu
    assert best
    environment = worker_environment(best, "linux", WSL, takes=lambda name: name.startswith(taken))
    assert environment["CUDA_VISIBLE_DEVICES"].startswith(name)
    assert hardware.card_uuid(environment) == best.uuid, "the lock and what was measured go by the UUID all the same"
    assert hardware.card_number_notice(best, environment) == (
        str(Text("gpu.by_number", number=1)) if name == "1" else ""
    )


def test_the_driver_alone_is_asked_for_a_name() -> None:
    say = (sys.executable, "-S", "-c", "import os, sys; sys.exit(os.environ['CUDA_VISIBLE_DEVICES'] != 'GPU-1')")
    assert hardware.has_one_card("GPU-1", say) and not hardware.has_one_card("0", say)
    assert not hardware.has_one_card("GPU-1", ("/nonexistent/python",))
    child = subprocess.run(
        hardware.DRIVER_COMMAND, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}, capture_output=True
    )
    assert child.returncode, "no card is found where all are hidden, with a driver or without"


def test_a_mig_slice_has_a_lock_of_its_own() -> None:
    cards = {hardware.card_uuid(worker_environment(gpu)) for gpu in read("mig").gpus}
    assert len(cards) == 2 and all(card.startswith("MIG-") for card in cards)


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported asynchronously", True),
        ("CUDA error: unknown error", True),
        ("CUDA driver error: unknown error", True),
        ("CUDA error: the launch timed out and was terminated", True),
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("CUDA error: no CUDA-capable device is detected", True),
        ("No CUDA GPUs are available", True),
        ("Triton Error [CUDA]: unspecified launch failure", True),
        ("GPU is lost", True),
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 24 GiB", False),
        ("CUDA error: an illegal memory access was encountered", False),
        ("CUDA error: device-side assert triggered", False),
        ("unknown error", False),
    ],
)
def test_what_says_that_a_card_is_lost(said: str, lost: bool) -> None:
    try:
        raise ValueError("a hook failed") from RuntimeError(said)
    except ValueError as error:
        assert bool(hardware.find_card_loss(error)) == lost
        assert hardware.find_card_loss(error) in said


def test_a_containers_memory_limit_counts(tmp_path: Path) -> None:
    whole = read_cpu(cgroup=tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert read_cpu(cgroup=tmp_path).total_bytes == whole.total_bytes
    (tmp_path / "memory.max").write_text(f"{200 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{150 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon {90 * MIB}\ninactive_file {60 * MIB}\n")
    limited = read_cpu(cgroup=tmp_path)
    assert (limited.total_bytes, limited.free_bytes) == (200 * MIB, 110 * MIB)


def test_a_card_for_other_tests() -> None:
    (gpu,) = detect_machine(replay(card(24, 21.9)), environ={}).gpus
    assert (format_gb(gpu.total_bytes), format_gb(gpu.free_bytes), gpu.problem) == ("24.0 GB", "21.9 GB", "")


def test_this_machine_reads_without_an_error() -> None:
    machine = detect_machine(environ={})
    assert machine.cpu.free_bytes > 0
    assert machine.gpus or machine.problem


@pytest.mark.parametrize("name", ["old_driver", "driver_570"])
def test_torch_for_cuda_12_runs_on_drivers_that_cuda_13_does_not(name: str) -> None:
    assert read(name).best_gpu is None
    machine = detect_machine(replay(name), environ={}, build=CUDA_12)
    assert machine.best_gpu
    assert machine.problem == ""


def test_torch_for_cuda_12_has_no_kernels_for_the_newest_cards() -> None:
    blackwell = card(32, 31, "NVIDIA GeForce RTX 5090")
    blackwell["cards"][0]["nvmlDeviceGetCudaComputeCapability"] = [12, 0]
    (gpu,) = detect_machine(replay(blackwell), environ={}, build=CUDA_12).gpus
    assert "compute capability 12.0" in gpu.problem
    assert "ends at 9.0" in gpu.problem
    assert "launch.py --device cuda" in gpu.problem
    assert not detect_machine(replay(blackwell), environ={}, build=CUDA_13).problem
