"""Selects the rows that a run trains on, holds out and leaves out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from trainer_core.data import split
from trainer_core.data.files.raw_rows import UnreadableRow
from trainer_core.data.quality import text_patterns
from trainer_core.data.quality.checks import QUALITY_CHECKS, row_text
from trainer_core.data.quality.lengths import row_lengths
from trainer_core.data.quality.remedies import RemedyPipeline, marker_problem
from trainer_core.data.quality.report import IGNORED_CONTENT, ignored_meaning
from trainer_core.data.read_events import FileNote, IgnoredContent, ReadEvent, SchemaDetected, UnusableRow, UsableRow
from trainer_core.data.schema.messages import (
    Chat,
    Item,
    Message,
    Pair,
    as_chat,
    opening_messages,
    prompt_key,
    prompts_of,
)
from trainer_core.data.stream import CountRequest, ReadRequest, RowCounts, stream_rows
from trainer_core.errors import DataError
from trainer_core.system.project import PROJECT, expand_home
from trainer_core.texts import Text

if TYPE_CHECKING:
    from trainer_core.config import recipe
    from trainer_core.methods.base import RowKind

SAMPLE_DATA = PROJECT / "assets" / "sample_data"
REPORTED_CODES = ("tools", "pictures", "reasoning", "weight_zero", "unanswered")
"""Faults of rows that are still used, which a run reports."""
MAX_NAMED_ROWS = 5
"""Rows named in one sentence; a longer list is unreadable."""
PAIRS, EXAMPLES = Text("selection.pairs"), Text("selection.examples")
RowPlace = tuple[int, int | None]
"""A row and its line."""


@dataclass(frozen=True)
class LoadedData:
    """The rows of a run, with notes on rows left out. `sha256` is over the rows: equal rows, equal hash."""

    chats: tuple[Chat, ...]
    pairs: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    held_out_chats: tuple[Chat, ...]
    notes: tuple[Text, ...]
    sha256: str

    def rows_of(self, kind: RowKind) -> tuple[Chat, ...] | tuple[Pair, ...]:
        return self.chats if kind == "chat" else self.pairs


@dataclass(frozen=True)
class SelectedRows:
    """Rows to train on, held-out rows, and notes on the rest."""

    train: tuple[Item, ...] = ()
    held_out: tuple[Item, ...] = ()
    notes: tuple[Text, ...] = ()


class InProcessReader:
    """Reads in this process, which must be the limited child."""

    def ask(self, request: ReadRequest) -> Iterator[ReadEvent]:
        return stream_rows(request.with_absolute_paths())


def count_selected_rows(asked: CountRequest) -> RowCounts:
    """Row counts of a run. Runs in the child; see `load.count_rows`."""
    from trainer_core.config.recipe import METHODS
    from trainer_core.methods.base import LengthQuantiles

    rows = select_rows(asked.data, asked.method, RowSource(InProcessReader(), asked.data))
    given = {stage: rows.rows_of(METHODS[stage].rows) for stage in asked.method.stages}
    extents = {stage: row_lengths(found, asked.tokenizer) for stage, found in given.items()}
    needs = {stage: tuple(sorted(need for need, _ in found)) for stage, found in extents.items() if found}
    wholes = {stage: tuple(sorted(whole for _, whole in found)) for stage, found in extents.items() if found}
    points = {stage: LengthQuantiles.from_counts(found).points for stage, found in wholes.items()}
    counts = {stage: len(found) for stage, found in given.items()}
    return RowCounts(counts, len(rows.held_out), rows.notes, points, asked.tokenizer is not None, needs, wholes)


def select_rows(data: recipe.Data, method: recipe.MethodChain, shelf: RowSource) -> LoadedData:
    """The rows of a run, read from the source; see `load_data`."""
    from trainer_core.config.recipe import METHODS

    kinds = {METHODS[stage].rows for stage in method.stages}
    by_chats, by_pairs = "chat" in kinds, "pairs" in kinds
    pairs = select_pairs(data, by_pairs, shelf)
    examples = select_chats(data, pairs, shelf) if by_chats else SelectedRows()
    for wanted, part, what in ((by_pairs, pairs, PAIRS), (by_chats, examples, EXAMPLES)):
        if wanted and not part.train:
            raise DataError("selection.none_left", what=what, notes=" ".join(map(str, pairs.notes + examples.notes)))
    train = tuple(item for item in pairs.train if isinstance(item, Pair)) if by_pairs else ()
    held_out = tuple(item for item in pairs.held_out if isinstance(item, Pair))
    chats, out_chats = chats_of(examples.train), chats_of(examples.held_out)
    notes = tuple(dict.fromkeys(pairs.notes + examples.notes))
    return LoadedData(chats, train, held_out, out_chats, notes, rows_hash(chats, train, held_out, out_chats))


def select_pairs(data: recipe.Data, needed: bool, shelf: RowSource) -> SelectedRows:
    """The training pairs and the held-out ones; no training pairs if SFT has its own examples and no stage needs pairs.

    Raises:
        DataError: `needed`, but the file holds chats.
    """
    apart = held_out_file(data)
    held_out = shelf.read_rows(apart, None, Pair, ()) if apart else SelectedRows()
    if data.pairs is None or not (needed or data.chat is None):
        return SelectedRows((), held_out.train, held_out.notes)
    rows = shelf.read_rows(
        data_path(data.pairs, "sample_pairs.jsonl"), data.pair_rows, Pair if needed else None, data.steps
    )
    if apart is None:
        return hold_out_rows(rows, PAIRS if needed else EXAMPLES)
    kept, note = exclude_held_out(rows.train, held_out.train, PAIRS)
    return SelectedRows(kept, held_out.train, rows.notes + held_out.notes + note)


def select_chats(data: recipe.Data, pairs: SelectedRows, shelf: RowSource) -> SelectedRows:
    """The examples of SFT, without those that share a prompt with the held-out pairs."""
    if data.chat is None:
        return pairs
    rows = shelf.read_rows(data_path(data.chat, "sample_chat.jsonl"), data.chat_rows, None, data.steps)
    kept, note = exclude_held_out(rows.train, pairs.held_out, EXAMPLES)
    return hold_out_rows(SelectedRows(kept, (), rows.notes + note), EXAMPLES)


def held_out_file(data: recipe.Data) -> Path | None:
    """The separate file of held-out pairs, if any."""
    from trainer_core.config.recipe import SAMPLE

    if data.held_out:
        return data_path(data.held_out, "sample_heldout.jsonl")
    sample = data.pairs == SAMPLE and data.chat in (None, SAMPLE)
    return data_path(SAMPLE, "sample_heldout.jsonl") if sample else None


def data_path(name: str, bundled: str) -> Path:
    from trainer_core.config.recipe import SAMPLE

    return SAMPLE_DATA / bundled if name == SAMPLE else expand_home(name)


def hold_out_rows(rows: SelectedRows, what: Text) -> SelectedRows:
    """The rows, with some held out by the hash of their prompt."""
    train, held_out = split.split_rows(rows.train, lambda item: prompt_key(opening_messages(item)))
    note = Text("selection.held_out", rows=len(held_out), total=len(rows.train), what=what)
    if not held_out:
        note = Text("selection.none_held_out", total=len(rows.train), what=what)
    return SelectedRows(train, held_out, (*rows.notes, note))


def exclude_held_out(
    rows: Sequence[Item], held_out: Iterable[Item], what: Text
) -> tuple[tuple[Item, ...], tuple[Text, ...]]:
    """The rows without held-out prompts, and a note on the others."""
    closed = {prompt_key(prompt) for item in held_out for prompt in prompts_of(item)}
    kept = tuple(row for row in rows if closed.isdisjoint(prompt_key(prompt) for prompt in prompts_of(row)))
    note = Text("selection.same_prompt", rows=len(rows) - len(kept), total=len(rows), what=what)
    return kept, (() if len(kept) == len(rows) else (note,))


class RowReader(Protocol):
    """Answers a request with the files' content: a limited child, or that child itself."""

    def ask(self, request: ReadRequest, /) -> Iterator[ReadEvent]: ...


