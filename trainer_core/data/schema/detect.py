"""Which known shape a file has. It is found by the columns and what is in them, never by the file's name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trainer_core.data.schema import transcripts
from trainer_core.data.schema.cells import PICTURES, TOOLS, RowCells, Structure, Values, filled, spelled, structure
from trainer_core.data.schema.convert import to_chat, to_pair
from trainer_core.data.schema.messages import Item
from trainer_core.errors import DataError

if TYPE_CHECKING:
    from trainer_core.config.recipe import Columns

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
    "reasoning": ("reasoning_content", "reasoning", "thinking", "thoughts"),
}
"""Part -> the names a column for it may have, likeliest first."""

TEXT: Allowed = frozenset(("text", "transcript", "number"))
TALK: Allowed = frozenset(("message", "messages"))
TURNS: Allowed = frozenset(("messages",))
WHOLE: Allowed = frozenset(("transcript",))
ANY = TEXT | TALK
LABEL: Allowed = frozenset(("truth", "text", "number"))
EXTRAS: dict[str, Allowed] = {
    "system": TEXT,
    "input": TEXT,
    "history": frozenset(("rounds", "message", "messages", "other")),
    "reasoning": TEXT,
}
NEEDS: dict[str, str] = {"input": "prompt", "history": "prompt", "reasoning": "answer"}
"""Part that may be there -> the part without which nothing could be made of it."""
SPELLED: dict[str, Structure] = {"history": "rounds", "scored": "scored"}
"""Part -> what its cells may spell as JSON text, besides messages."""
COMMON = 0.5
"""A column filled in fewer rows than this share of the best candidate's is not taken for a part that every row needs."""
MOST_COLUMNS = 1_000
"""Columns that are told apart in one file; data sets have tens."""
NEEDED = "Pairs need prompt, chosen and rejected; chats need messages, or a prompt and an answer"


KINDS = dict.fromkeys(TOOLS, "tools") | dict.fromkeys(PICTURES, "pictures")
"""Name of a column -> the code of the remark when it is not used; "column" for all others."""


@dataclass(frozen=True)
class Shape:
    """What was found in a file: a name for people, what a row becomes, and part -> the column it is made of."""

    name: str
    kind: Kind
    columns: dict[str, str]
    unused: tuple[str, ...] = ()
    scores: tuple[str, str] | None = None
    """The columns that score the chosen and the rejected answer, where there are such."""
    others: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Part -> further columns named like it, which play it in rows where its own column is empty."""

    def margin(self, values: Values) -> float | None:
        """Score of the chosen answer less that of the rejected one, or None where either is missing."""
        if self.scores is None:
            return None
        try:
            chosen, rejected = (float(values.get(column)) for column in self.scores)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        return chosen - rejected

    def cells(self, values: Values) -> RowCells:
        """A row's cells, with what is spelled as JSON text made into objects, and remarks on the columns nobody uses."""
        row = RowCells(values, self.columns)
        taken = {part: one for part in self.others if (one := self.other(part, values))}
        if taken:
            values = row.values = {**values, **{self.columns[part]: values[one] for part, one in taken.items()}}
        for part, column in taken.items():
            row.remark("other_column", column, f"{part}: {values[column]}")
        for column in self.unused:
            if column not in taken.values() and filled(value := values.get(column), spelled_out=True):
                row.remark(KINDS.get(simple(column), "column"), column, value)
        for part, column in self.columns.items():
            value = values.get(column)
            answer = part == "answer" and "prompt" in self.columns
            if isinstance(value, str) and (found := spelled(value, SPELLED.get(part), answer)) is not value:
                row.values = {**row.values, column: found}
                row.remark("json_text", column, value)
        return row

    def other(self, part: str, values: Values) -> str | None:
        """The column that plays a part in a row where its own column is empty."""
        if filled(values.get(self.columns[part])):
            return None
        return next((column for column in self.others[part] if filled(values.get(column))), None)

    def convert(self, row: RowCells) -> Item:
        """One row as a chat or a pair.

        Raises:
            BadRow: the row lacks a part, or a part is not what it should be.
        """
        return to_pair(row) if self.kind == "pairs" else to_chat(row)


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


