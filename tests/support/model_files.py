"""Weights as a .safetensors file holds them, sound or not."""

from __future__ import annotations

import json
import struct
from math import prod
from typing import Any


def pack_safetensors(tensors: dict[str, list[int]], **changes: Any) -> bytes:
    """Tensors of zeros in 32 bit. `changes` go into the header's entry of the first."""
    at, header = 0, dict[str, Any]()
    for name, shape in tensors.items():
        size = 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header[next(iter(header))] |= changes
    return frame_header(json.dumps(header).encode(), at)


def frame_header(header: bytes, data: int) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(data)
