"""Events of reading a file, one class for each kind."""

from __future__ import annotations

from dataclasses import dataclass

from trainer_core.data.files.raw_rows import UnreadableRow, row_place
from trainer_core.data.schema.data_schema import DataSchema
from trainer_core.data.schema.messages import Item
from trainer_core.texts import Text


@dataclass(frozen=True)
class FileNote:
    """A note about a file as a whole: its encoding, or skipped files."""

    text: Text


@dataclass(frozen=True)
class SchemaDetected:
    """Start of a file: its format and its schema."""

    file: str
    format: str
    shape: DataSchema


@dataclass(slots=True)
class UsableRow:
    """One usable row. Not frozen: there is one per row, and a frozen one takes four times as long."""

    file: str
    row: int
    line: int | None
    item: Item
    margin: float | None = None
    """Score of the chosen answer minus that of the rejected one, if the file has score columns."""
    marks: tuple[str, ...] = ()
    """Codes of faults no longer visible in the item: "tools", "pictures"."""


@dataclass(frozen=True)
class UnusableRow:
    """A row that was read but does not fit the schema. `code` groups rows with the same fault."""

    file: str
    row: int
    line: int | None
    code: str
    reason: Text

    @property
    def text(self) -> Text:
        return Text("rows.fault", place=row_place(self.file, self.row, self.line), reason=self.reason)

    def __str__(self) -> str:
        return str(self.text)


@dataclass(frozen=True)
class ReadProgress:
    file: str
    bytes: int
    of: int
    rows: int


@dataclass(frozen=True)
class IgnoredContent:
    """Content of a file's rows that is unused, or used differently from the file: number of rows, and the first one.

    code: see `report.IGNORED_CONTENT`; name: the column or field.
    """

    file: str
    code: str
    name: str
    count: int
    row: int
    line: int | None
    snippet: str


ReadEvent = FileNote | SchemaDetected | ReadProgress | UsableRow | UnreadableRow | UnusableRow | IgnoredContent
ROW_EVENTS = (UsableRow, UnreadableRow, UnusableRow)
