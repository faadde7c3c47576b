"""What a workspace keeps: dropped files under names that do not collide, and columns mapped by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer_core.config.recipe import Columns
from trainer_core.data import preview_dataset, uploads
from trainer_core.errors import DataError
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text


def upload(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_dropped_file_keeps_its_name_and_never_replaces_another(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    first = uploads.store_upload(workspace, upload(tmp_path / "a", "pairs.jsonl.gz", "one"))
    assert first == workspace.data / "pairs.jsonl.gz"
    assert uploads.store_upload(workspace, upload(tmp_path / "b", "pairs.jsonl.gz", "one")) == first, (
        "the same file again"
    )
    second = uploads.store_upload(workspace, upload(tmp_path / "c", "pairs.jsonl.gz", "two"))
    assert second.name == "pairs-2.jsonl.gz" and (first.read_text(), second.read_text()) == ("one", "two")


def test_a_name_cannot_lead_elsewhere(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    place = uploads.store_upload(workspace, upload(tmp_path / "a", "..;$(x) é.jsonl", "one"))
    assert place.parent == workspace.data and not place.name.startswith(".")


def test_columns_are_remembered_by_the_names_of_all_columns(tmp_path: Path) -> None:
    workspace, columns = Workspace(tmp_path), Columns(prompt="q", chosen="yes", rejected="no")
    assert uploads.load_mapping(workspace, ["q", "yes", "no"]) is None
    uploads.save_mapping(workspace, ["q", "yes", "no"], columns)
    uploads.save_mapping(workspace, ["other"], Columns(text="other"))
    assert uploads.load_mapping(workspace, ["no", "yes", "q"]) == columns, "in any order"
    assert uploads.load_mapping(workspace, ["q", "yes", "no", "more"]) is None
    uploads.save_mapping(workspace, ["q", "yes", "no"], Columns())
    assert uploads.load_mapping(workspace, ["q", "yes", "no"]) is None
    assert uploads.load_mapping(workspace, ["other"]) == Columns(text="other")


def test_a_glance_shows_columns_and_guesses_by_their_names(tmp_path: Path) -> None:
    path = upload(tmp_path / "a", "x.csv", "instruction,output_good,output_bad,id\nwhy?,so,no,1\nhow?,thus,not,2\n")
    seen = preview_dataset(path)
    assert [column.name for column in seen.columns] == ["instruction", "output_good", "output_bad", "id"]
    assert seen.columns[1].samples == ("so", "thus")
    assert seen.parts == {"prompt": "instruction", "chosen": "output_good", "rejected": "output_bad"}
    assert "found columns instruction, output_good" in seen.problem


def test_a_glance_at_a_known_shape_has_no_problem(tmp_path: Path) -> None:
    seen = preview_dataset(upload(tmp_path / "a", "x.csv", "prompt,chosen,rejected\na,b,c\n"))
    assert (seen.shape, seen.problem) == ("preference pairs", "") and seen.parts["chosen"] == "chosen"


def test_a_glance_at_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as missing:
        preview_dataset(tmp_path / "x.csv")
    assert missing.value.text == Text("files.missing", path=str(tmp_path / "x.csv"))
    with pytest.raises(DataError, match="line 1") as damaged:
        preview_dataset(upload(tmp_path / "a", "x.jsonl", '{"a": \n{"b": \n'))
    assert damaged.value.text.params["reason"].code == "json.not_valid"
