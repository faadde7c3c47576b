"""Run folders: written whole or not at all, life told by more than a pid, one holder of the device."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from trainer_core import runs
from trainer_core.config import Recipe, TrainJob
from trainer_core.errors import ConfigError, DiskError

JOB = TrainJob(recipe=Recipe(name="Ünï tëst"))


def test_a_run_folder_holds_its_job(tmp_path: Path) -> None:
    run_dir = runs.create(tmp_path, JOB, "My run", device="cpu", reasons=("because",))
    assert "my-run" in run_dir.name
    assert runs.read_run(run_dir).job == JOB
    assert runs.read_run(run_dir).reasons == ("because",)
    assert runs.folders(tmp_path) == [run_dir]


@pytest.mark.parametrize(
    ("text", "words"), [(None, "no readable run.json"), ("{}", "another version"), ("{", "another version")]
)
def test_an_unreadable_run_says_so(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=words):
        runs.read_run(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    runs.write_atomically(target, "old")
    blocked = tmp_path / "is-a-folder"
    (blocked / "x").mkdir(parents=True)
    with pytest.raises(DiskError, match="is-a-folder"):
        runs.write_atomically(blocked, "new")
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["is-a-folder", "state.json"]


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o7777


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_a_workspace_is_its_owners_alone(tmp_path: Path) -> None:
    workspace = runs.Workspace(tmp_path / "new" / "workspace")
    assert {mode(one) for one in (workspace.runs, workspace.root, workspace.root.parent)} == {0o700}
    workspace.root.chmod(0o755)
    runs.disk_free(workspace)
    assert mode(workspace.root) == 0o700, "one that an earlier version made"
    workspace.root.chmod(0o1777)
    runs.disk_free(workspace)
    assert mode(workspace.root) == 0o1777, "such as /tmp, which is not ours to close"


def beat_of(pid: int, run_id: str, shift: float = 0.0) -> runs.Heartbeat:
    return runs.Heartbeat(pid=pid, created=psutil.Process(pid).create_time() + shift, run_id=run_id)


def test_life_is_pid_and_birth_and_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "run-1"])
    try:
        assert runs.alive(
            beat_of(child.pid, "run-1")
        )  # from the first instant, when the arguments may not be there yet
        assert wait_until(lambda: bool(psutil.Process(child.pid).cmdline()))
        assert not runs.alive(beat_of(child.pid, "run-2"))
        assert not runs.alive(beat_of(child.pid, "run-1", shift=-100))
    finally:
        beat = beat_of(child.pid, "run-1")
        child.kill()
    zombie = wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert zombie and not runs.alive(beat)
    child.wait()
    assert not runs.alive(beat)
    assert not runs.alive(None)


def wait_until(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_stop_request_reaches_the_worker(tmp_path: Path) -> None:
    with runs.beating(tmp_path) as wants:
        assert runs.read_heartbeat(tmp_path).pid == os.getpid()  # type: ignore[union-attr]
        assert not wants.stop.is_set()
        runs.request(tmp_path, "stop")
        assert wants.stop.wait(3)


def test_the_log_tail_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_bytes(b"x" * 200_000 + b"\nlast \xff line\n\n")
    assert runs.last_line(tmp_path).startswith("last")
    assert sum(map(len, runs.log_tail(tmp_path, 100))) <= 65_536
    assert runs.last_line(tmp_path / "nowhere") == ""


def test_run_json_holds_no_secret(tmp_path: Path) -> None:
    os.environ["HF_TOKEN"] = "hf_canary"
    try:
        run_dir = runs.create(tmp_path, JOB, "x")
    finally:
        del os.environ["HF_TOKEN"]
    assert "canary" not in json.dumps(json.loads((run_dir / "run.json").read_text()))


def test_a_link_among_the_runs_is_no_run(tmp_path: Path) -> None:
    workspace = runs.Workspace(tmp_path / "w")
    real = runs.create(tmp_path / "elsewhere", TrainJob(recipe=Recipe(name="x")), "x")
    (workspace.runs / "link").symlink_to(real)
    ours = runs.create(workspace.runs, TrainJob(recipe=Recipe(name="y")), "y")
    assert runs.folders(workspace.runs) == [ours]
