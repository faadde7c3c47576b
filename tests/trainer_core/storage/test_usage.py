"""What takes space, in which groups, and what freeing one of it deletes."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from trainer_core.errors import ConfigError
from trainer_core.runs.workspace import Workspace
from trainer_core.storage.usage import free_item, list_usage


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    hub = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    sizes = {
        hub / "models--owner--name" / "blobs" / "1": 900,
        hub / ".locks" / "models--owner--name" / "1.lock": 0,
        hub / "version.txt": 1,
        tmp_path / "w" / "models" / "starter" / "weights": 700,
        tmp_path / "w" / "runs" / "done" / "run.json": 20,
        tmp_path / "w" / "runs" / "done" / "checkpoints" / "sft-000001" / "weights": 300,
        tmp_path / "w" / "runs" / "paused" / "run.json": 10,
        tmp_path / "w" / "runs" / "paused" / "checkpoints" / "sft-000001" / "weights": 400,
        tmp_path / "w" / "exports" / "mine" / "weights": 50,
        tmp_path / "w" / "exports" / ".other.part" / "weights": 60,
        tmp_path / "w" / "tokens" / "1": 5,
        tmp_path / "w" / "data" / "mine.jsonl": 7,
        tmp_path / "w" / "trash" / "old" / "run.json": 3,
    }
    for path, size in sizes.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return Workspace(tmp_path / "w")


def sizes_by_key(workspace: Workspace) -> dict[str, int]:
    return {one.key: one.bytes for one in list_usage(workspace, ["done"], [])}


def test_each_thing_is_in_its_group(workspace: Workspace) -> None:
    assert sizes_by_key(workspace) == {
        "models:owner/name": 900,
        "models:starter": 700,
        "checkpoints:done": 300,
        "exports:mine": 50,
        "exports:.other.part": 60,
        "caches:tokens": 5,
        "runs:": 30,
        "data:": 7,
        "trash:": 3,
    }


@pytest.mark.parametrize(
    ("key", "folder"),
    [
        ("models:owner/name", "../hub/models--owner--name"),
        ("models:owner/name", "../hub/.locks/models--owner--name"),
        ("models:starter", "models/starter"),
        ("checkpoints:done", "runs/done/checkpoints"),
        ("exports:mine", "exports/mine"),
        ("exports:.other.part", "exports/.other.part"),
        ("caches:tokens", "tokens"),
    ],
)
def test_freeing_deletes_that_alone(workspace: Workspace, key: str, folder: str) -> None:
    before = sizes_by_key(workspace)
    assert (workspace.root / folder).is_dir()
    assert free_item(list_usage(workspace, ["done"], []), key) == before[key]
    assert not (workspace.root / folder).exists()
    assert sizes_by_key(workspace) == {name: size for name, size in before.items() if name != key}


@pytest.mark.parametrize("key", ["runs:", "data:", "checkpoints:paused", "models:../runs", "other"])
def test_what_cannot_be_made_again_is_refused(workspace: Workspace, key: str) -> None:
    before = sizes_by_key(workspace)
    with pytest.raises(ConfigError) as refused:
        free_item(list_usage(workspace, ["done"], []), key)
    assert refused.value.text.code == "storage.no_item" and sizes_by_key(workspace) == before


def test_a_link_in_the_place_of_checkpoints_is_not_followed(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (workspace.runs / "linked").mkdir()
    (workspace.runs / "linked" / "checkpoints").symlink_to(tmp_path / "precious")
    assert "checkpoints:linked" not in {one.key for one in list_usage(workspace, ["linked"], [])}
