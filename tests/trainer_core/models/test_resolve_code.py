"""Model folders that ask for code or hold what is no file: refused by their configurations alone, without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trainer_core.errors import ModelError
from trainer_core.models import resolve


def put_config(folder: Path, name: str, **config: object) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    (folder / name).write_text(json.dumps({"model_type": "llama", **config}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "key",
    ["auto_map", "custom_pipelines", "trust_remote_code", "custom_generate", "auto_mapping", "megatron_config",
     "_attn_implementation_internal", "_experts_implementation_internal"],
)  # fmt: skip
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_request_for_code_is_refused_in_every_configuration(tmp_path: Path, file: str, key: str) -> None:
    """At the top and within."""
    for config in ({key: "x"}, {"text": [{"inner": {key: {"a": "x"}}}]}):
        with pytest.raises(ModelError) as refused:
            resolve.check_model_folder(put_config(tmp_path, file, **config))
        facts = {"file": f"{tmp_path.name}/{file}", "key": key}
        assert (refused.value.text.code, refused.value.text.params) == ("model_folder.own_code", facts)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_kernel_of_the_hub_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ModelError) as refused:
        resolve.check_model_folder(put_config(tmp_path, "config.json", **{key: "owner/kernel"}))
    assert refused.value.text.code == "model_folder.hub_code" and refused.value.text.params["key"] == key


@pytest.mark.skipif(os.name != "posix", reason="pipes and links")
@pytest.mark.parametrize(
    ("kind", "code"), [("pipe", "special_file"), ("link", "outside_link"), ("loop", "broken_link")]
)
def test_a_file_of_a_model_is_a_file_in_its_folder(tmp_path: Path, kind: str, code: str) -> None:
    folder = tmp_path / "a" / "b" / "model"
    folder.mkdir(parents=True)
    place = put_config(folder, "config.json") / "tokenizer.json"
    (tmp_path / "outside.json").touch()
    os.mkfifo(place) if kind == "pipe" else place.symlink_to(tmp_path / "outside.json" if kind == "link" else place)
    with pytest.raises(ModelError) as refused:
        resolve.check_file_location(place, folder)
    assert refused.value.text.code == f"model_folder.{code}"
