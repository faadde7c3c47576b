"""Which rows a run trains on, holds out and leaves out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import orjson

from trainer_core.data import split
from trainer_core.data.files.raw_rows import Flaw
from trainer_core.data.quality import text_patterns
from trainer_core.data.quality.checks import FAULTS, text_of
from trainer_core.data.quality.lengths import row_lengths
from trainer_core.data.quality.remedies import Treatment, too_marked
from trainer_core.data.quality.report import ASIDE, named
from trainer_core.data.schema.messages import Chat, Item, Message, Pair, as_chat, opening, prompt_key, prompts_of
from trainer_core.data.stream import Count, Counts, Example, Found, LeftAside, Misfit, News, Note, Request, examples
from trainer_core.errors import DataError
from trainer_core.system.project import PROJECT

if TYPE_CHECKING:
    from trainer_core.config import recipe

SAMPLE_DATA = PROJECT / "assets" / "sample_data"
UNUSED = ("tools", "pictures", "reasoning", "weight_zero", "unanswered")
"""Faults of rows that are used all the same, which a run tells of."""
NAMED = 5
"""Rows named in one sentence; a longer list would not be read."""


@dataclass(frozen=True)
class Loaded:
    """The rows of a run, with notes on what was left out. `sha256` is over the rows: equal rows, equal hash."""

    chats: tuple[Chat, ...]
    pairs: tuple[Pair, ...]
    held_out: tuple[Pair, ...]
    held_out_chats: tuple[Chat, ...]
    notes: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Part:
    """Rows to train on, rows held out, and the notes on the rest."""

    train: tuple[Item, ...] = ()
    held_out: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()


class Here:
    """Reads in this process, which must be the limited child."""

    def ask(self, request: Request) -> Iterator[News]:
        return examples(request.absolute())


def counted(asked: Count) -> Counts:
    """What a run would train on, in numbers. For the child; see `count`."""
    from trainer_core.methods.base import Lengths

    rows = chosen(asked.data, asked.method, Shelf(Here(), asked.data))
    extents = {"sft": row_lengths(rows.chats, asked.tokenizer), "dpo": row_lengths(rows.pairs, asked.tokenizer)}
    needs = {stage: tuple(sorted(need for need, _ in found)) for stage, found in extents.items() if found}
    wholes = {stage: tuple(sorted(whole for _, whole in found)) for stage, found in extents.items() if found}
    points = {stage: Lengths.of(found).points for stage, found in wholes.items()}
    measured, held_out = asked.tokenizer is not None, len(rows.held_out)
    return Counts(len(rows.chats), len(rows.pairs), held_out, rows.notes, points, measured, needs, wholes)


def chosen(data: recipe.Data, method: recipe.Method, shelf: Shelf) -> Loaded:
    """The rows of a run, read from the shelf; see `load`."""
    dpo, sft = "dpo" in method.stages, "sft" in method.stages
    pairs = preferences(data, dpo, shelf)
    examples = conversations(data, pairs, shelf) if sft else Part()
    for wanted, part, what in ((dpo, pairs, "preference pairs"), (sft, examples, "examples")):
        if wanted and not part.train:
            raise DataError(f"No {what} are left to train on. " + " ".join((*pairs.notes, *examples.notes)))
    train = tuple(item for item in pairs.train if isinstance(item, Pair)) if dpo else ()
    held_out = tuple(item for item in pairs.held_out if isinstance(item, Pair))
    chats, out_chats = chats_of(examples.train), chats_of(examples.held_out)
    notes = tuple(dict.fromkeys(pairs.notes + examples.notes))
    return Loaded(chats, train, held_out, out_chats, notes, digest(chats, train, held_out, out_chats))


def preferences(data: recipe.Data, needed: bool, shelf: Shelf) -> Part:
    """The pairs and those held out; none to train on where SFT has examples of its own and DPO is not asked for.

    Raises:
        DataError: `needed` and the file holds chats.
    """
    apart = held_out_file(data)
    held_out = shelf.read(apart, None, Pair, ()) if apart else Part()
    if data.pairs is None or not (needed or data.chat is None):
        return Part((), held_out.train, held_out.notes)
    rows = shelf.read(located(data.pairs, "sample_pairs.jsonl"), data.pair_rows, Pair if needed else None, data.steps)
    if apart is None:
        return divided(rows, "pairs" if needed else "examples")
    kept, note = without(rows.train, held_out.train, "pairs")
    return Part(kept, held_out.train, rows.notes + held_out.notes + note)


def conversations(data: recipe.Data, pairs: Part, shelf: Shelf) -> Part:
    """The examples of SFT, without those whose prompt is among the held-out pairs."""
    if data.chat is None:
        return pairs
    rows = shelf.read(located(data.chat, "sample_chat.jsonl"), data.chat_rows, None, data.steps)
    kept, note = without(rows.train, pairs.held_out, "examples")
    return divided(Part(kept, (), rows.notes + note), "examples")


def held_out_file(data: recipe.Data) -> Path | None:
    """Where the held-out pairs are, if they have a file of their own."""
    from trainer_core.config.recipe import SAMPLE

    if data.held_out:
        return located(data.held_out, "sample_heldout.jsonl")
    sample = data.pairs == SAMPLE and data.chat in (None, SAMPLE)
    return located(SAMPLE, "sample_heldout.jsonl") if sample else None


def located(name: str, bundled: str) -> Path:
    from trainer_core.config.recipe import SAMPLE

    return SAMPLE_DATA / bundled if name == SAMPLE else Path(os.path.expanduser(name))


def divided(rows: Part, what: str) -> Part:
    """The rows with some of them held out by the hash of their prompt."""
    train, held_out = split.split(rows.train, lambda item: prompt_key(opening(item)))
    note = f"{len(held_out)} of {len(rows.train)} {what} are held out and never trained on."
    if not held_out:
        note = f"Nothing is held out of {len(rows.train)} {what}: too few different prompts."
    return Part(train, held_out, (*rows.notes, note))


def without(rows: Sequence[Item], held_out: Iterable[Item], what: str) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """The rows that answer no held-out prompt, and a note on the others."""
    closed = {prompt_key(prompt) for item in held_out for prompt in prompts_of(item)}
    kept = tuple(row for row in rows if closed.isdisjoint(prompt_key(prompt) for prompt in prompts_of(row)))
    lost = len(rows) - len(kept)
    return kept, ((f"{lost} of {len(rows)} {what} left out: their prompt is held out.",) if lost else ())


class Asked(Protocol):
    """Whoever answers a request with what is in the files: a limited child, or that child itself."""

    def ask(self, request: Request, /) -> Iterator[News]: ...


@dataclass(frozen=True)
class Shelf:
    """Where files are read from: one limited child for all of them, and the columns of the recipe's own file."""

    reader: Asked
    data: recipe.Data

    def read(self, path: Path, rows: int | None, wanted: type[Pair] | None, steps: Sequence[str]) -> Part:
        """The usable items of a file or folder after the steps, with notes on the others.

        Raises:
            DataError: see `Reader.ask`; also damaged lines, another template's markers, and chats where pairs are `wanted`.
        """
        tally, treatment, items = Tally(path.name), Treatment(steps), list[Item]()
        for news in self.reader.ask(Request(path, self.columns(path), rows)):
            tally.add(news)
            if isinstance(news, Found) and wanted and news.shape.kind != "pairs":
                raise no_pairs(news)
            if isinstance(news, Example):
                outcome = treatment.apply(news)
                if outcome.left_out:
                    tally.leave_out(FAULTS[outcome.left_out].meaning, news)
                else:
                    items.append(outcome.item)
                    tally.tell(outcome.faults, news)
        tally.check_damage(treatment.skip_damaged)
        if why := too_marked(sum(text_patterns.has_markers(text_of(item)) for item in items), len(items), path.name):
            raise DataError(why)
        return Part(tuple(items), (), tuple(tally.notes()))

    def columns(self, path: Path) -> recipe.Columns | None:
        """The columns chosen by hand, if they were chosen for this file. Held-out pairs have those of the pairs."""
        mapped = self.data.mapped
        same = (mapped, self.data.held_out) if mapped == self.data.pairs else (mapped,)
        return self.data.columns if mapped and path in [located(name, "") for name in same if name] else None


