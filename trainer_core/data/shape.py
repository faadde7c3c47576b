"""Which known shape a file has. It is found by the columns and what is in them, never by the file's name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from trainer_core.data import dialects
from trainer_core.data.cells import Structure, Values, structure
from trainer_core.data.convert import to_chat, to_pair
from trainer_core.data.rows import Item
from trainer_core.errors import DataError

if TYPE_CHECKING:
    from trainer_core.config import Columns

Kind = Literal["chat", "pairs"]
Allowed = frozenset[Structure]

NAMES: dict[str, tuple[str, ...]] = {
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
}
"""Part -> the names a column for it may have, likeliest first."""

TEXT: Allowed = frozenset(("text", "transcript", "number"))
TALK: Allowed = frozenset(("message", "messages"))
TURNS: Allowed = frozenset(("messages",))
WHOLE: Allowed = frozenset(("transcript",))
ANY = TEXT | TALK
LABEL: Allowed = frozenset(("truth", "text", "number"))
EXTRAS: dict[str, Allowed] = {"system": TEXT, "input": TEXT, "history": frozenset(("other",))}
NEEDED = "Pairs need prompt, chosen and rejected; chats need messages, or a prompt and an answer"


@dataclass(frozen=True)
class Shape:
    """What was found in a file: a name for people, what a row becomes, and part -> the column it is made of."""

    name: str
    kind: Kind
    columns: dict[str, str]
    unused: tuple[str, ...] = ()
    scores: tuple[str, str] | None = None
    """The columns that score the chosen and the rejected answer, where there are such."""

    def margin(self, values: Values) -> float | None:
        """Score of the chosen answer less that of the rejected one, or None where either is missing."""
        if self.scores is None:
            return None
        try:
            chosen, rejected = (float(values.get(column)) for column in self.scores)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        return chosen - rejected

    def convert(self, values: Values) -> Item:
        """One row as a chat or a pair.

        Raises:
            BadRow: the row lacks a part, or a part is not what it should be.
        """
        return to_pair(values, self.columns) if self.kind == "pairs" else to_chat(values, self.columns)


@dataclass(frozen=True)
class Rule:
    """One known shape: the parts it needs and what each may be. `names` narrows the names of a part's column."""

    name: str
    kind: Kind | Literal["kto"]
    needs: Mapping[str, Allowed]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


SHAREGPT = {"messages": ("conversations", "conversation")}
ALPACA = {"prompt": ("instruction",), "answer": ("output", "response")}
QUESTION = {"prompt": ("question",), "answer": ("answer",)}
RULES = (
    Rule("ShareGPT pairs", "pairs", {"messages": TURNS, "chosen": TALK, "rejected": TALK}, SHAREGPT),
    Rule("preference pairs as messages", "pairs", {"prompt": ANY, "chosen": TALK, "rejected": TALK}),
    Rule("preference pairs as whole conversations", "pairs", {"chosen": TURNS, "rejected": TURNS}),
    Rule("Anthropic HH transcripts", "pairs", {"chosen": WHOLE, "rejected": WHOLE}),
    Rule("preference pairs", "pairs", {"prompt": ANY, "chosen": TEXT, "rejected": TEXT}),
    Rule("preference pairs after a conversation", "pairs", {"messages": TURNS, "chosen": ANY, "rejected": ANY}),
    Rule("scored answers", "pairs", {"prompt": ANY, "scored": frozenset(("scored",))}),
    Rule("KTO", "kto", {"prompt": ANY, "answer": ANY, "label": LABEL}),
    Rule("KTO", "kto", {"messages": TURNS, "label": LABEL}),
    Rule("chat messages", "chat", {"messages": TURNS}),
    Rule("Alpaca", "chat", {"prompt": TEXT, "answer": TEXT}, ALPACA),
    Rule("question and answer", "chat", {"prompt": TEXT, "answer": TEXT}, QUESTION),
    Rule("prompt and completion", "chat", {"prompt": ANY, "answer": ANY}),
    Rule("conversations as text", "chat", {"text": WHOLE}),
    Rule("plain text", "chat", {"text": TEXT}),
)
"""Tried in this order: what needs more comes first."""


def find(sample: Iterable[Values], where: str, given: Columns | None = None) -> Shape:
    """The shape of the rows, or the one that columns given by hand make.

    Raises:
        DataError: nothing known fits, or it is KTO. Names the columns found and those needed.
    """
    rows = list(sample)
    columns = structures(rows)
    if given is not None:
        return by_hand(given, columns, where)
    for rule in RULES:
        found = match(rule, columns)
        if found and rule.kind != "kto":
            return shaped(rule, rule.kind, found, columns, rows)
        if found and says_yes_or_no(rows, found["label"]):
            raise DataError(
                f"{where}: these are single answers with a label (KTO). Tunebench trains on pairs and on chats; "
                "give each prompt a chosen and a rejected answer."
            )
    raise DataError(f"{where}: found {listed(columns)}. {NEEDED}. Say which column is which, or rename them.")


def structures(rows: Iterable[Values]) -> dict[str, Structure]:
    """Column -> what most of its filled cells are. A column that is empty throughout counts as text."""
    seen: dict[str, Counter[Structure]] = {}
    for row in rows:
        for column, value in row.items():
            counts = seen.setdefault(column, Counter())
            if value is not None and value != "" and value != []:
                counts[structure(value)] += 1
    return {column: counts.most_common(1)[0][0] if counts else "text" for column, counts in seen.items()}


