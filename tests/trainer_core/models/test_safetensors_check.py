"""Weight files by their headers: what a header claims must be all of the file, once, and its index stays in the folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_files import frame_header, pack_safetensors
from trainer_core.errors import ModelError
from trainer_core.models import safetensors_check
from trainer_core.texts import Text

MEGABYTE = 1 << 20


def entry(begin: int, end: int, **changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]} | changes


HEADERS: dict[str, tuple[dict[str, Any], int, str]] = {
    "a gap": ({"a": entry(0, 8), "b": entry(12, 20)}, 20, "weights.gap"),
    "an overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "weights.overlap"),
    "a gap at the start": ({"a": entry(4, 12)}, 12, "weights.gap"),
    "bytes behind": ({"a": entry(0, 8)}, 12, "weights.wrong_end"),
    "a shape that needs more": ({"a": entry(0, 8, shape=[3])}, 8, "weights.wrong_size"),
    "a shape of 2^80": ({"a": entry(0, 8, shape=[2**40, 2**40])}, 8, "weights.wrong_size"),
    "an unknown format": ({"a": entry(0, 8, dtype="X1")}, 8, "weights.unknown_format"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_contradicts_its_file_is_refused(tmp_path: Path, name: str) -> None:
    header, size, code = HEADERS[name]
    (tmp_path / "model.safetensors").write_bytes(frame_header(json.dumps(header).encode(), size))
    with pytest.raises(ModelError) as refused:
        safetensors_check.check_weights(tmp_path)
    assert refused.value.text.code == "weights.wrong_header" and refused.value.text.params["problem"].code == code


def test_the_bytes_of_all_weights_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(pack_safetensors({"x": [3, 5], "y": [1]}))
    assert safetensors_check.check_weights(tmp_path) == 2 * 64


@pytest.mark.parametrize(
    ("length", "size", "code"),
    [
        (33 * MEGABYTE, 34 * MEGABYTE, "weights.long_header"),
        (2**62, 1000, "weights.cut_short"),
        (993, 1000, "weights.cut_short"),
        (1000, 4, "weights.cut_short"),
    ],
)
def test_a_header_is_as_long_as_its_file_has_room_and_no_longer_than_a_models(
    tmp_path: Path, length: int, size: int, code: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little"))
    os.truncate(path, size)
    with pytest.raises(ModelError) as refused:
        safetensors_check.read_header(path)
    assert refused.value.text.code == code


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../other.safetensors", "weights.elsewhere"),
        ("/model.safetensors", "weights.elsewhere"),
        ("a\\b.safetensors", "weights.elsewhere"),
        ("model.bin", "weights.pickle"),
        ("missing.safetensors", "weights.missing"),
    ],
)
def test_an_index_names_weights_of_its_folder_alone(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "other.safetensors").write_bytes(pack_safetensors({"x": [4]}))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(pack_safetensors({"x": [4]}))
    (folder / "model.bin").touch()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "model.safetensors"}}))
    assert safetensors_check.check_weights(folder) == 16
    index.write_text(json.dumps({"weight_map": {"x": "model.safetensors", "y": name}}))
    with pytest.raises(ModelError) as refused:
        safetensors_check.check_weights(folder)
    assert refused.value.text.code == code


def test_an_index_is_no_longer_than_a_models(tmp_path: Path) -> None:
    most, index = safetensors_check.INDEX_BYTES, tmp_path / safetensors_check.INDEX
    index.write_bytes(b'{"weight_map": {}}'.ljust(most))
    safetensors_check.check_index(tmp_path)
    os.truncate(index, most + 1)
    with pytest.raises(ModelError) as refused:
        safetensors_check.check_index(tmp_path)
    assert refused.value.text == Text(
        "weights.large_index", index=f"{tmp_path.name}/{index.name}", size=most + 1, most=most
    )
