"""A data file as training would get it: rows used, rows left out and why, what else is said of it, the first row as trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer_core import data
from trainer_core.data.quality.checks import QUALITY_CHECKS
from trainer_core.data.quality.remedies import RemedyPipeline
from trainer_core.data.read_events import SchemaDetected, UsableRow
from trainer_core.data.schema.messages import Chat, Item, Message
from trainer_core.data.select import SkipLog, short_place
from trainer_core.data.stream import ReadRequest
from trainer_core.errors import UserError
from trainer_core.texts import Text, verbatim

LETTERS = 300
"""Shown of one text."""


@dataclass
class Case:
    """One data file as training would get it. `left_out`: reason -> where; `said`: every note on the file."""

    path: Path
    refused: str = ""
    shape: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    used: list[Item] = field(default_factory=list)
    left_out: dict[Text, list[str]] = field(default_factory=dict)
    said: list[Text] = field(default_factory=list)

    @property
    def first(self) -> Item:
        return self.used[0]


def read(path: Path, steps: Sequence[str] = ()) -> Case:
    """The rows of a file after the steps, read in the limited child."""
    case, tally, treatment = Case(path), SkipLog(path.name), RemedyPipeline(steps)
    try:
        with data.SandboxReader() as reader:
            for news in reader.ask(ReadRequest(path)):
                tally.add(news)
                if isinstance(news, SchemaDetected):
                    case.shape, case.columns = news.shape.name, news.shape.columns
                if isinstance(news, UsableRow):
                    outcome = treatment.apply(news)
                    if outcome.left_out:
                        tally.leave_out(QUALITY_CHECKS[outcome.left_out].meaning, news)
                    else:
                        case.used.append(outcome.item)
                        tally.add_unused(outcome.faults, news)
    except UserError as error:
        case.refused = str(error)
    case.left_out = {why: [str(short_place(*at)) for at in places] for why, places in tally.reasons.items()}
    if tally.damaged:
        case.left_out[verbatim("cannot be read")] = [*map(str, tally.damaged)]
    case.said = list(tally.format_notes())
    return case


def lines(case: Case) -> Iterator[str]:
    """A case for people."""
    yield f"== {case.path}"
    if case.refused:
        yield f"refused: {case.refused}"
        return
    columns = ", ".join(f"{part} ← {column}" for part, column in case.columns.items())
    yield f"{case.shape} ({columns})"
    yield f"{len(case.used)} rows used, {sum(map(len, case.left_out.values()))} left out"
    for reason, places in case.left_out.items():
        yield f"  {len(places)} left out, such as {places[0]}: {reason}"
    for note in case.said:
        yield f"  {note}"
    if case.used:
        yield "first row as trained:"
        yield from item_lines(case.first)


def item_lines(item: Item, letters: int = LETTERS) -> Iterator[str]:
    """A row's turns with what is learned of them; of a pair, DPO learns both sides against each other."""
    if isinstance(item, Chat):
        yield from (f"  {line}" for one in item.messages for line in turn_lines(one, one.role == "assistant", letters))
        return
    yield from (f"  prompt, {line}" for one in item.prompt for line in turn_lines(one, False, letters))
    for name, side in (("chosen", item.chosen), ("rejected", item.rejected)):
        yield from (f"  {name}, {line}" for one in side for line in turn_lines(one, True, letters))


def turn_lines(message: Message, answer: bool, letters: int) -> Iterator[str]:
    if message.reasoning:
        yield f"{message.role} thinks ({'learned' if message.learn_reasoning else 'read'}): {message.reasoning[:letters]}"
    yield f"{message.role} ({'learned' if answer and message.learned else 'read'}): {message.content[:letters]}"
