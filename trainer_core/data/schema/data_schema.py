"""The schema of a file's rows: the column of each part, and what a row becomes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from trainer_core.data.schema.cells import (
    PICTURES,
    TOOLS,
    RowCells,
    Structure,
    Values,
    has_content,
    parse_written_messages,
)
from trainer_core.data.schema.convert import to_chat, to_pair
from trainer_core.data.schema.messages import Item

Kind = Literal["chat", "pairs"]
PART_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "instruction", "question", "query", "user", "problem", "input"),
    "input": ("input", "context"),
    "system": ("system", "system_prompt", "system_message"),
    "history": ("history",),
    "answer": ("completion", "output", "response", "answer", "assistant", "target", "solution"),
    "chosen": ("chosen", "chosen_messages", "chosen_response", "preferred", "accepted"),
    "rejected": ("rejected", "rejected_messages", "rejected_response", "dispreferred", "reject"),
    "messages": ("messages", "conversations", "conversation", "dialogue", "chat"),
    "scored": ("completions", "responses", "answers", "candidates"),
    "label": ("label", "kto_tag"),
    "text": ("text", "content"),
    "reasoning": ("reasoning_content", "reasoning", "thinking", "thoughts"),
}
"""Part → possible column names, likeliest first."""
WRITTEN_STRUCTURES: dict[str, Structure] = {"history": "rounds", "scored": "scored"}
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
        row = RowCells(values, self.columns)
        taken = {part: one for part in self.others if (one := self.substitute_column(part, values))}
        if taken:
            values = row.values = {**values, **{self.columns[part]: values[one] for part, one in taken.items()}}
        for part, column in taken.items():
            row.add_remark("other_column", column, f"{part}: {values[column]}")
        for column in self.unused:
            if column not in taken.values() and has_content(value := values.get(column), spelled_out=True):
                row.add_remark(REMARK_CODES.get(normalise_name(column), "column"), column, value)
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
