"""Detects the schema of a file from its columns and their content, never from the file's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from trainer_core.data.schema import transcripts
from trainer_core.data.schema.cells import Structure, message_keys
from trainer_core.data.schema.data_schema import KNOWN_NAMES, PART_NAMES, DataSchema, Kind, normalise_name
from trainer_core.data.schema.survey import Allowed, ColumnSurvey, FileSurvey
from trainer_core.errors import DataError
from trainer_core.texts import Text

if TYPE_CHECKING:
    from trainer_core.config.recipe import Columns


TEXT: Allowed = frozenset(("text", "transcript", "number"))
ANY_MESSAGES: Allowed = frozenset(("message", "messages"))
TURNS: Allowed = frozenset(("messages",))
ROUNDS: Allowed = frozenset(("rounds",))
TRANSCRIPTS: Allowed = frozenset(("transcript",))
ANY_TEXT = TEXT | ANY_MESSAGES
LABEL: Allowed = frozenset(("truth", "text", "number"))
EXTRAS: dict[str, Allowed] = {
    "system": TEXT,
    "input": TEXT,
    "history": frozenset(("rounds", "message", "messages", "texts", "other")),
    "reasoning": TEXT,
}
NEEDS: dict[str, str] = {"input": "prompt", "history": "prompt", "reasoning": "answer"}
"""Optional part → the part it requires."""
MIN_FILLED_SHARE = 0.5
"""A required part does not use a column filled in fewer rows than this share of the best candidate's."""
REQUIRED_PARTS = Text("schema.required_parts")


@dataclass(frozen=True)
class SchemaRule:
    """One known schema: the parts it needs and their allowed structures. `names` restricts a part's column names."""

    name: str
    kind: Kind | Literal["kto"]
    needs: Mapping[str, Allowed]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


SHAREGPT = {"messages": ("conversations", "conversation")}
ALPACA = {"prompt": ("instruction",), "answer": ("output", "response")}
QUESTION = {"prompt": ("question",), "answer": ("answer",)}
RULES = (
    SchemaRule(
        "ShareGPT pairs", "pairs", {"messages": TURNS, "chosen": ANY_MESSAGES, "rejected": ANY_MESSAGES}, SHAREGPT
    ),
    SchemaRule(
        "preference pairs as messages", "pairs", {"prompt": ANY_TEXT, "chosen": ANY_MESSAGES, "rejected": ANY_MESSAGES}
    ),
    SchemaRule("preference pairs as whole conversations", "pairs", {"chosen": TURNS, "rejected": TURNS}),
    SchemaRule("Anthropic HH transcripts", "pairs", {"chosen": TRANSCRIPTS, "rejected": TRANSCRIPTS}),
    SchemaRule("preference pairs", "pairs", {"prompt": ANY_TEXT, "chosen": ANY_TEXT, "rejected": ANY_TEXT}),
    SchemaRule(
        "preference pairs after a conversation", "pairs", {"messages": TURNS, "chosen": ANY_TEXT, "rejected": ANY_TEXT}
    ),
    SchemaRule("scored answers", "pairs", {"prompt": ANY_TEXT, "scored": frozenset(("scored",))}),
    SchemaRule("KTO", "kto", {"prompt": ANY_TEXT, "answer": ANY_TEXT, "label": LABEL}),
    SchemaRule("KTO", "kto", {"messages": TURNS, "label": LABEL}),
    SchemaRule("chat messages", "chat", {"messages": TURNS}),
    SchemaRule("rounds of question and answer", "chat", {"messages": ROUNDS}, {"messages": PART_NAMES["messages"]}),
    SchemaRule("Alpaca", "chat", {"prompt": TEXT, "answer": TEXT}, ALPACA),
    SchemaRule("question and answer", "chat", {"prompt": TEXT, "answer": TEXT}, QUESTION),
    SchemaRule("prompt and completion", "chat", {"prompt": ANY_TEXT, "answer": ANY_TEXT}),
    SchemaRule("conversations as text", "chat", {"text": TRANSCRIPTS}),
    SchemaRule("plain text", "chat", {"text": TEXT}),
)
"""Tried in this order; schemas with more requirements come first."""


