"""Data sets of the Hub: their parts and files, by the real `datasets` on a local set, and plain sentences offline."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_server import NAME, Fault, hub_of, served
from trainer_core.data import check_dataset
from trainer_core.data.hub import datasets
from trainer_core.errors import DataError
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text

pytestmark = pytest.mark.real


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set as the Hub has them, with two splits; `datasets` reads it from the folder in the same way."""
    for split, count in {"train": 40, "test": 8}.items():
        rows = [{"prompt": f"why {n}", "chosen": f"so {n}", "rejected": f"no {n}"} for n in range(count)]
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "set"


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Hub that refuses at once, and a cache of our own."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))


def test_a_part_becomes_a_file_that_can_be_checked(folder: Path, tmp_path: Path) -> None:
    assert datasets.list_splits(str(folder)) == (
        datasets.HubSplit("default", "train"),
        datasets.HubSplit("default", "test"),
    )
    workspace = Workspace(tmp_path / "workspace")
    place = datasets.ensure_split_file(workspace, str(folder), datasets.HubSplit("default", "train"))
    report = check_dataset(place)
    assert (report.kind, report.usable) == ("pairs", 40) and place.parent.parent == workspace.data
    made = place.stat().st_mtime_ns
    assert (
        datasets.ensure_split_file(workspace, str(folder), datasets.HubSplit("default", "train")).stat().st_mtime_ns
        == made
    )


def test_what_was_fetched_once_is_there_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(
        json.dumps({"prompt": f"why {n}", "chosen": f"so {n}", "rejected": f"no {n}"}) + "\n" for n in range(40)
    )
    train = datasets.HubSplit("default", "train")
    with hub_of(rows.encode()) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert datasets.list_splits(NAME) == (train,)
        place = datasets.ensure_split_file(Workspace(tmp_path / "one"), NAME, train)
        assert check_dataset(place).usable == 40
    assert datasets.list_splits(NAME) == (train,)
    again = datasets.ensure_split_file(Workspace(tmp_path / "two"), NAME, train)
    assert check_dataset(again).usable == 40


def test_offline_is_said_quickly() -> None:
    begun = time.monotonic()
    with pytest.raises(DataError) as error:
        datasets.list_splits("nobody/nothing")
    assert error.value.text == Text("datasets.unreachable", name="nobody/nothing")
    assert time.monotonic() - begun < 25


ROWS = b'{"prompt": "why", "chosen": "so", "rejected": "no"}\n'


@pytest.mark.parametrize(
    ("fault", "code"), [("breaks off", "broken_off"), ("redirects", "broken_off"), ("page", "unreadable")]
)
def test_a_line_that_breaks_or_leads_in_circles_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, code: str
) -> None:
    with served("datasets", {"train.jsonl": ROWS}, fault=fault) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(DataError) as error:
            datasets.list_splits(NAME)
    assert error.value.text.code == f"datasets.{code}" and error.value.text.params["name"] == NAME


WAY_OUT = "../../canary"


@pytest.mark.parametrize(
    ("options", "given"),
    [({"commit": f"../../{WAY_OUT}"}, f"../../{WAY_OUT}"), ({"tags": {"ETag": f'"{WAY_OUT}"'}}, WAY_OUT)],
)
def test_a_hub_whose_names_are_paths_writes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], given: str
) -> None:
    workspace = Workspace(tmp_path / "workspace")
    with served("datasets", {"train.jsonl": ROWS}, **options) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(DataError) as error:
            datasets.ensure_split_file(workspace, NAME, datasets.HubSplit("default", "train"))
    assert error.value.text == Text("datasets.bad_name", name=NAME, given=given)
    assert not list(tmp_path.rglob("*canary*")) and not list(workspace.data.rglob("*.parquet"))


def test_a_set_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "notes.xyz").write_text("nothing")
    with pytest.raises(DataError) as error:
        datasets.list_splits(str(tmp_path / "odd"))
    assert error.value.text.code == "datasets.unreadable" and error.value.text.params["name"] == str(tmp_path / "odd")


@pytest.mark.parametrize(
    ("source", "is_name"),
    [("trl-lib/ultrafeedback_binarized", True), ("pairs.jsonl", False), ("/home/me", False), ("a/b/c", False), ("./a", False)],
)  # fmt: skip
def test_what_is_a_name(source: str, is_name: bool) -> None:
    assert datasets.is_dataset_name(source) == is_name


def test_a_folder_of_that_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not datasets.is_dataset_name("data/mine")