@dataclass(frozen=True)
class RowSource:
    """Reads all files through one limited child, with the columns of the recipe's own file."""

    reader: RowReader
    data: recipe.Data

    def read_rows(self, path: Path, rows: int | None, wanted: type[Pair] | None, steps: Sequence[str]) -> SelectedRows:
        """The usable items of a file or folder after the steps, with notes on the others.

        Raises:
            DataError: see `SandboxReader.ask`; also damaged lines, another template's markers, chats if pairs are `wanted`.
        """
        tally, treatment, items = SkipLog(path.name), RemedyPipeline(steps), list[Item]()
        for news in self.reader.ask(ReadRequest(path, self.columns_for(path), rows, encoding=self.data.encoding)):
            tally.add(news)
            if isinstance(news, SchemaDetected) and wanted and news.shape.kind != "pairs":
                raise no_pairs_error(news)
            if isinstance(news, UsableRow):
                outcome = treatment.apply(news)
                if outcome.left_out:
                    tally.leave_out(QUALITY_CHECKS[outcome.left_out].meaning, news)
                else:
                    items.append(outcome.item)
                    tally.add_unused(outcome.faults, news)
        tally.check_damage(treatment.skip_damaged)
        if why := marker_problem(
            sum(text_patterns.has_markers(row_text(item)) for item in items), len(items), path.name
        ):
            raise DataError(why)
        return SelectedRows(tuple(items), (), tuple(tally.format_notes()))

    def columns_for(self, path: Path) -> recipe.Columns | None:
        """The manual column mapping, if it applies to this file. Held-out pairs share that of the pairs."""
        mapped = self.data.columns_file
        same = (mapped, self.data.held_out) if mapped == self.data.pairs else (mapped,)
        return self.data.columns if mapped and path in [data_path(name, "") for name in same if name] else None


