"""Caches a stage's rows as tokens across runs; tokenising tens of thousands of rows takes minutes.

A file's name is a hash of everything the tokens depend on, and its first bytes a hash of the rest, so that a damaged file
counts as missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset
from pyarrow import feather

from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.runs import workspace
from trainer_core.runs.events import Stage
from trainer_core.system import durable, packages
from trainer_core.texts import Text, parse_text
from trainer_core.training.token_rows import TOKEN_COLUMNS

MAX_CACHE_BYTES = 2**30
"""The newest files are kept while they fit; 100,000 pairs of 300 tokens a side take about 0.1 GB."""
DIGEST_BYTES = hashlib.sha256().digest_size


class TokenCache:
    """The cached tokens of a stage's rows, and notes on truncated or dropped rows."""

    def __init__(self, folder: Path, stage: Stage, recipe: Recipe, rows: str, tokenizer: Any):
        """`rows` is the hash of the rows."""
        self.stage, self.folder = stage, folder
        words = [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.special_tokens_map]
        length, versions = (
            recipe.stage_settings(stage).max_length,
            [*packages.recorded_versions().values()],
        )
        facts = json.dumps([stage, recipe.method, rows, length, words, versions])
        self.file = folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.rows"

    def read(self) -> tuple[Dataset, list[Text]] | None:
        """The cached rows; None if missing or damaged."""
        try:
            kept = self.file.read_bytes()
        except FileNotFoundError:
            return None
        seal, body = kept[:DIGEST_BYTES], kept[DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != seal:
            return None
        self.file.touch()
        table = feather.read_table(pa.BufferReader(body))
        return Dataset(table), [parse_text(note) for note in json.loads(table.schema.metadata[b"notes"])]

    def write(self, rows: Dataset, notes: Sequence[Text]) -> None:
        """Cache the rows, and delete the oldest files if they do not fit.

        Raises:
            DiskError: the disk is full.
        """
        table = rows.select_columns(list(TOKEN_COLUMNS[METHODS[self.stage].columns].names)).with_format("arrow")[:]
        body = pa.BufferOutputStream()
        feather.write_feather(
            table.replace_schema_metadata({"notes": json.dumps([asdict(note) for note in notes])}), body
        )
        content = body.getvalue().to_pybytes()
        workspace.ensure_dir(self.folder)
        durable.write_atomically(self.file, hashlib.sha256(content).digest() + content)
        left = MAX_CACHE_BYTES
        for file in sorted(self.folder.glob("*.rows"), key=lambda path: path.stat().st_mtime, reverse=True):
            left -= file.stat().st_size
            if left < 0 and file != self.file:
                file.unlink()