def detect_schema(survey: FileSurvey, where: str, may_be_prose: bool = False) -> DataSchema:
    """The schema of the rows, or the one of a manual column mapping. Of the known schemas that fit, the first that most rows
    have: a few rows with more columns do not exclude the others.

    Args:
        may_be_prose: the file may have no columns at all.

    Raises:
        DataError: no known schema fits, or it is KTO. Names the columns found and those needed.
    """
    columns = survey.column_structures()
    if survey.given is not None:
        return schema_from_mapping(survey.given, columns, where)
    fitting = [
        (rule, found)
        for rule in RULES
        if (found := match_rule(rule, survey)) and is_plausible_match(rule, found, survey)
    ]
    best = max((count_matching_rows(rule, found, survey) for rule, found in fitting), default=0)
    for rule, found in fitting:
        if count_matching_rows(rule, found, survey) < MIN_FILLED_SHARE * best:
            continue
        if rule.kind != "kto":
            return build_schema(rule, rule.kind, found, survey)
        raise DataError("schema.kto", file=where)
    if may_be_prose and not any(normalise_name(name) in KNOWN_NAMES for name in survey.columns):
        raise DataError("files.prose", file=where)
    raise unknown_schema_error(survey, where)


def unknown_schema_error(survey: FileSurvey, where: str) -> DataError:
    """Why no known schema fits: the content of the columns that should be one, or the columns that are missing."""
    about = {"file": where, "columns": list_columns(survey.columns), "required": REQUIRED_PARTS}
    if single_turn_columns(survey):
        return DataError("schema.single_turns", **about)
    if unfit := unfit_columns(survey):
        return DataError("schema.unfit", **about, unfit=", ".join(map(str, unfit[:4])))
    return DataError("schema.unknown", **about)


FITTING_CONTENT = dict.fromkeys(("prompt", "answer", "chosen", "rejected"), ANY_TEXT) | {
    "text": TEXT,
    "messages": TURNS | ROUNDS,
}
"""Part → structures that some rule accepts for it."""


def unfit_columns(survey: FileSurvey) -> list[Text]:
    """Columns with a known name but unsuitable content, and what that is."""
    return [
        describe_content(name, column)
        for name, column in survey.columns.items()
        if (parts := [part for part in FITTING_CONTENT if normalise_name(name) in PART_NAMES[part]])
        and not any(column.structure in FITTING_CONTENT[part] for part in parts)
    ]


def describe_content(name: str, column: ColumnSurvey) -> Text:
    """What a column holds; of objects the keys, because other names of role and content are the usual reason."""
    kind = column.structure
    example = column.examples.get(kind)
    if kind == "other":
        first = example[0] if isinstance(example, list) and example else example
        if isinstance(first, dict) and first:
            return Text("schema.holds_objects", column=name, names=", ".join(str(key)[:40] for key in [*first][:6]))
    if kind == "message" and isinstance(example, dict) and any(isinstance(one, list) for one in example.values()):
        return Text("schema.holds_unequal_lists", column=name)
    if kind == "text" and str(example).lstrip()[:1] in ("[", "{"):
        return Text("schema.holds_json", column=name)
    return Text(CONTENT_CODES[kind], column=name)


CONTENT_CODES: dict[Structure, str] = {
    "text": "schema.holds_text",
    "transcript": "schema.holds_transcript",
    "number": "schema.holds_number",
    "truth": "schema.holds_truth",
    "binary": "schema.holds_binary",
    "date": "schema.holds_date",
    "texts": "schema.holds_texts",
    "message": "schema.holds_message",
    "messages": "schema.holds_messages",
    "scored": "schema.holds_scored",
    "rounds": "schema.holds_rounds",
    "other": "schema.holds_other",
}


def single_turn_columns(survey: FileSurvey) -> bool:
    """Is each row one message, with its role in one column and its content in another?"""
    keys = message_keys({normalise_name(name): name for name in survey.columns})
    return keys is not None and all(
        survey.columns[name].structure == "text" for name in survey.columns if normalise_name(name) in keys
    )


