"""Which base models are taken: complete, safetensors, and without code of their own."""

import json
from pathlib import Path

import pytest

from trainer_core import models, runs
from trainer_core.errors import ModelError


def folder(tmp_path: Path, **changes: str | None) -> Path:
    files = {
        "config.json": json.dumps({"model_type": "llama"}),
        "model.safetensors": "x",
        "tokenizer.json": "{}",
        **{name.replace("__", "."): text for name, text in changes.items()},
    }
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config__json": None}, "config.json"),
        ({"config__json": "{"}, "not valid JSON"),
        ({"config__json": "[]"}, "model_type"),
        ({"config__json": json.dumps({"model_type": "x", "auto_map": {"AutoModel": "evil.py"}})}, "auto_map"),
        ({"model__safetensors": None}, "no .safetensors"),
        ({"model__safetensors": None, "pytorch_model__bin": "x"}, "pickle"),
        ({"tokenizer__json": None}, "tokenizer.json"),
    ],
)
def test_an_unfit_folder_is_refused_with_the_reason(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        models.resolve(str(folder(tmp_path, **changes)), runs.Workspace(tmp_path))


def test_a_fit_folder_and_a_hub_id_are_taken(tmp_path: Path) -> None:
    workspace = runs.Workspace(tmp_path / "w")
    (tmp_path / "m").mkdir()
    assert models.resolve(str(folder(tmp_path / "m")), workspace) == str(tmp_path / "m")
    assert models.resolve("owner/name", workspace) == "owner/name"


@pytest.mark.parametrize("name", ["no/such/folder", "/nowhere/at/all", "../no-such-folder", "just-a-name", ""])
def test_a_name_that_is_neither_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="hub id"):
        models.resolve(name, runs.Workspace(tmp_path))
