"""The report on a data set: plain values for JSON, the page and the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from trainer_core.data.files.raw_rows import row_place
from trainer_core.data.schema.data_schema import Kind
from trainer_core.data.schema.messages import Chat, Pair
from trainer_core.texts import Text

Level = Literal["error", "warning", "notice"]
"""error: not trained on as it is. warning: worth a look before training. notice: good to know."""
MAX_EXAMPLES = 5
"""Example rows per finding, and rows in the preview."""


@dataclass(frozen=True)
class FindingExample:
    """One row as an example of a finding."""

    file: str
    row: int
    line: int | None
    snippet: str


@dataclass(frozen=True)
class Remedy:
    """One remedy for a finding: `step` is the recipe's name for it, `label` the button's."""

    step: str
    label: str


@dataclass(frozen=True)
class DataFinding:
    """One fault: how often, first examples, and remedies."""

    code: str
    level: Level
    title: str
    count: int
    of: int
    sentence: str
    examples: tuple[FindingExample, ...] = ()
    remedies: tuple[Remedy, ...] = ()

    def as_lines(self) -> Iterator[str]:
        yield f"{self.level}: {self.sentence}"
        for example in self.examples[:2]:
            yield f"    {row_place(example.file, example.row, example.line)}: {example.snippet}"
        for remedy in self.remedies:
            yield f"    {remedy.label}: {remedy.step}"


IGNORED_CONTENT: dict[str, Level] = {
    "column": "notice",
    "field": "notice",
    "other_column": "notice",
    "weight": "warning",
    "weight_of_others": "warning",
    "json_text": "notice",
    "system": "warning",
    "prompt": "warning",
}
"""Unused content of a row, or content used differently from the file: code → level. The sections `ignored` and `ignored_titles`
describe each."""


def ignored_meaning(code: str, rows: Mapping[str, int]) -> Text:
    """Describes unused content, with its columns or fields and their filled rows."""
    return Text(f"ignored.{code}", names=format_counts(rows))


def format_counts(counts: Mapping[str, int]) -> str:
    """Columns or fields with their filled rows: `id (12 rows), source (1 row)`; at most eight."""
    most = sorted(counts.items(), key=lambda one: -one[1])
    names = ", ".join(str(Text("data_report.count", name=name, rows=count)) for name, count in most[:8])
    return str(Text("data_report.more_counts", names=names, more=len(most) - 8)) if len(most) > 8 else names


@dataclass(frozen=True)
class FileReport:
    """One file as it was read. `columns`: part → column."""

    name: str
    format: str
    shape: str
    columns: dict[str, str]
    unused: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class LengthSummary:
    """Lengths of one part of the rows, in `unit`. `bins` are (from, to, count), each twice as wide as the last."""

    part: str
    unit: Literal["characters"]
    measured: int
    median: int
    p95: int
    longest: int
    bins: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class DataReport:
    """The report on a data set. `usable`: rows that training gets without any remedy."""

    path: str
    kind: Kind | None
    files: tuple[FileReport, ...]
    rows: int
    usable: int
    train: int
    held_out: int
    findings: tuple[DataFinding, ...]
    lengths: tuple[LengthSummary, ...]
    preview: tuple[Chat | Pair, ...]
    notes: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    """Why a run would refuse the data as it is, with the remedy; empty if it is trainable."""

    def as_lines(self) -> Iterator[str]:
        for file in self.files:
            columns = ", ".join(f"{part} ← {column}" for part, column in file.columns.items())
            about = {"file": file.name, "shape": file.shape, "columns": columns, "rows": file.rows}
            unused = ", ".join(file.unused)
            yield str(
                Text("data_report.file_unused", **about, unused=unused) if unused else Text("data_report.file", **about)
            )
        counts = {"usable": self.usable, "rows": self.rows, "train": self.train, "held_out": self.held_out}
        yield str(Text("data_report.rows", **counts))
        for one in self.lengths:
            lengths = {"median": one.median, "p95": one.p95, "longest": one.longest}
            yield str(Text("data_report.lengths", part=one.part, unit=one.unit, **lengths))
        yield from self.notes
        for finding in self.findings:
            yield from finding.as_lines()
        yield from self.blocked