@dataclass
class ColumnSurvey:
    """What the filled cells of one column are: how many of each structure, the first of them, and yes-or-no words."""

    also: Structure | None = None
    answer: bool = False
    counts: Counter[Structure] = field(default_factory=Counter)
    first: Any = None
    samples: list[str] = field(default_factory=list)
    judges: bool = True
    """Every cell so far is a yes or a no."""

    def add(self, value: Any) -> None:
        if self.judges:
            self.judges = str(value).strip().casefold() in ("true", "false", "0", "1")
        if not filled(value, spelled_out=self.also is not None):
            return
        found = spelled(value, self.also, self.answer) if isinstance(value, str) else value
        if not self.counts:
            self.first = found
        if len(self.samples) < SAMPLES:
            self.samples.append(" ".join(str(value)[:400].split())[:160])
        self.counts[structure(found)] += 1

    @property
    def structure(self) -> Structure:
        """What most of the filled cells are; a column that is empty throughout counts as text."""
        return self.counts.most_common(1)[0][0] if self.counts else "text"


SAMPLES = 3
"""Cells shown of a column."""


class Survey:
    """The columns of a file, from all of its rows. Columns beyond `MOST_COLUMNS` are only counted."""

    def __init__(self, given: Columns | None = None) -> None:
        self.given, self.rows, self.beyond = given, 0, 0
        self.columns: dict[str, ColumnSurvey] = {}

    def add(self, values: Values) -> None:
        self.rows += 1
        for name, value in values.items():
            column = self.columns.get(name)
            if column is None:
                if len(self.columns) >= MOST_COLUMNS:
                    self.beyond += 1
                    continue
                column = self.columns[name] = ColumnSurvey(self.also(name), self.is_answer(name, values))
            column.add(value)

    def also(self, name: str) -> Structure | None:
        """What the cells of a column may spell besides messages: by the part it was given, or by its name."""
        given = self.given.used if self.given else {}
        parts = (part for part in SPELLED if given.get(part) == name or simple(name) in NAMES[part])
        return next((SPELLED[part] for part in parts), None)

    def is_answer(self, name: str, values: Values) -> bool:
        """Whether a column is the answer to another one, by the parts given or by the names."""
        if self.given:
            return self.given.answer == name and bool(self.given.prompt)
        return simple(name) in NAMES["answer"] and any(simple(other) in NAMES["prompt"] for other in values)

    def structures(self) -> dict[str, Structure]:
        return {name: column.structure for name, column in self.columns.items()}

    def fills(self, column: str, allowed: Allowed) -> int:
        """How many rows have what is allowed in a column."""
        return sum(count for kind, count in self.columns[column].counts.items() if kind in allowed)


def find(survey: Survey, where: str) -> Shape:
    """The shape of the rows, or the one that columns given by hand make. Of the known shapes that fit, the first that
    most rows have: a few rows with more columns do not turn the others away.

    Raises:
        DataError: nothing known fits, or it is KTO. Names the columns found and those needed.
    """
    columns = survey.structures()
    if survey.given is not None:
        return by_hand(survey.given, columns, where)
    fitting = [(rule, found) for rule in RULES if (found := match(rule, survey)) and not_meant(rule, found, survey)]
    best = max((coverage(rule, found, survey) for rule, found in fitting), default=0)
    for rule, found in fitting:
        if coverage(rule, found, survey) < COMMON * best:
            continue
        if rule.kind != "kto":
            return shaped(rule, rule.kind, found, survey)
        raise DataError(
            f"{where}: these are single answers with a label (KTO). Tunebench trains on pairs and on chats; "
            "give each prompt a chosen and a rejected answer."
        )
    raise DataError(
        f"{where}: found {listed(columns)}. {NEEDED}. {unfit(columns)}Say which column is which, or rename them."
    )


UNFIT: dict[Structure, str] = {
    "truth": "true or false",
    "other": "lists or objects that are no messages",
    "rounds": "lists of questions and answers",
    "scored": "answers with scores",
}


def unfit(columns: Mapping[str, Structure]) -> str:
    """Which columns have a known name and nothing in them that the name promises."""
    known = {name for part in ("prompt", "answer", "chosen", "rejected", "messages", "text") for name in NAMES[part]}
    found = [f"{name} holds {UNFIT[kind]}" for name, kind in columns.items() if kind in UNFIT and simple(name) in known]
    return f"But {', '.join(found[:4])}; each of its cells must be a text or messages. " if found else ""


def not_meant(rule: Rule, found: Mapping[str, str], survey: Survey) -> bool:
    """Whether a rule's match is to be believed: KTO's label is a judgement in every row."""
    return rule.kind != "kto" or survey.columns[found["label"]].judges


def coverage(rule: Rule, found: Mapping[str, str], survey: Survey) -> int:
    """In how many rows the rarest of the needed columns is filled as it must be. An input may stand in for its prompt."""
    fills = {part: survey.fills(column, rule.needs[part]) for part, column in found.items()}
    inputs = (column for column in survey.columns if simple(column) in NAMES["input"])
    if "prompt" in fills:
        fills["prompt"] = max(fills["prompt"], *(survey.fills(column, TEXT) for column in inputs), 0)
    return min(fills.values())