def no_pairs(found: Found) -> DataError:
    return DataError(
        f"{found.file}: no rejected column. It holds {found.shape.name}: enough for SFT, but DPO needs a prompt, "
        "a chosen and a rejected answer in each row. Train SFT alone, or make pairs by voting in Compare."
    )


class Tally:
    """What is said about one source: its notes, and the rows left out by reason."""

    def __init__(self, name: str) -> None:
        self.name, self.total, self.said = name, 0, list[str]()
        self.reasons: dict[str, list[str]] = {}
        self.told: dict[str, list[str]] = {}
        self.aside: list[LeftAside] = []
        self.damaged: list[Flaw] = []

    def add(self, news: News) -> None:
        self.total += isinstance(news, Example | Misfit)
        match news:
            case Note():
                self.said.append(news.text)
            case Flaw():
                self.damaged.append(news)
            case Misfit():
                self.leave_out(news.reason, news)
            case LeftAside():
                self.aside.append(news)

    def leave_out(self, reason: str, row: Example | Misfit) -> None:
        self.reasons.setdefault(reason, []).append(at(row))

    def tell(self, faults: Iterable[str], row: Example) -> None:
        """A row that is used, though not all of it."""
        for code in faults:
            if code in UNUSED:
                self.told.setdefault(code, []).append(at(row))

    def notes(self) -> Iterator[str]:
        """Such as "2 of 400 rows in x.jsonl left out (line 3, line 17): the prompt is empty."."""
        yield from self.said
        for reason, places in self.reasons.items():
            yield f"{len(places)} of {self.total} rows in {self.name} left out ({listed(places)}): {reason}."
        for code, places in self.told.items():
            yield f"{len(places)} of {self.total} rows in {self.name} ({listed(places)}): {FAULTS[code].meaning}."
        for code in dict.fromkeys(one.code for one in self.aside if one.code in ASIDE):
            several = [one for one in self.aside if one.code == code]
            counts = {one.name: sum(each.count for each in several if each.name == one.name) for one in several}
            yield f"{self.name} ({at(several[0])}): {ASIDE[code][2].format(names=named(counts))}."

    def check_damage(self, skip: bool) -> None:
        """Where lines could not be read, what they held is not known: they are passed over only on request.

        Raises:
            DataError: the first damaged lines, unless `skip`.
        """
        if not self.damaged:
            return
        lines = "\n".join(map(str, self.damaged[:NAMED]))
        count = f"{len(self.damaged)} damaged {'line' if len(self.damaged) == 1 else 'lines'} in {self.name}"
        fatal = self.damaged[-1].fatal
        if fatal or not skip:
            way_out = "" if fatal else ', or pass over it with the step "skip_damaged"'
            raise DataError(f"{lines}\n{count}. Mend or remove it{way_out}.")
        self.said.append(f"{count} passed over. {self.damaged[0]}")