def match(rule: Rule, columns: dict[str, Structure]) -> dict[str, str] | None:
    """Part -> column for every part the rule needs, or None where one is missing."""
    found: dict[str, str] = {}
    for part, allowed in rule.needs.items():
        free = {column: kind for column, kind in columns.items() if column not in found.values()}
        column = pick(rule.names.get(part) or NAMES[part], free, allowed)
        if column is None and part == "messages" and not rule.names:
            column = only(free, allowed)
        if column is None:
            return None
        found[part] = column
    return found


def pick(names: tuple[str, ...], columns: dict[str, Structure], allowed: Allowed) -> str | None:
    """The column with the first of the names that is what is allowed; case and separators do not count."""
    simple = {re.sub(r"[\s-]+", "_", column.strip()).casefold(): column for column in columns}
    return next((simple[name] for name in names if name in simple and columns[simple[name]] in allowed), None)


def only(columns: dict[str, Structure], allowed: Allowed) -> str | None:
    """The one column that is what is allowed, whatever its name; None where there are several."""
    fitting = [column for column, kind in columns.items() if kind in allowed]
    return fitting[0] if len(fitting) == 1 else None


def shaped(rule: Rule, kind: Kind, found: dict[str, str], columns: dict[str, Structure], rows: list[Values]) -> Shape:
    """The rule's shape with the parts that may be there too, and the columns left over."""
    for part, allowed in EXTRAS.items() if "text" not in found else ():
        free = {column: its for column, its in columns.items() if column not in found.values()}
        if (column := pick(NAMES[part], free, allowed)) is not None:
            found[part] = column
    unused = tuple(column for column in columns if column not in found.values())
    parts = {part: found[part] for part in NAMES if part in found}
    return Shape(named(rule, found, rows), kind, parts, unused, score_columns(columns) if kind == "pairs" else None)


def score_columns(columns: Mapping[str, Structure]) -> tuple[str, str] | None:
    """The two columns of numbers that score chosen and rejected: score_chosen, chosen_rating and the like."""
    for name in ("score", "rating"):
        for pattern in (f"{name}_{{}}", f"{{}}_{name}"):
            pair = pattern.format("chosen"), pattern.format("rejected")
            if all(columns.get(column) in ("number", "text") for column in pair):
                return pair
    return None


def named(rule: Rule, found: dict[str, str], rows: list[Values]) -> str:
    """The rule's name, more exact where the first row tells: "from" instead of "role", or the dialect of a text."""
    first = {part: next((row[column] for row in rows if row.get(column)), None) for part, column in found.items()}
    if rule.name == "chat messages" and isinstance(first["messages"], list) and "from" in first["messages"][0]:
        return "ShareGPT"
    dialect = dialects.spoken_in(str(first.get("text", "")))
    return f"conversations written in {dialect.name}" if dialect else rule.name


def says_yes_or_no(rows: list[Values], column: str) -> bool:
    """Whether a column is a judgement in every row, as KTO's label is."""
    return all(str(row.get(column)).strip().casefold() in ("true", "false", "0", "1") for row in rows)


def by_hand(given: Columns, columns: dict[str, Structure], where: str) -> Shape:
    """The shape that a mapping by hand makes.

    Raises:
        DataError: a column that is not there, or parts that make neither a pair nor a chat.
    """
    used = given.used
    for part, column in used.items():
        if column not in columns:
            raise DataError(f"{where}: no column {column[:60]!r} for {part}; found {listed(columns)}.")
    unused = tuple(column for column in columns if column not in used.values())
    if (given.chosen and given.rejected) or (given.scored and given.prompt):
        return Shape("columns chosen by hand", "pairs", used, unused)
    if given.messages or given.text or (given.prompt and given.answer):
        return Shape("columns chosen by hand", "chat", used, unused)
    raise DataError(f"{where}: the columns chosen by hand make neither pairs nor chats. {NEEDED}.")


HINTS: dict[str, tuple[str, ...]] = {
    "rejected": ("reject", "bad", "worse", "worst", "lose", "losing", "negative", "dislike"),
    "chosen": ("chosen", "good", "better", "best", "win", "prefer", "accept", "positive"),
    "prompt": ("prompt", "instruct", "question", "query", "request", "task", "input"),
    "answer": ("answer", "output", "response", "completion", "reply", "target"),
}
"""Part -> what the name of its column may contain. Only ever a guess, shown to the user as one."""


def guess(columns: Mapping[str, Structure]) -> dict[str, str]:
    """Part -> column by hints in the columns' names, where that makes a pair or a chat; else nothing."""
    guessed: dict[str, str] = {}
    for part, hints in HINTS.items():
        free = (name for name, kind in columns.items() if kind in ANY and name not in guessed.values())
        named = next((name for name in free if any(hint in name.casefold() for hint in hints)), None)
        if named is not None:
            guessed[part] = named
    if {"prompt", "chosen", "rejected"} <= guessed.keys():
        guessed.pop("answer", None)
        return guessed
    return {part: guessed[part] for part in ("prompt", "answer")} if {"prompt", "answer"} <= guessed.keys() else {}


def listed(columns: Iterable[str]) -> str:
    """Column names as a person would list them, at most twelve."""
    names = [name[:40] or "(no name)" for name in columns]
    if not names:
        return "no columns"
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"column{'s' if len(names) > 1 else ''} {', '.join(names[:12])}{more}"