def no_pairs_error(found: SchemaDetected) -> DataError:
    return DataError("selection.no_pairs", file=found.file, shape=found.shape.name)


class SkipLog:
    """Messages about one source: its notes, and the skipped rows by reason."""

    def __init__(self, name: str) -> None:
        self.name, self.total, self.said = name, 0, list[Text]()
        self.reasons: dict[Text, list[RowPlace]] = {}
        self.told: dict[str, list[RowPlace]] = {}
        self.aside: list[IgnoredContent] = []
        self.damaged: list[UnreadableRow] = []

    def add(self, news: ReadEvent) -> None:
        self.total += isinstance(news, UsableRow | UnusableRow)
        match news:
            case FileNote():
                self.said.append(news.text)
            case UnreadableRow():
                self.damaged.append(news)
            case UnusableRow():
                self.leave_out(news.reason, news)
            case IgnoredContent():
                self.aside.append(news)

    def leave_out(self, reason: Text, row: UsableRow | UnusableRow) -> None:
        self.reasons.setdefault(reason, []).append((row.row, row.line))

    def add_unused(self, faults: Iterable[str], row: UsableRow) -> None:
        """Record a row that is used, but not fully."""
        for code in faults:
            if code in REPORTED_CODES:
                self.told.setdefault(code, []).append((row.row, row.line))

    def format_notes(self) -> Iterator[Text]:
        """Such as "2 of 400 rows in x.jsonl left out (line 3, line 17): the prompt is empty."."""
        yield from self.said
        for reason, places in self.reasons.items():
            yield Text("selection.left_out", **self.describe_rows(places), reason=reason)
        for code, places in self.told.items():
            yield Text("selection.fault", **self.describe_rows(places), meaning=QUALITY_CHECKS[code].meaning)
        for code in dict.fromkeys(one.code for one in self.aside if one.code in IGNORED_CONTENT):
            several = [one for one in self.aside if one.code == code]
            counts = {one.name: sum(each.count for each in several if each.name == one.name) for one in several}
            place, meaning = short_place(several[0].row, several[0].line), ignored_meaning(code, counts)
            yield Text("selection.ignored", file=self.name, place=place, meaning=meaning)

    def describe_rows(self, places: Sequence[RowPlace]) -> dict[str, Any]:
        return {"rows": len(places), "total": self.total, "file": self.name, "places": join_places(places)}

    def check_damage(self, skip: bool) -> None:
        """Refuse damaged lines, whose content is unknown, unless asked to skip them.

        Raises:
            DataError: the first damaged lines, unless `skip`.
        """
        if not self.damaged:
            return
        about: dict[str, Any] = {"lines": len(self.damaged), "file": self.name}
        faults = "\n".join(map(str, self.damaged[:MAX_NAMED_ROWS]))
        if self.damaged[-1].fatal:
            raise DataError("selection.broken_off", faults=faults, **about)
        if not skip:
            raise DataError("selection.damaged", faults=faults, **about)
        self.said.append(Text("selection.skipped", first=self.damaged[0].text, **about))


def short_place(row: int, line: int | None) -> Text:
    return Text("selection.line", line=line) if line else Text("selection.row", row=row)


def join_places(places: Sequence[RowPlace]) -> str:
    named = ", ".join(str(short_place(*place)) for place in places[:MAX_NAMED_ROWS])
    return f"{named}, …" if len(places) > MAX_NAMED_ROWS else named


def chats_of(items: Iterable[Item]) -> tuple[Chat, ...]:
    """Conversations; a pair becomes its chosen answer."""
    return tuple(as_chat(item) if isinstance(item, Pair) else item for item in items)


def rows_hash(*parts: Sequence[Item]) -> str:
    """SHA-256 over all rows as JSON lines, part by part, in order."""
    sha = hashlib.sha256()
    for part in parts:
        for item in part:
            sha.update(orjson.dumps(hashable_row(item), option=orjson.OPT_APPEND_NEWLINE))
        sha.update(b"\n")
    return sha.hexdigest()


def hashable_row(item: Item) -> list[list[list[str]]]:
    parts: tuple[tuple[Message, ...], ...] = (
        (item.messages,) if isinstance(item, Chat) else (item.prompt, item.chosen, item.rejected)
    )
    return [[[message.role, message.content, *learning_flags(message)] for message in part] for part in parts]


def learning_flags(message: Message) -> list[str]:
    """Further fields that decide what is learned; empty for most messages, which keeps older hashes valid."""
    if message.learned and not message.reasoning:
        return []
    return [str(message.learned), message.reasoning, str(message.learn_reasoning)]
