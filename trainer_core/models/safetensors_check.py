"""Validates weight files by their headers alone: safetensors, and the index of a split model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, NonNegativeInt, TypeAdapter, ValidationError

from trainer_core.errors import ModelError
from trainer_core.texts import Text

INDEX = "model.safetensors.index.json"
HEADER_BYTES = 32 << 20
"""safetensors itself accepts up to 100 MB. The header of a model with 400 layers has 0.6 MB."""
INDEX_BYTES = 32 << 20
"""A line for each tensor: 58 layers of 256 experts in FP8, with scales, take 9 MB."""
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}
BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "C64": 64}
BITS |= {"F16": 16, "BF16": 16, "F32": 32, "F64": 64}


class TensorEntry(BaseModel):
    """One tensor, as declared in a safetensors header."""

    dtype: str
    shape: tuple[NonNegativeInt, ...] = Field(max_length=16)
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]

    @property
    def byte_size(self) -> float:
        return math.prod(self.shape) * BITS.get(self.dtype, math.nan) / 8


HEADER_ADAPTER = TypeAdapter(dict[str, TensorEntry])


def check_weights(folder: Path) -> int:
    """Check a folder's safetensors files; the bytes of all their tensors.

    Raises:
        ModelError: naming the file and what is wrong with it.
    """
    check_index(folder)
    entries = (entry for path in folder.glob("*.safetensors") for entry in read_header(path).values())
    return sum(entry.data_offsets[1] - entry.data_offsets[0] for entry in entries)


def check_index(folder: Path) -> None:
    """Check that the index of a split model names only safetensors files beside it.

    Raises:
        ModelError: it is too large, or names another place, another format, or a missing file.
    """
    if not (folder / INDEX).exists():
        return
    place = f"{folder.name}/{INDEX}"
    if (size := (folder / INDEX).stat().st_size) > INDEX_BYTES:
        raise ModelError("weights.large_index", index=place, size=size, most=INDEX_BYTES)
    named = parse_json_object(folder / INDEX, (folder / INDEX).read_bytes()).get("weight_map")
    if not isinstance(named, Mapping):
        raise ModelError("weights.no_map", index=place)
    for name in sorted({str(one) for one in named.values()}):
        if Path(name).name != name or "\\" in name:
            raise ModelError("weights.elsewhere", index=place, file=name)
        if not name.endswith(".safetensors"):
            raise ModelError("weights.pickle", index=place, file=name)
        if not (folder / name).is_file():
            raise ModelError("weights.missing", folder=folder.name, index=INDEX, file=name)


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Tensor → entry of a safetensors file, with known dtypes and offsets that cover the file without gap or overlap.

    Raises:
        ModelError: naming the file and the first problem.
    """
    place = f"{path.parent.name}/{path.name}"
    raw, size = read_header_bytes(path)
    told = parse_json_object(path, raw)
    told.pop("__metadata__", None)
    try:
        entries = HEADER_ADAPTER.validate_python(told)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))[:100]
        raise ModelError("weights.damaged_header", file=place, key=key, reason=first["msg"]) from error
    for problem in header_problems(entries, size):
        raise ModelError("weights.wrong_header", file=place, problem=problem)
    return entries


def read_header_bytes(path: Path) -> tuple[bytes, int]:
    """The header's text, and the number of bytes after it.

    Raises:
        ModelError: the file is shorter than its header, or the header is longer than any model's.
    """
    place, size = f"{path.parent.name}/{path.name}", path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ModelError("weights.cut_short", file=place, length=length, size=size)
        if length > HEADER_BYTES:
            raise ModelError("weights.long_header", file=place, length=length, most=HEADER_BYTES)
        return file.read(length), size - 8 - length


def parse_json_object(path: Path, text: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ModelError: the text is not a JSON object.
    """
    place = f"{path.parent.name}/{path.name}"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError("weights.damaged", file=place, reason=str(error)) from error
    if not isinstance(found, dict):
        raise ModelError("weights.no_object", file=place)
    return found


def header_problems(entries: Mapping[str, TensorEntry], size: int) -> Iterator[Text]:
    """Contradictions in a header, in file order."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if entry.dtype not in BITS:
            yield Text("weights.unknown_format", tensor=name[:100], format=entry.dtype[:20])
        if begin < at:
            yield Text("weights.overlap", tensor=name[:100], begin=begin)
        if begin > at:
            yield Text("weights.gap", start=at, end=begin)
        if end - begin != entry.byte_size:
            yield Text("weights.wrong_size", tensor=name[:100], held=end - begin, needed=entry.byte_size)
        at = end
    if at != size:
        yield Text("weights.wrong_end", end=at, size=size)
