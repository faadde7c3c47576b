"""Statistics of a file's columns over all of its rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer_core.data.schema.cells import Structure, Values, cell_structure, has_content, parse_written_messages
from trainer_core.data.schema.data_schema import PART_NAMES, WRITTEN_STRUCTURES, flatten_objects, normalise_name

if TYPE_CHECKING:
    from trainer_core.config.recipe import Columns


Allowed = frozenset[Structure]
MAX_COLUMNS = 1_000
"""Maximum distinct columns per file; data sets have tens."""


@dataclass
class ColumnSurvey:
    """The filled cells of one column: number and first one per structure, and whether all are booleans."""

    also: Structure | None = None
    answer: bool = False
    counts: Counter[Structure] = field(default_factory=Counter)
    examples: dict[Structure, Any] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)
    judges: bool = True
    """Every cell so far is a yes or a no."""

    def add(self, value: Any) -> None:
        if self.judges:
            self.judges = str(value).strip().casefold() in ("true", "false", "0", "1")
        if not has_content(value, spelled_out=self.also is not None):
            return
        found = parse_written_messages(value, self.also, self.answer) if isinstance(value, str) else value
        if len(self.samples) < MAX_SAMPLES:
            self.samples.append(" ".join(str(value)[:400].split())[:160])
        kind = cell_structure(found)
        self.counts[kind] += 1
        self.examples.setdefault(kind, found)

    @property
    def first(self) -> Any:
        """The first filled cell; None in an empty column."""
        return next(iter(self.examples.values()), None)

    @property
    def structure(self) -> Structure:
        """The most common structure of the filled cells; an empty column counts as text."""
        return self.counts.most_common(1)[0][0] if self.counts else "text"


MAX_SAMPLES = 3
"""Sample cells per column."""


class FileSurvey:
    """The columns of a file, from all of its rows. Columns beyond `MAX_COLUMNS` are only counted."""

    def __init__(self, given: Columns | None = None) -> None:
        self.given, self.rows, self.beyond = given, 0, 0
        self.columns: dict[str, ColumnSurvey] = {}

    def add(self, values: Values) -> None:
        self.rows += 1
        for name, value in flatten_objects(values).items():
            column = self.columns.get(name)
            if column is None:
                if len(self.columns) >= MAX_COLUMNS:
                    self.beyond += 1
                    continue
                column = self.columns[name] = ColumnSurvey(
                    self.expected_structure(name), self.is_answer_column(name, values)
                )
            column.add(value)

    def expected_structure(self, name: str) -> Structure | None:
        """The structure a column's cells may hold besides messages, by its mapped part or its name."""
        given = self.given.column_by_part if self.given else {}
        parts = (
            part for part in WRITTEN_STRUCTURES if given.get(part) == name or normalise_name(name) in PART_NAMES[part]
        )
        return next((WRITTEN_STRUCTURES[part] for part in parts), None)

    def is_answer_column(self, name: str, values: Values) -> bool:
        """Is a column the answer to another one, by the mapping or by names?"""
        if self.given:
            return self.given.answer == name and bool(self.given.prompt)
        return normalise_name(name) in PART_NAMES["answer"] and any(
            normalise_name(other) in PART_NAMES["prompt"] for other in values
        )

    def column_structures(self) -> dict[str, Structure]:
        return {name: column.structure for name, column in self.columns.items()}

    def count_filled(self, column: str, allowed: Allowed) -> int:
        """Rows with an allowed structure in a column."""
        return sum(count for kind, count in self.columns[column].counts.items() if kind in allowed)
