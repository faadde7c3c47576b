"""Checks, before loading, how much a tokenizer can lengthen a text. Reads tokenizer.json only; nothing of it is run.

Each step of a tokenizer may replace a letter by a longer text. Nine steps of one to twenty make 20⁹ letters of one, which takes
all memory, and the library then aborts the process.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from trainer_core.errors import ModelError
from trainer_core.system.format import MIB

MAX_GROWTH = 256
"""Letters made of one. Tokenizers in use stay below 80; SentencePiece's own table has replacements of 18 letters."""
TOKENIZER_BYTES = 128 * MIB
"""Size of a tokenizer.json; those of the largest vocabularies have 35 MB."""
READING = ("normalizer", "pre_tokenizer", "post_processor")
WRITING = ("decoder",)
STEP_LISTS = ("normalizers", "pretokenizers", "processors", "decoders")
BYTES_PER_LETTER = 4.0


def check_growth(file: Path) -> None:
    """Refuse a tokenizer that can lengthen a text more than `MAX_GROWTH` times.

    Raises:
        ModelError: it can, or the file cannot be read.
    """
    place, found = f"{file.parent.name}/{file.name}", file.stat()
    if found.st_size > TOKENIZER_BYTES:
        raise ModelError("model_folder.large_config", file=place, size=found.st_size, most=TOKENIZER_BYTES)
    try:
        growth = measure_growth(file, found.st_mtime_ns, found.st_size)
    except orjson.JSONDecodeError as error:
        raise ModelError("model_folder.bad_json", file=place, reason=str(error)) from error
    if growth > MAX_GROWTH:
        raise ModelError("model_folder.tokenizer_growth", file=place, growth=f"{growth:.3g}", most=MAX_GROWTH)


@lru_cache(maxsize=32)
def measure_growth(file: Path, modified: int, size: int) -> float:
    """The most letters that a tokenizer.json can make of one, in reading or in writing. `modified`, `size`: of the file."""
    values = orjson.loads(file.read_bytes())
    parts = values if isinstance(values, dict) else {}
    return max(chain_growth([parts.get(name) for name in names]) for names in (READING, WRITING))


def chain_growth(steps: list[Any]) -> float:
    """The growth of steps one after the other."""
    return math.prod(step_growth(step) for step in flat_steps(steps))


def flat_steps(steps: list[Any]) -> Iterator[dict[str, Any]]:
    """All steps, those of sequences too, however deep."""
    left = list(steps)
    while left:
        step = left.pop()
        if isinstance(step, dict):
            yield step
            left.extend(one for name in STEP_LISTS if isinstance(step.get(name), list) for one in step[name])


def step_growth(step: dict[str, Any]) -> float:
    """The most letters that one step makes of one."""
    match step.get("type"):
        case "Replace":
            return replace_growth(step.get("pattern"), str(step.get("content", "")))
        case "Prepend":
            return 1.0 + len(str(step.get("prepend", "")))
        case "Precompiled":
            return table_growth(str(step.get("precompiled_charsmap", "")))
        case "TemplateProcessing":
            return repeat_growth(step.get("single"))
        case "ByteLevel":
            return BYTES_PER_LETTER
        case "Metaspace":
            return 2.0
    return 1.0


def replace_growth(pattern: Any, content: str) -> float:
    """A fixed text becomes `content`. A regular expression may match nothing, and so insert it between all letters."""
    fixed = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(fixed, str) and fixed:
        return max(1.0, len(content) / len(fixed))
    return 1.0 + len(content)


def repeat_growth(template: Any) -> float:
    """A template writes the text as often as it names it."""
    pieces = template if isinstance(template, list) else []
    return max(1.0, float(sum(isinstance(one, dict) and "Sequence" in one for one in pieces)))


def table_growth(table: str) -> float:
    """The longest replacement of SentencePiece's table: a size, an index of that many bytes, and replacements that end in 0."""
    try:
        packed = base64.b64decode(table, validate=True)
    except ValueError:
        return 1.0 + len(table)
    index = int.from_bytes(packed[:4], "little")
    return float(max(1, *(len(one.decode(errors="replace")) for one in packed[4 + index :].split(b"\0"))))
