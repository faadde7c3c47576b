"""Run folders: written whole or not at all, life told by more than a pid, one holder of the device."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.errors import ConfigError, DiskError
from trainer_core.runs import control, heartbeat, run_folder
from trainer_core.runs.heartbeat import Heartbeat
from trainer_core.runs.workspace import Workspace, disk_free
from trainer_core.system.durable import write_atomically

JOB = TrainJob(recipe=Recipe(name="Ünï tëst"))


def test_a_run_folder_holds_its_job(tmp_path: Path) -> None:
    run_dir = run_folder.create_run(tmp_path, JOB, "My run", device="cpu", reasons=("because",))
    assert "my-run" in run_dir.name
    assert run_folder.read_run(run_dir).job == JOB
    assert run_folder.read_run(run_dir).reasons == ("because",)
    assert run_folder.list_runs(tmp_path) == [run_dir]


@pytest.mark.parametrize(
    ("text", "code"), [(None, "run_file.not_read"), ("{}", "run_file.bad_value"), ("{", "run_file.damaged")]
)
def test_an_unreadable_run_says_so(tmp_path: Path, text: str | None, code: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError) as refused:
        run_folder.read_run(tmp_path)
    assert refused.value.text.code == code


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    write_atomically(target, "old")
    blocked = tmp_path / "is-a-folder"
    (blocked / "x").mkdir(parents=True)
    with pytest.raises(DiskError, match="is-a-folder") as refused:
        write_atomically(blocked, "new")
    assert refused.value.text.code == "disk.not_writable"
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["is-a-folder", "state.json"]


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o7777


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_a_workspace_is_its_owners_alone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "new" / "workspace")
    assert {mode(one) for one in (workspace.runs, workspace.root, workspace.root.parent)} == {0o700}
    workspace.root.chmod(0o755)
    disk_free(workspace)
    assert mode(workspace.root) == 0o700, "one that an earlier version made"
    workspace.root.chmod(0o1777)
    disk_free(workspace)
    assert mode(workspace.root) == 0o1777, "such as /tmp, which is not ours to close"


def beat_of(pid: int, run_id: str, shift: float = 0.0) -> Heartbeat:
    return Heartbeat(pid=pid, created=psutil.Process(pid).create_time() + shift, run_id=run_id)


def test_life_is_pid_and_birth_and_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "run-1"])
    try:
        assert heartbeat.is_alive(
            beat_of(child.pid, "run-1")
        )  # from the first instant, when the arguments may not be there yet
        assert wait_until(lambda: bool(psutil.Process(child.pid).cmdline()))
        assert not heartbeat.is_alive(beat_of(child.pid, "run-2"))
        assert not heartbeat.is_alive(beat_of(child.pid, "run-1", shift=-100))
    finally:
        beat = beat_of(child.pid, "run-1")
        child.kill()
    zombie = wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert zombie and not heartbeat.is_alive(beat)
    child.wait()
    assert not heartbeat.is_alive(beat)
    assert not heartbeat.is_alive(None)


def wait_until(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_stop_request_reaches_the_worker(tmp_path: Path) -> None:
    with heartbeat.heartbeat_thread(tmp_path) as wants:
        assert heartbeat.read_heartbeat(tmp_path).pid == os.getpid()  # type: ignore[union-attr]
        assert not wants.stop.is_set()
        control.send_request(tmp_path, "stop")
        assert wants.stop.wait(3)


def test_a_folder_in_place_of_a_request_is_named(tmp_path: Path) -> None:
    control.clear_request(tmp_path)  # there is none
    control.control_file(tmp_path).mkdir()
    with pytest.raises(DiskError) as refused:
        control.clear_request(tmp_path)
    assert refused.value.text.code == "disk.not_writable"


def test_the_log_tail_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_bytes(b"x" * 200_000 + b"\nlast \xff line\n\n")
    assert run_folder.last_log_line(tmp_path).startswith("last")
    assert sum(map(len, run_folder.read_log_tail(tmp_path, 100))) <= 65_536
    assert run_folder.last_log_line(tmp_path / "nowhere") == ""


def test_run_json_holds_no_secret(tmp_path: Path) -> None:
    os.environ["HF_TOKEN"] = "hf_canary"
    try:
        run_dir = run_folder.create_run(tmp_path, JOB, "x")
    finally:
        del os.environ["HF_TOKEN"]
    assert "canary" not in json.dumps(json.loads((run_dir / "run.json").read_text()))


def test_a_link_among_the_runs_is_no_run(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    real = run_folder.create_run(tmp_path / "elsewhere", TrainJob(recipe=Recipe(name="x")), "x")
    (workspace.runs / "link").symlink_to(real)
    ours = run_folder.create_run(workspace.runs, TrainJob(recipe=Recipe(name="y")), "y")
    assert run_folder.list_runs(workspace.runs) == [ours]