def is_plausible_match(rule: SchemaRule, found: Mapping[str, str], survey: FileSurvey) -> bool:
    """Is a rule's match plausible? A KTO label must be a judgement in every row, and one message is no plain text."""
    if rule.name == "plain text":
        return not single_turn_columns(survey)
    return rule.kind != "kto" or survey.columns[found["label"]].judges


def count_matching_rows(rule: SchemaRule, found: Mapping[str, str], survey: FileSurvey) -> int:
    """Rows that have the rarest required column filled correctly. An input can replace its prompt."""
    fills = {part: survey.count_filled(column, rule.needs[part]) for part, column in found.items()}
    inputs = (column for column in survey.columns if normalise_name(column) in PART_NAMES["input"])
    if "prompt" in fills:
        fills["prompt"] = max(fills["prompt"], *(survey.count_filled(column, TEXT) for column in inputs), 0)
    return min(fills.values())


def match_rule(rule: SchemaRule, survey: FileSurvey) -> dict[str, str] | None:
    """Part → column for every part the rule needs, or None if one is missing."""
    found: dict[str, str] = {}
    columns = survey.column_structures()
    for part, allowed in rule.needs.items():
        free = {column: kind for column, kind in columns.items() if column not in found.values()}
        column = pick_column(
            rule.names.get(part) or PART_NAMES[part], free, allowed, common_columns(survey, part, allowed)
        )
        if column is None and part == "messages" and not rule.names:
            column = only_column(without_question_answer(free), allowed)
        if column is None:
            return None
        found[part] = column
    return found


def common_columns(survey: FileSurvey, part: str, allowed: Allowed) -> frozenset[str] | None:
    """A part's columns by name that enough rows fill. None (all count) if the prompt can be in the input column alone."""
    fills = {
        column: survey.count_filled(column, allowed)
        for column in survey.columns
        if normalise_name(column) in PART_NAMES[part]
    }
    if part == "prompt" and any(normalise_name(column) in PART_NAMES["input"] for column in fills):
        return None
    best = max(fills.values(), default=0)
    return frozenset(column for column, count in fills.items() if count >= MIN_FILLED_SHARE * best)


def pick_column(
    names: tuple[str, ...], columns: Mapping[str, Structure], allowed: Allowed, among: frozenset[str] | None = None
) -> str | None:
    """The column with the first matching name and an allowed structure, restricted to `among` if given."""
    known = {normalise_name(column): column for column in columns if among is None or column in among}
    return next((known[name] for name in names if name in known and columns[known[name]] in allowed), None)


def without_question_answer(columns: dict[str, Structure]) -> dict[str, Structure]:
    """The columns without rejected answers, and without prompt and answer if both exist by name."""
    columns = {name: kind for name, kind in columns.items() if normalise_name(name) not in PART_NAMES["rejected"]}
    asked = {column for column in columns if normalise_name(column) in PART_NAMES["prompt"]}
    said = {column for column in columns if normalise_name(column) in PART_NAMES["answer"]}
    return {one: kind for one, kind in columns.items() if one not in asked | said} if asked and said else columns


def only_column(columns: dict[str, Structure], allowed: Allowed) -> str | None:
    """The only column with an allowed structure, whatever its name; None if there are several."""
    fitting = [column for column, kind in columns.items() if kind in allowed]
    return fitting[0] if len(fitting) == 1 else None


def build_schema(rule: SchemaRule, kind: Kind, found: dict[str, str], survey: FileSurvey) -> DataSchema:
    """The rule's schema with the optional parts it has, and the unused columns."""
    columns = survey.column_structures()
    for part, allowed in EXTRAS.items() if "text" not in found else ():
        free = {column: its for column, its in columns.items() if column not in found.values()}
        wanted = NEEDS.get(part) in (None, *found)
        if wanted and (column := pick_column(PART_NAMES[part], free, allowed)) is not None:
            found[part] = column
    scores = score_columns(columns) if kind == "pairs" else None
    unused = tuple(column for column in columns if column not in (*found.values(), *(scores or ())))
    parts = {part: found[part] for part in PART_NAMES if part in found}
    others = {part: same_named_columns(part, found[part], unused, survey) for part in rule.needs}
    others = {part: several for part, several in others.items() if several}
    return DataSchema(schema_name(rule, found, survey), kind, parts, unused, scores, others)


