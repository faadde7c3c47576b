"""Small data files for tests, written in any format from the same rows, and what becomes of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from tests.support.case_rows import Case, read
from trainer_core.data import Chat, Message, Pair

Row = dict[str, Any]
FORMATS = ("jsonl", "json", "csv", "parquet")


def written(folder: Path, rows: Sequence[Row], form: str = "jsonl") -> Path:
    """A file with these rows. CSV has lists and objects as JSON text, empty cells for what is missing."""
    path = folder / f"rows.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif form == "json":
        path.write_text(json.dumps(list(rows), indent=1), encoding="utf-8")
    elif form == "csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(names)
            table.writerows([cell(row.get(name)) for name in names] for row in rows)
    else:
        names = list(dict.fromkeys(name for row in rows for name in row))
        parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


def cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def case(folder: Path, rows: Sequence[Row], form: str = "jsonl", steps: Sequence[str] = ()) -> Case:
    return read(written(folder, rows, form), steps)


def user(text: Any, **more: Any) -> Row:
    return {"role": "user", "content": text, **more}


def assistant(text: Any, **more: Any) -> Row:
    return {"role": "assistant", "content": text, **more}


def chat(*turns: tuple[str, str]) -> Chat:
    return Chat(tuple(Message(role, text) for role, text in turns))  # type: ignore[arg-type]


def pair(prompt: Sequence[tuple[str, str]], chosen: str, rejected: str) -> Pair:
    asked = tuple(Message(role, text) for role, text in prompt)  # type: ignore[arg-type]
    return Pair(asked, (Message("assistant", chosen),), (Message("assistant", rejected),))
