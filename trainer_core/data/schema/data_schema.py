"""The schema of a file's rows: the column of each part, and what a row becomes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from trainer_core.data.schema.cells import (
    JSON_STARTS,
    PICTURES,
    TOOLS,
    RowCells,
    Structure,
    Values,
    has_content,
    parse_literal,
    parse_written_messages,
)
from trainer_core.data.schema.convert import to_chat, to_pair
from trainer_core.data.schema.messages import Item

Kind = Literal["chat", "pairs"]
PART_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "query", "user", "problem", "input_messages", "input.messages", "input"),
    "input": ("input", "context"),
    "system": ("system", "system_prompt", "system_message"),
    "history": ("history",),
    "answer": ("completion", "output", "response", "answer", "assistant", "target", "solution"),
    "chosen": (
        "chosen", "chosen_messages", "chosen_response", "preferred", "accepted", "preferred_output", "preferred_response",
    ),
    "rejected": (
        "rejected", "rejected_messages", "rejected_response", "dispreferred", "reject", "non_preferred_output",
        "non_preferred_response", "non_preferred", "dispreferred_output", "dispreferred_response",
    ),
    "messages": ("messages", "conversations", "conversation", "dialogue", "chat"),
    "scored": ("completions", "responses", "answers", "candidates"),
    "label": ("label", "kto_tag"),
    "text": ("text", "content"),
    "reasoning": ("reasoning_content", "reasoning", "thinking", "thoughts"),
}  # fmt: skip
"""Part → possible column names, likeliest first. A dot: the key of an object in that column."""
KNOWN_NAMES = frozenset(name for names in PART_NAMES.values() for name in names)
NESTED_NAMES = {
    outer: key for names in PART_NAMES.values() for outer, dot, key in (name.partition(".") for name in names) if dot
}
"""Column → key of a part inside its objects."""
WRITTEN_STRUCTURES: dict[str, Structure] = {"history": "rounds", "scored": "scored", "messages": "rounds"}
"""Part → structure that its cells may hold as JSON text, besides messages."""
REMARK_CODES = dict.fromkeys(TOOLS, "tools") | dict.fromkeys(PICTURES, "pictures")
"""Column name → remark code if it is unused; "column" for all others."""


@dataclass(frozen=True)
class DataSchema:
    """A detected schema: a name to display, the kind of item per row, and part → column."""

    name: str
    kind: Kind
    columns: dict[str, str]
    unused: tuple[str, ...] = ()
    scores: tuple[str, str] | None = None
    """The score columns of the chosen and the rejected answer, if any."""
    others: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Part → further columns with its names, used in rows where its own column is empty."""

    def score_margin(self, values: Values) -> float | None:
        """Score of the chosen answer minus that of the rejected one, or None if either is missing."""
        if self.scores is None:
            return None
        try:
            chosen, rejected = (float(values.get(column)) for column in self.scores)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        return chosen - rejected

    def read_cells(self, values: Values) -> RowCells:
        """A row's cells, with JSON text parsed into objects, and remarks on unused columns."""
        values = flatten_objects(values)
        row = RowCells(values, self.columns)
        taken = {part: one for part in self.others if (one := self.substitute_column(part, values))}
        if taken:
            values = row.values = {**values, **{self.columns[part]: values[one] for part, one in taken.items()}}
        for part, column in taken.items():
            row.add_remark("other_column", column, f"{part}: {values[column]}")
        for column in self.unused:
            if column not in taken.values() and has_content(value := values.get(column), spelled_out=True):
                name = normalise_name(column).rpartition(".")[2]
                row.add_remark(REMARK_CODES.get(name, "column"), column, value)
        for part, column in self.columns.items():
            value = values.get(column)
            answer = part == "answer" and "prompt" in self.columns
            if (
                isinstance(value, str)
                and (found := parse_written_messages(value, WRITTEN_STRUCTURES.get(part), answer)) is not value
            ):
                row.values = {**row.values, column: found}
                row.add_remark("json_text", column, value)
        return row

    def substitute_column(self, part: str, values: Values) -> str | None:
        """The column that replaces a part's own column where that is empty."""
        if has_content(values.get(self.columns[part])):
            return None
        return next((column for column in self.others[part] if has_content(values.get(column))), None)

    def convert_row(self, row: RowCells) -> Item:
        """One row as a chat or a pair.

        Raises:
            BadRow: the row lacks a part, or a part is invalid.
        """
        return to_pair(row) if self.kind == "pairs" else to_chat(row)


def normalise_name(column: str) -> str:
    """A column's name without case and separators."""
    return re.sub(r"[\s-]+", "_", column.strip()).casefold()


def flatten_objects(values: Values) -> Values:
    """The row with the keys of an object that holds a part as columns: `input.messages` of an object `input`."""
    flat = values
    for column, value in values.items():
        written = isinstance(value, str) and value[:1] in JSON_STARTS
        if not (written or isinstance(value, dict)) or (key := NESTED_NAMES.get(normalise_name(column))) is None:
            continue
        found = parse_literal(value) if written else value
        if isinstance(found, dict) and key in found:
            inner = {f"{column}.{name}": one for name, one in found.items()}
            flat = {name: one for name, one in flat.items() if name != column} | inner
    return flat
