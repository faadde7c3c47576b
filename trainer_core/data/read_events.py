"""What reading a file says, row by row, one class for each kind of event."""

from __future__ import annotations

from dataclasses import dataclass

from trainer_core.data.files.raw_rows import UnreadableRow, row_place
from trainer_core.data.schema.data_schema import DataSchema
from trainer_core.data.schema.messages import Item
from trainer_core.texts import Text


@dataclass(frozen=True)
class FileNote:
    """A sentence about a file that is no row's fault: its encoding, or files left aside."""

    text: Text


@dataclass(frozen=True)
class SchemaDetected:
    """A file begins: what it is and what its rows become."""

    file: str
    format: str
    shape: DataSchema


@dataclass(slots=True)
class UsableRow:
    """One usable row. Not frozen like the others, since there is one for each row and a frozen one takes four times as long."""

    file: str
    row: int
    line: int | None
    item: Item
    margin: float | None = None
    """Score of the chosen answer less that of the rejected one, where the file has such columns."""
    marks: tuple[str, ...] = ()
    """Codes of faults that the item no longer shows: "tools", "pictures"."""


@dataclass(frozen=True)
class UnusableRow:
    """A row that was read but does not fit the shape. `code` groups rows with the same fault."""

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
    """Bytes of the file read so far."""

    file: str
    bytes: int
    of: int
    rows: int


@dataclass(frozen=True)
class IgnoredContent:
    """What was not used of the rows of a file, or not as the file says: in how many rows, and the first of them.

    code: see `report.ASIDE`; name: the column or field.
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
