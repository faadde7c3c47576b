"""A file that cannot be read is refused by the content that does not fit, never by the columns that it has and should have."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.files_case import Row, assistant, user, written
from trainer_core.data import Chat, Pair, ReadRequest
from trainer_core.data.read_events import IgnoredContent, SchemaDetected, UsableRow
from trainer_core.data.stream import stream_rows
from trainer_core.errors import DataError
from trainer_core.texts import Text

UNFIT: dict[str, Any] = {
    "truth": True, "binary": b"\x00\xff", "date": datetime.datetime(2026, 1, 2), "texts": ["one", "two"], "rounds": [["q", "a"]],
    "scored": [{"text": "a", "score": 1}], "objects": {"speaker": "A", "utterance": "x"}, "other": [[1, 2], [3]],
}  # fmt: skip
"""Code of the refusal → a cell that is neither text nor messages."""
LAYOUTS: tuple[tuple[str, ...], ...] = (
    ("prompt", "chosen", "rejected"),
    ("instruction", "output"),
    ("question", "answer"),
    ("text",),
)
PARQUET_ONLY = ("binary", "date")


def refusal_text(folder: Path, rows: list[Row], form: str = "jsonl") -> Text:
    with pytest.raises(DataError) as refused:
        list(stream_rows(ReadRequest(written(folder, rows, form))))
    return refused.value.text


def unfit_text(text: Text) -> str:
    assert text.code == "schema.unfit"
    return str(text.params["unfit"])


@pytest.mark.parametrize("columns", LAYOUTS)
@pytest.mark.parametrize("code", UNFIT)
def test_a_refusal_names_the_content_of_every_column_that_does_not_fit(
    tmp_path: Path, code: str, columns: tuple[str, ...]
) -> None:
    form = "parquet" if code in PARQUET_ONLY else "jsonl"
    said = unfit_text(refusal_text(tmp_path, [dict.fromkeys(columns, UNFIT[code])] * 3, form))
    about = {"names": "speaker, utterance"} if code == "objects" else {}
    assert said == ", ".join(str(Text(f"schema.holds_{code}", column=column, **about)) for column in columns)


@pytest.mark.parametrize("column", LAYOUTS[0])
@pytest.mark.parametrize("code", UNFIT)
def test_columns_that_fit_are_not_named(tmp_path: Path, code: str, column: str) -> None:
    row: Row = {**dict.fromkeys(LAYOUTS[0], "words"), column: UNFIT[code]}
    said = unfit_text(refusal_text(tmp_path, [row], "parquet" if code in PARQUET_ONLY else "jsonl"))
    assert said.startswith(f"{column} ") and not any(
        f"{other} holds" in said for other in LAYOUTS[0] if other != column
    )


@pytest.mark.parametrize(
    ("code", "cell"),
    [
        ("text", "hello"),
        ("transcript", "\n\nHuman: Hi\n\nAssistant: Hello"),
        ("number", 3),
        ("truth", False),
        ("texts", ["Hi", "Hello"]),
        ("json", '[{"speaker": "A", "utterance": "x"}]'),
        ("message", user("Hi")),
        ("unequal_lists", {"role": ["user", "assistant"], "content": ["Hi"]}),
        ("other", [[user("a"), assistant("b")], [user("c"), assistant("d")]]),
    ],
)
@pytest.mark.parametrize("column", ["messages", "conversations", "dialogue"])
def test_a_column_for_messages_without_messages(tmp_path: Path, column: str, code: str, cell: Any) -> None:
    assert unfit_text(refusal_text(tmp_path, [{column: cell}])) == str(Text(f"schema.holds_{code}", column=column))


def test_a_missing_column_is_no_unfit_one(tmp_path: Path) -> None:
    assert refusal_text(tmp_path, [{"prompt": "a", "chosen": "b"}]).code == "schema.unknown"
    assert refusal_text(tmp_path, [{"chosen": "b", "rejected": "c"}]).code == "schema.unknown"


@pytest.mark.parametrize("row", [user("Hi"), {"from": "human", "value": "Hi"}, {"role": "user", "text": "Hi"}])
def test_rows_that_are_one_message_each_are_not_learned_as_plain_text(tmp_path: Path, row: Row) -> None:
    assert refusal_text(tmp_path, [row, row]).code == "schema.single_turns"


def read_items(path: Path) -> list[Chat | Pair]:
    return [news.item for news in stream_rows(ReadRequest(path)) if isinstance(news, UsableRow)]


def test_rejected_messages_beside_a_chosen_text_are_never_learned_as_a_chat(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "good", "rejected": [assistant("bad")]}
    (pair,) = read_items(written(tmp_path, [row]))
    assert isinstance(pair, Pair) and (pair.chosen[0].content, pair.rejected[0].content) == ("good", "bad")
    said = unfit_text(refusal_text(tmp_path, [{**row, "chosen": ["good"]}]))
    assert said == str(Text("schema.holds_texts", column="chosen"))


def test_decimal_numbers_are_text(tmp_path: Path) -> None:
    path = written(tmp_path, [{"question": "Price?", "answer": decimal.Decimal("1.20")}], "parquet")
    (chat,) = read_items(path)
    assert isinstance(chat, Chat) and chat.messages[1].content == "1.20"


TURNS = ("Hi", "Hello", "And now?", "Rest.")
ROLES = ("user", "assistant", "user", "assistant")
OTHER_ROLES = ("Human", "ai", "human", "BOT")
TALK = [{"role": role, "content": text} for role, text in zip(ROLES, TURNS, strict=True)]
LISTS: list[Any] = [
    [list(TURNS[:2]), list(TURNS[2:])],
    [list(pair) for pair in zip(ROLES, TURNS, strict=True)],
    [list(pair) for pair in zip(OTHER_ROLES, TURNS, strict=True)],
    [TALK],
    [[list(pair) for pair in zip(OTHER_ROLES, TURNS, strict=True)]],
]


def assert_talks(path: Path, count: int) -> None:
    found = read_items(path)
    assert len(found) == count
    for item in found:
        assert isinstance(item, Chat) and [(one.role, one.content) for one in item.messages] == list(
            zip(ROLES, TURNS, strict=True)
        )


@pytest.mark.parametrize("value", LISTS)
@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_a_conversation_as_a_list_of_lists(tmp_path: Path, column: str, form: str, value: Any) -> None:
    assert_talks(written(tmp_path, [{column: value, "id": n} for n in range(3)], form), 3)


@pytest.mark.parametrize("row", [TALK, LISTS[1]])
@pytest.mark.parametrize("form", ["json", "jsonl", "ndjson"])
@pytest.mark.parametrize("count", [1, 4])
def test_a_file_of_conversations_without_column_names(tmp_path: Path, row: Any, form: str, count: int) -> None:
    path = tmp_path / f"rows.{form}"
    rows = [row] * count
    path.write_text(json.dumps(rows) if form == "json" else "".join(json.dumps(one) + "\n" for one in rows))
    assert_talks(path, count)


def test_pairs_of_words_under_other_names_are_no_conversation(tmp_path: Path) -> None:
    row = {"question": "Where?", "answer": "Paris.", "entities": [["Paris", "LOC"]]}
    news = list(stream_rows(ReadRequest(written(tmp_path, [row]))))
    found = next(one for one in news if isinstance(one, SchemaDetected))
    assert found.shape.columns == {"prompt": "question", "answer": "answer"}
    assert [one.name for one in news if isinstance(one, IgnoredContent)] == ["entities"]
    refused = refusal_text(tmp_path, [{"entities": [["Paris", "LOC"]]}])
    assert refused.code == "schema.unknown"


@pytest.mark.parametrize("role", ["ai", "AI", "bot", "gpt", "model", "chatgpt", "assistant"])
@pytest.mark.parametrize("asker", ["human", "Human", "user", "prompter"])
def test_the_names_of_both_roles(tmp_path: Path, asker: str, role: str) -> None:
    (chat,) = read_items(
        written(tmp_path, [{"messages": [user("q") | {"role": asker}, assistant("a") | {"role": role}]}])
    )
    assert isinstance(chat, Chat) and [one.role for one in chat.messages] == ["user", "assistant"]
