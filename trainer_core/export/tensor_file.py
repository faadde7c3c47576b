"""Safetensors files, read and written one tensor at a time: memory holds one tensor, whatever the size of the file.

The safetensors library writes a file from all its tensors at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainer_core.models.safetensors_check import TensorEntry, read_header, read_header_bytes
from trainer_core.system import durable

FLOAT_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
ALIGNMENT = 8
"""The length of a header is a multiple of this many bytes, as the library writes it."""


@dataclass(frozen=True)
class TensorHeader:
    """Name, number format (as safetensors names it) and shape of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOAT_TYPES


class TensorReader:
    """One file. Tensors keep their order in it."""

    def __init__(self, path: Path):
        """Raises ModelError for a file that is no sound safetensors file."""
        self.path = path
        self.entries: dict[str, TensorEntry] = read_header(path)
        self.begin = 8 + len(read_header_bytes(path)[0])

    def list_headers(self) -> Iterator[TensorHeader]:
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].data_offsets):
            yield TensorHeader(name, entry.dtype, entry.shape)

    def read_bytes(self, name: str) -> torch.Tensor:
        """The bytes of a tensor of any format."""
        begin, end = self.entries[name].data_offsets
        return torch.from_numpy(np.fromfile(self.path, np.uint8, end - begin, offset=self.begin + begin))

    def read_tensor(self, name: str) -> torch.Tensor:
        """A tensor of one of FLOAT_TYPES, in its own format."""
        entry = self.entries[name]
        return self.read_bytes(name).view(FLOAT_TYPES[entry.dtype]).reshape(entry.shape)


def count_weights(path: Path) -> int:
    """Numbers in a file, at least 1."""
    return max(1, sum(math.prod(entry.shape) for entry in read_header(path).values()))


def write_tensors(path: Path, headers: Sequence[TensorHeader], contents: Iterable[torch.Tensor]) -> None:
    """Write a file of these tensors. `contents` are in the order of the headers; a tensor is written in its header's format,
    and one of bytes as it is.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        file.write(encode_header(headers))
        for header, content in zip(headers, contents, strict=True):
            durable.fault_point(path)
            stored = content if content.dtype == torch.uint8 else content.to(FLOAT_TYPES[header.dtype])
            file.write(stored.contiguous().flatten().view(torch.uint8).numpy().data)


def encode_header(headers: Sequence[TensorHeader]) -> bytes:
    told: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for header in headers:
        end = at + tensor_bytes(header)
        told[header.name] = {"dtype": header.dtype, "shape": header.shape, "data_offsets": (at, end)}
        at = end
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(header: TensorHeader) -> int:
    return round(TensorEntry(dtype=header.dtype, shape=header.shape, data_offsets=(0, 0)).byte_size)