def at(row: Example | Misfit | LeftAside) -> str:
    return f"line {row.line}" if row.line else f"row {row.row}"


def listed(places: Sequence[str]) -> str:
    return ", ".join(places[:NAMED]) + (", …" if len(places) > NAMED else "")


def chats_of(items: Iterable[Item]) -> tuple[Chat, ...]:
    """Conversations, where a pair stands for its chosen answer."""
    return tuple(as_chat(item) if isinstance(item, Pair) else item for item in items)


def digest(*parts: Sequence[Item]) -> str:
    """SHA-256 over all rows as JSON lines, part by part, in order."""
    sha = hashlib.sha256()
    for part in parts:
        for item in part:
            sha.update(orjson.dumps(canonical(item), option=orjson.OPT_APPEND_NEWLINE))
        sha.update(b"\n")
    return sha.hexdigest()


def canonical(item: Item) -> list[list[list[str]]]:
    parts: tuple[tuple[Message, ...], ...] = (
        (item.messages,) if isinstance(item, Chat) else (item.prompt, item.chosen, item.rejected)
    )
    return [[[message.role, message.content, *choices(message)] for message in part] for part in parts]


def choices(message: Message) -> list[str]:
    """What else of a message decides what is learned; nothing for most, so that their hash stays what it was."""
    if message.learned and not message.reasoning:
        return []
    return [str(message.learned), message.reasoning, str(message.learn_reasoning)]