def same_named_columns(part: str, its: str, unused: Iterable[str], survey: FileSurvey) -> tuple[str, ...]:
    """Unused columns named like a part, with the same structure as its own column."""
    kind = survey.columns[its].structure
    return tuple(
        one for one in unused if normalise_name(one) in PART_NAMES[part] and survey.columns[one].structure == kind
    )


def score_columns(columns: Mapping[str, Structure]) -> tuple[str, str] | None:
    """The two numeric columns that score chosen and rejected: score_chosen, chosen_rating and similar."""
    for name in ("score", "rating"):
        for pattern in (f"{name}_{{}}", f"{{}}_{name}"):
            pair = pattern.format("chosen"), pattern.format("rejected")
            if all(columns.get(column) in ("number", "text") for column in pair):
                return pair
    return None


def schema_name(rule: SchemaRule, found: dict[str, str], survey: FileSurvey) -> str:
    """The rule's name, or a more precise one from the first row: "from" instead of "role", or a transcript format."""
    first = {part: survey.columns[column].first for part, column in found.items()}
    if rule.name == "chat messages" and isinstance(first["messages"], list) and "from" in first["messages"][0]:
        return "ShareGPT"
    dialect = transcripts.detect_transcript(str(first.get("text", "")))
    return f"conversations written in {dialect.name}" if dialect else rule.name


def schema_from_mapping(given: Columns, columns: dict[str, Structure], where: str) -> DataSchema:
    """The schema of a manual column mapping.

    Raises:
        DataError: a column is missing, or the parts make neither a pair nor a chat.
    """
    used = given.column_by_part
    for part, column in used.items():
        if column not in columns:
            found = list_columns(columns)
            raise DataError("schema.no_column", file=where, column=column[:60], part=part, columns=found)
    unused = tuple(column for column in columns if column not in used.values())
    if (given.chosen and given.rejected) or (given.scored and given.prompt):
        return DataSchema("columns chosen by hand", "pairs", used, unused)
    if given.messages or given.text or (given.prompt and given.answer):
        return DataSchema("columns chosen by hand", "chat", used, unused)
    raise DataError("schema.bad_mapping", file=where, required=REQUIRED_PARTS)


HINTS: dict[str, tuple[str, ...]] = {
    "rejected": ("reject", "bad", "worse", "worst", "lose", "losing", "negative", "dislike"),
    "chosen": ("chosen", "good", "better", "best", "win", "prefer", "accept", "positive"),
    "prompt": ("prompt", "instruct", "question", "query", "request", "task", "input"),
    "answer": ("answer", "output", "response", "completion", "reply", "target"),
}
"""Part → possible substrings of its column's name. Only a guess, and shown as one."""


def guess_parts(columns: Mapping[str, Structure]) -> dict[str, str]:
    """Part → column guessed from column names, if that makes a pair or a chat; otherwise empty."""
    guessed: dict[str, str] = {}
    for part, hints in HINTS.items():
        free = (name for name, kind in columns.items() if kind in ANY_TEXT and name not in guessed.values())
        named = next((name for name in free if any(hint in name.casefold() for hint in hints)), None)
        if named is not None:
            guessed[part] = named
    if {"prompt", "chosen", "rejected"} <= guessed.keys():
        guessed.pop("answer", None)
        return guessed
    return {part: guessed[part] for part in ("prompt", "answer")} if {"prompt", "answer"} <= guessed.keys() else {}


def list_columns(columns: Iterable[str]) -> Text:
    """Column names as a list in prose, at most twelve."""
    names = [name[:40] or str(Text("schema.no_name")) for name in columns]
    if not names:
        return Text("schema.no_columns")
    if len(names) > 12:
        return Text("schema.many_columns", names=", ".join(names[:12]), more=len(names) - 12)
    return Text("schema.columns", count=len(names), names=", ".join(names))
