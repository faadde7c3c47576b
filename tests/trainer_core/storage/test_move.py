"""Runs, models and exports move to another drive and back: everything is there afterwards, under the same paths."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from trainer_core.errors import ConfigError, DiskError
from trainer_core.runs.workspace import Workspace, aside_path, restore_aside
from trainer_core.storage import move
from trainer_core.storage.folder_copy import CopyStopped
from trainer_core.storage.move import MoveProgress, move_storage, moving_path, read_record
from trainer_core.storage.places import find_place
from trainer_core.system import durable, untrusted_files

FILES = {"a/run.json": "{}", "a/events.jsonl": "x" * 3000, "b/adapter-dpo/weights": "w" * 70_000, "b/note": "é"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace(tmp_path / "workspace")
    for name, text in FILES.items():
        path = found.runs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (found.runs / "a" / "link").symlink_to("events.jsonl")
    (found.trash / "old").mkdir()
    return found


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder, links by their target; the mark of an unfinished move counts too."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


EXPECTED = {**FILES, "a/link": "events.jsonl"}


def test_runs_move_and_keep_their_paths(workspace: Workspace, tmp_path: Path) -> None:
    drive, progress, when = tmp_path / "drive", MoveProgress(), (workspace.runs / "a/run.json").stat().st_mtime_ns
    move_storage(workspace, "runs", drive, progress)
    assert contents(workspace.runs) == contents(drive / "runs") == EXPECTED
    assert untrusted_files.is_link(workspace.root / "runs") and find_place(workspace, "runs") == drive
    assert sorted(one.name for one in drive.iterdir()) == ["imports", "runs", "trash"]
    assert (workspace.runs / "a/run.json").stat().st_mtime_ns == when, "caches know files by their time"
    assert (drive / "runs").stat().st_mode & 0o077 == 0
    assert progress.total == progress.done == sum(len(text.encode()) for text in FILES.values())
    left = {one.name for one in workspace.root.iterdir()}
    assert left == {"runs", "imports", "trash"}, "nothing of the move is left"
    (workspace.runs / "a").rename(workspace.trash / "a")  # one drive for both
    assert Workspace.for_run(workspace.runs / "b") == workspace


def test_from_drive_to_drive_and_back(workspace: Workspace, tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for drive in (first, second, second):
        move_storage(workspace, "runs", drive, MoveProgress())
        assert contents(workspace.runs) == EXPECTED and find_place(workspace, "runs") == drive
    assert not list(first.iterdir())
    move_storage(workspace, "runs", None, MoveProgress())
    move_storage(workspace, "runs", None, MoveProgress())
    assert contents(workspace.runs) == EXPECTED and find_place(workspace, "runs") is None
    assert not untrusted_files.is_link(workspace.root / "runs") and not list(second.iterdir())
    assert {one.name for one in workspace.root.iterdir()} == {"runs", "imports", "trash"}


def test_models_move_with_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "home" / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    workspace, repo = Workspace(tmp_path / "workspace"), cache / "models--owner--name"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / "1234").write_text("weights")
    (repo / "snapshots" / "abcd").mkdir(parents=True)
    (repo / "snapshots" / "abcd" / "model.safetensors").symlink_to("../../blobs/1234")
    move_storage(workspace, "models", tmp_path / "drive", MoveProgress())
    assert untrusted_files.is_link(cache) and (tmp_path / "drive" / "hub" / repo.name).is_dir()
    assert (repo / "snapshots" / "abcd" / "model.safetensors").read_text() == "weights"
    move_storage(workspace, "models", None, MoveProgress())
    assert not untrusted_files.is_link(cache)
    assert (repo / "snapshots" / "abcd" / "model.safetensors").read_text() == "weights"


def test_what_changes_meanwhile_comes_along(workspace: Workspace, tmp_path: Path) -> None:
    note, pieces = workspace.runs / "b" / "note", []

    def edit(count: int) -> None:
        if len(pieces) == 2:
            note.write_text("changed")
            (workspace.runs / "a" / "events.jsonl").unlink()
            (workspace.runs / "new").write_text("new")
        pieces.append(count)

    (tmp_path / "to").mkdir()
    move.move_folder(workspace.root / "runs", tmp_path / "to" / "runs", edit)
    assert contents(workspace.runs) == {
        **{name: text for name, text in EXPECTED.items() if name != "a/events.jsonl"}, "b/note": "changed", "new": "new"
    }  # fmt: skip


def test_what_changes_in_the_last_moment_comes_along(workspace: Workspace, tmp_path: Path) -> None:
    """Between the last pass and the exchange of the names."""
    runs, target = workspace.root / "runs", tmp_path / "drive"
    shutil.copytree(runs, target, symlinks=True)
    move.begin_copy(target, runs)
    moving_path(runs).symlink_to(target)
    (runs / "late").write_text("late")
    move.take_name(moving_path(runs), runs)
    assert "late" not in contents(workspace.runs)
    move.finish_move(runs)
    assert contents(workspace.runs) == {**EXPECTED, "late": "late"}
    assert not os.path.lexists(moving_path(runs))


def test_stopped_nothing_has_moved(workspace: Workspace, tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    with pytest.raises(CopyStopped):
        move_storage(workspace, "runs", drive, MoveProgress(), lambda: True)
    assert contents(workspace.root / "runs") == EXPECTED and find_place(workspace, "runs") is None
    assert not list(drive.iterdir())
    record = read_record(workspace)
    assert record and (record.kind, record.to) == ("runs", str(drive))
    move_storage(workspace, "runs", drive, MoveProgress())
    assert contents(workspace.runs) == EXPECTED and read_record(workspace) is None


@pytest.mark.parametrize("name", ["workspace/elsewhere", "workspace", "workspace/runs/a"])
def test_a_place_within_what_moves_is_refused(workspace: Workspace, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        move_storage(workspace, "runs", tmp_path / name, MoveProgress())
    assert refused.value.text.code == "storage.inside" and contents(workspace.root / "runs") == EXPECTED


def test_a_place_that_is_taken_is_refused_and_unchanged(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "drive" / "imports" / "mine").mkdir(parents=True)
    with pytest.raises(ConfigError) as refused:
        move_storage(workspace, "runs", tmp_path / "drive", MoveProgress())
    assert refused.value.text.code == "storage.taken" and find_place(workspace, "runs") is None
    assert [one.name for one in (tmp_path / "drive").iterdir()] == ["imports"]


def test_a_drive_with_too_little_space_is_refused_with_both_sizes(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=move.SPARE_BYTES + 70_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskError) as refused:
        move_storage(workspace, "runs", tmp_path / "drive", MoveProgress())
    assert refused.value.text.code == "storage.no_space"
    assert refused.value.text.params["size"] == "0.1 MB" and refused.value.text.params["free"] == "268.5 MB"
    assert find_place(workspace, "runs") is None


def test_a_drive_that_is_not_connected_is_said(workspace: Workspace, tmp_path: Path) -> None:
    move_storage(workspace, "runs", tmp_path / "drive", MoveProgress())
    (tmp_path / "drive").rename(tmp_path / "away")
    with pytest.raises(DiskError) as missing:
        assert workspace.runs
    assert missing.value.text.code == "workspace.drive_missing"
    (tmp_path / "away").rename(tmp_path / "drive")
    assert contents(workspace.runs) == EXPECTED


def test_a_system_that_cannot_swap_names(workspace: Workspace, tmp_path: Path) -> None:
    """Such as Windows: three renames, and a kill after the first is undone when the folder is asked for next."""
    runs, stand_in = workspace.root / "runs", moving_path(workspace.root / "runs")
    stand_in.mkdir()
    move.take_name(stand_in, runs, lambda one, other: False)
    assert contents(stand_in) == EXPECTED and contents(runs) == {} and not aside_path(runs).exists()
    move.take_name(stand_in, runs, lambda one, other: False)
    assert contents(runs) == EXPECTED
    runs.rename(aside_path(runs))
    assert contents(workspace.runs) == EXPECTED, "the aside folder takes its name back, instead of a new empty one"
    restore_aside(runs)
    assert contents(runs) == EXPECTED


def run_killed(workspace: Workspace, to: Path | None, fault: str) -> int:
    """Move in a forked process with this fault. Returns its exit code; 1: it said why it could not."""
    process = os.fork()
    if process == 0:
        os.environ["TUNEBENCH_FAULT"], durable._points = fault, itertools.count(1)
        try:
            move_storage(workspace, "runs", to, MoveProgress())
            os._exit(0)
        except DiskError:
            os._exit(1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("begin", ["here", "away"])
def test_killed_at_every_write_point_it_goes_on(workspace: Workspace, tmp_path: Path, begin: str) -> None:
    drive, other = tmp_path / "drive", tmp_path / "other"
    if begin == "away":
        move_storage(workspace, "runs", drive, MoveProgress())
    for point in range(1, 200):
        goal: Path | None = (other if begin == "here" else None) if point % 2 else drive
        code = run_killed(workspace, goal, f"kill:{point}")
        assert contents_or_mark(workspace) == EXPECTED, point
        if code == 0:
            break
        assert code == -signal.SIGKILL
        move_storage(workspace, "runs", goal, MoveProgress())
        assert contents(workspace.runs) == EXPECTED and read_record(workspace) is None, point
        left = {one.name for one in workspace.root.iterdir() if not one.name.startswith(".move.json")}
        assert left == {"runs", "imports", "trash"}, (point, left)
    assert 20 < point < 199, "each point was reached"


def contents_or_mark(workspace: Workspace) -> dict[str, str]:
    return {name: text for name, text in contents(workspace.runs).items() if name != move.OWNER}


def test_a_full_drive_is_said_and_nothing_moves(workspace: Workspace, tmp_path: Path) -> None:
    code = run_killed(workspace, tmp_path / "drive", "enospc:9")
    assert code == 1 and contents(workspace.root / "runs") == EXPECTED
    assert not (tmp_path / "drive" / "runs").exists() and find_place(workspace, "runs") is None