def match(rule: Rule, survey: Survey) -> dict[str, str] | None:
    """Part -> column for every part the rule needs, or None where one is missing."""
    found: dict[str, str] = {}
    columns = survey.structures()
    for part, allowed in rule.needs.items():
        free = {column: kind for column, kind in columns.items() if column not in found.values()}
        column = pick(rule.names.get(part) or NAMES[part], free, allowed, common(survey, part, allowed))
        if column is None and part == "messages" and not rule.names:
            column = only(neither_asked_nor_answered(free), allowed)
        if column is None:
            return None
        found[part] = column
    return found


def common(survey: Survey, part: str, allowed: Allowed) -> frozenset[str] | None:
    """The columns with a part's names that enough rows have. The prompt may stand in its input alone, so all count there."""
    fills = {column: survey.fills(column, allowed) for column in survey.columns if simple(column) in NAMES[part]}
    if part == "prompt" and any(simple(column) in NAMES["input"] for column in fills):
        return None
    best = max(fills.values(), default=0)
    return frozenset(column for column, count in fills.items() if count >= COMMON * best)


def simple(column: str) -> str:
    """A column's name without case and separators, which do not count."""
    return re.sub(r"[\s-]+", "_", column.strip()).casefold()


def pick(
    names: tuple[str, ...], columns: Mapping[str, Structure], allowed: Allowed, among: frozenset[str] | None = None
) -> str | None:
    """The column with the first of the names that is what is allowed, and one of `among` where that is given."""
    known = {simple(column): column for column in columns if among is None or column in among}
    return next((known[name] for name in names if name in known and columns[known[name]] in allowed), None)


def neither_asked_nor_answered(columns: dict[str, Structure]) -> dict[str, Structure]:
    """The columns without a prompt and its answer, where there are both by their names."""
    asked = {column for column in columns if simple(column) in NAMES["prompt"]}
    said = {column for column in columns if simple(column) in NAMES["answer"]}
    return {one: kind for one, kind in columns.items() if one not in asked | said} if asked and said else columns


def only(columns: dict[str, Structure], allowed: Allowed) -> str | None:
    """The one column that is what is allowed, whatever its name; None where there are several."""
    fitting = [column for column, kind in columns.items() if kind in allowed]
    return fitting[0] if len(fitting) == 1 else None


def shaped(rule: Rule, kind: Kind, found: dict[str, str], survey: Survey) -> Shape:
    """The rule's shape with the parts that may be there too, and the columns left over."""
    columns = survey.structures()
    for part, allowed in EXTRAS.items() if "text" not in found else ():
        free = {column: its for column, its in columns.items() if column not in found.values()}
        wanted = NEEDS.get(part) in (None, *found)
        if wanted and (column := pick(NAMES[part], free, allowed)) is not None:
            found[part] = column
    scores = score_columns(columns) if kind == "pairs" else None
    unused = tuple(column for column in columns if column not in (*found.values(), *(scores or ())))
    parts = {part: found[part] for part in NAMES if part in found}
    others = {part: namesakes(part, found[part], unused, survey) for part in rule.needs}
    others = {part: several for part, several in others.items() if several}
    return Shape(named(rule, found, survey), kind, parts, unused, scores, others)


def namesakes(part: str, its: str, unused: Iterable[str], survey: Survey) -> tuple[str, ...]:
    """Unused columns that are named like a part and hold what its own column holds."""
    kind = survey.columns[its].structure
    return tuple(one for one in unused if simple(one) in NAMES[part] and survey.columns[one].structure == kind)


def score_columns(columns: Mapping[str, Structure]) -> tuple[str, str] | None:
    """The two columns of numbers that score chosen and rejected: score_chosen, chosen_rating and the like."""
    for name in ("score", "rating"):
        for pattern in (f"{name}_{{}}", f"{{}}_{name}"):
            pair = pattern.format("chosen"), pattern.format("rejected")
            if all(columns.get(column) in ("number", "text") for column in pair):
                return pair
    return None


def named(rule: Rule, found: dict[str, str], survey: Survey) -> str:
    """The rule's name, more exact where the first row tells: "from" instead of "role", or the dialect of a text."""
    first = {part: survey.columns[column].first for part, column in found.items()}
    if rule.name == "chat messages" and isinstance(first["messages"], list) and "from" in first["messages"][0]:
        return "ShareGPT"
    dialect = transcripts.spoken_in(str(first.get("text", "")))
    return f"conversations written in {dialect.name}" if dialect else rule.name


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
