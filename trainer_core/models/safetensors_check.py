"""Whether files of weights are what they say they are, from their headers alone: safetensors and the index of several."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, NonNegativeInt, TypeAdapter, ValidationError

from trainer_core.errors import ModelError

INDEX = "model.safetensors.index.json"
HEADER_BYTES = 32 << 20
"""The library itself takes up to 100 MB. The header of a model of 400 layers has 0.6 MB."""
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}
BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "C64": 64}
BITS |= {"F16": 16, "BF16": 16, "F32": 32, "F64": 64}


class TensorEntry(BaseModel):
    """One tensor, as the header of a safetensors file tells it."""

    dtype: str
    shape: tuple[NonNegativeInt, ...] = Field(max_length=16)
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]

    @property
    def byte_size(self) -> float:
        return math.prod(self.shape) * BITS.get(self.dtype, math.nan) / 8


HEADER_ADAPTER = TypeAdapter(dict[str, TensorEntry])


def check_weights(folder: Path) -> int:
    """Bytes of all tensors of a folder's safetensors files, each of which is checked.

    Raises:
        ModelError: naming the file and what is wrong with it.
    """
    check_index(folder)
    return sum(entry.data_offsets[1] for path in folder.glob("*.safetensors") for entry in read_header(path).values())


def check_index(folder: Path) -> None:
    """The index of a model in several files names files beside it, all of them safetensors.

    Raises:
        ModelError: it names another place, another format, or a file that is missing.
    """
    if not (folder / INDEX).exists():
        return
    named = parse_json_object(folder / INDEX, (folder / INDEX).read_bytes()).get("weight_map")
    if not isinstance(named, Mapping):
        raise ModelError(f"{folder.name}/{INDEX} has no weight_map. Download the model again.")
    for name in sorted({str(one) for one in named.values()}):
        if Path(name).name != name or "\\" in name:
            raise ModelError(f"{folder.name}/{INDEX} names {name!r}, which is not beside it. Refused.")
        if not name.endswith(".safetensors"):
            raise ModelError(
                f"{folder.name}/{INDEX} names {name!r}, a pickle, which can run code when loaded. Refused."
            )
        if not (folder / name).is_file():
            raise ModelError(f"{folder.name} lacks {name}, which its {INDEX} names. Download the model again.")


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Tensor → entry of a safetensors file: known number formats, and offsets that cover the file without gap or overlap.

    Raises:
        ModelError: naming the file and the first thing that is wrong.
    """
    place = f"{path.parent.name}/{path.name}"
    raw, size = read_header_bytes(path)
    told = parse_json_object(path, raw)
    told.pop("__metadata__", None)
    try:
        entries = HEADER_ADAPTER.validate_python(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(
            f"{place}: its header is damaged: {where[:100]}: {first['msg']}. Download it again."
        ) from error
    for problem in header_problems(entries, size):
        raise ModelError(f"{place} is not what its header says: {problem} Download it again.")
    return entries


def read_header_bytes(path: Path) -> tuple[bytes, int]:
    """The header's text, and how many bytes follow it.

    Raises:
        ModelError: the file is shorter than its header, or the header is longer than any model's.
    """
    place, size = f"{path.parent.name}/{path.name}", path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ModelError(
                f"{place} is cut short or no safetensors file: its header takes {length:,} bytes of {size:,}. "
                "Download it again."
            )
        if length > HEADER_BYTES:
            raise ModelError(f"{place} has a header of {length:,} bytes; {HEADER_BYTES:,} are the most. Refused.")
        return file.read(length), size - 8 - length


def parse_json_object(path: Path, text: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.parent.name}/{path.name} is damaged: {error}. Download it again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.parent.name}/{path.name} is damaged: no JSON object. Download it again.")
    return found


def header_problems(entries: Mapping[str, TensorEntry], size: int) -> Iterator[str]:
    """What does not fit together, the first first."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if entry.dtype not in BITS:
            yield f"{name[:100]} has the unknown number format {entry.dtype[:20]!r}."
        if begin < at:
            yield f"{name[:100]} begins at byte {begin:,}, inside of the tensor before."
        if begin > at:
            yield f"nothing is said of the bytes {at:,} to {begin:,}."
        if end - begin != entry.byte_size:
            yield f"{name[:100]} has {end - begin:,} bytes, and its shape needs {entry.byte_size:,.0f}."
        at = end
    if at != size:
        yield f"its tensors end at byte {at:,} of {size:,}."
