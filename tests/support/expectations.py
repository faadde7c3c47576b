"""What a folder says of its cases: `expected.json`, or the sentences of `expected.md`.

`expected.json`: file → any of `used` and `left_out` (rows), `kind` ("pairs" or "chats"), `turns` (of the first row), `words`
(texts in the first row), `refused` (true, false, or "may"), `said` (texts in what is said of the file).

`expected.md`: a point "- `file`: …" for each file. What follows "Today" tells what went wrong once. Before it, these are read:
"12 pairs", "12 usable chats of four turns", "80 rows", "none usable"; a text or a number after "is", "begins", "=" or a role;
"reads", "must be refused", "is not valid", "the refusal". What else it says is for people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tests.support.case_rows import Case, item_lines
from trainer_core.data import Chat, Pair

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
COUNT = re.compile(r"\b(\d[\d,]*)\s+(?:[a-z]+\s+)?(pairs|chats|rows)\b")
TURNS = re.compile(r"\bchats of (\w+) turns\b")
WORDS = re.compile(r'(?:\bis|\bbegins|=|\bsystem|\buser|\bassistant) (?:"([^"]+)"|(\d{5,})\b)')
POINT = re.compile(r"^- `([^`]+)`(.*?)(?=^- |\Z)", re.MULTILINE | re.DOTALL)
NONE_USABLE = re.compile(r"\bnone (?:is |are )?usable\b")
REFUSALS: dict[str, bool | Literal["may"]] = {
    r"\bmust be refused\b|\bis not valid\b": True,
    r"\brefusal\b": "may",
    r"\breads\b": False,
}
"""Words of a sentence → whether the file is refused; the first that occur count."""


@dataclass(frozen=True)
class Expectation:
    """What must come of one file; None or empty: nothing is said of that."""

    used: int | None = None
    left_out: int | None = None
    kind: str = ""
    turns: int | None = None
    words: tuple[str, ...] = ()
    refused: bool | Literal["may"] | None = None
    said: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return self == Expectation()

    def differences(self, case: Case) -> Iterator[str]:
        """What came of the file instead."""
        if case.refused:
            if self.refused in (None, False) and not self.is_empty:
                yield f"refused: {case.refused}"
            return
        if self.refused is True:
            yield "it was not refused"
        left_out = sum(map(len, case.left_out.values()))
        for name, wanted, found in (("used", self.used, len(case.used)), ("left out", self.left_out, left_out)):
            if wanted is not None and wanted != found:
                yield f"{found} rows {name} instead of {wanted}"
        yield from self.differences_of_first(case) if case.used else ()
        told = "\n".join(map(str, (*case.left_out, *case.said)))
        yield from (f"{words!r} is not said" for words in self.said if words not in told)

    def differences_of_first(self, case: Case) -> Iterator[str]:
        kinds = {"chats": Chat, "pairs": Pair}
        if self.kind in kinds and not isinstance(case.first, kinds[self.kind]):
            yield f"{case.shape} instead of {self.kind}"
        if isinstance(case.first, Chat) and self.turns not in (None, len(case.first.messages)):
            yield f"{len(case.first.messages)} turns instead of {self.turns}"
        first = "\n".join(item_lines(case.first, letters=10_000))
        yield from (f"{words!r} is not in the first row" for words in self.words if words not in first)


def read_expectations(folder: Path) -> dict[str, Expectation]:
    """File of the folder → what is expected of it."""
    if (folder / "expected.json").exists():
        stated = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        return {name: from_values(values) for name, values in stated.items()}
    text = (folder / "expected.md").read_text(encoding="utf-8") if (folder / "expected.md").exists() else ""
    return {name: from_sentences(words) for name, words in POINT.findall(text) if (folder / name).exists()}


def from_values(values: dict[str, Any]) -> Expectation:
    """Raises ValueError if there is a name that is none."""
    if unknown := values.keys() - {one.name for one in fields(Expectation)}:
        raise ValueError(f"no such expectation: {', '.join(sorted(unknown))}")
    return Expectation(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def from_sentences(text: str) -> Expectation:
    right = text.partition("Today")[0]
    count, turns = COUNT.search(right), TURNS.search(right)
    used = int(count[1].replace(",", "")) if count else None
    kind = count[2].replace("rows", "") if count else ""
    words = tuple((quoted or digits).partition("…")[0].strip() for quoted, digits in WORDS.findall(right))
    return Expectation(
        used=0 if NONE_USABLE.search(right) else used,
        kind=kind,
        turns=NUMBERS.get(turns[1]) if turns else None,
        words=words,
        refused=next((refused for words, refused in REFUSALS.items() if re.search(words, right)), None),
    )
