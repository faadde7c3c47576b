"""What is known about a data set after it was checked: plain values, ready for JSON, the page and the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from trainer_core.data.files.raw_rows import format_location
from trainer_core.data.schema.data_schema import Kind
from trainer_core.data.schema.messages import Chat, Pair

Level = Literal["error", "warning", "notice"]
"""error: not trained on as it is. warning: worth a look before training. notice: good to know."""
MAX_EXAMPLES = 5
"""Rows shown as examples of one finding, and rows in the preview."""


@dataclass(frozen=True)
class FindingExample:
    """One row as an example of a finding."""

    file: str
    row: int
    line: int | None
    snippet: str


@dataclass(frozen=True)
class Remedy:
    """One way to mend a finding: `step` is what a recipe records, `label` what the button says."""

    step: str
    label: str


@dataclass(frozen=True)
class DataFinding:
    """One thing that is wrong, how often, where first, and what can be done about it."""

    code: str
    level: Level
    title: str
    count: int
    of: int
    sentence: str
    examples: tuple[FindingExample, ...] = ()
    remedies: tuple[Remedy, ...] = ()

    def as_lines(self) -> Iterator[str]:
        """The finding as lines of text."""
        yield f"{self.level}: {self.sentence}"
        for example in self.examples[:2]:
            yield f"    {format_location(example.file, example.row, example.line)}: {example.snippet}"
        for remedy in self.remedies:
            yield f"    {remedy.label}: {remedy.step}"


IGNORED_CONTENT: dict[str, tuple[Level, str, str]] = {
    "column": ("notice", "Columns not used", "not used: {names}"),
    "field": ("notice", "Fields of messages not used", "not used of the messages: {names}"),
    "other_column": (
        "notice", "Parts under other names", "a part's own column is empty, and another with such a name is used: {names}",
    ),
    "weight": ("warning", "Weights between", "a weight is neither 0 nor 1 and is taken as 1 if it is above 0: {names}"),
    "weight_of_others": (
        "warning", "Weights of other turns", "only what the assistant says is learned, whatever the weight of others: {names}",
    ),
    "json_text": ("notice", "JSON text unpacked", "JSON written as text is read as what it spells: {names}"),
    "system": ("warning", "Second system prompts", "a second system prompt that says something else is left out: {names}"),
    "prompt": (
        "warning", "Prompts beside whole conversations",
        "the sides begin with another prompt than the prompt's own column, which is left out: {names}",
    ),
}  # fmt: skip
"""What is not used of a row, or not as the file says: code -> level, title, and the end of its sentence."""


def format_counts(counts: Mapping[str, int]) -> str:
    """Columns or fields with the rows they are filled in: `id (12 rows), source (1 row)`; at most eight."""
    most = sorted(counts.items(), key=lambda one: -one[1])
    told = [f"{name} ({count:,} row{'s' * (count != 1)})" for name, count in most[:8]]
    return ", ".join(told) + (f" and {len(most) - 8} more" if len(most) > 8 else "")


@dataclass(frozen=True)
class FileReport:
    """One file as it was read. `columns`: part -> column."""

    name: str
    format: str
    shape: str
    columns: dict[str, str]
    unused: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class LengthSummary:
    """How long one part of the rows is, in `unit`. `bins` are (from, to, count), each twice as wide as the last."""

    part: str
    unit: Literal["characters"]
    measured: int
    median: int
    p95: int
    longest: int
    bins: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class DataReport:
    """A data set, checked. `usable` rows are what training would get without any remedy."""

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
    """Why a run would refuse the data as it is, with the way out; empty where it can be trained on."""

    def as_lines(self) -> Iterator[str]:
        """The report as lines of text."""
        for file in self.files:
            columns = ", ".join(f"{part} ← {column}" for part, column in file.columns.items())
            unused = f" Not used: {', '.join(file.unused)}." if file.unused else ""
            yield f"{file.name}: {file.shape} ({columns}), {file.rows:,} rows.{unused}"
        yield f"{self.usable:,} of {self.rows:,} rows are usable: {self.train:,} to train on, {self.held_out:,} held out."
        for one in self.lengths:
            median = f"{one.median:,} {one.unit} at the median"
            yield f"{one.part}: {median}, 95 % up to {one.p95:,}, at most {one.longest:,}."
        yield from self.notes
        for finding in self.findings:
            yield from finding.as_lines()
        yield from self.blocked
