"""Conversations inside cells: written as JSON or Python text, as lists beside lists, or column by column."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.case_rows import read
from tests.support.files_case import FORMATS, Row, assistant, case, chat, pair, user
from trainer_core.data.schema.cells import parse_written_messages
from trainer_core.texts import Text

TALK = [user("What now?"), assistant("Rest.")]
SPELLINGS: list[Callable[[Any], str]] = [
    json.dumps, str, lambda value: json.dumps(value, indent=2), lambda value: f"\n {json.dumps(value)} ",
    lambda value: json.dumps(json.dumps(value)),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("spell", SPELLINGS)
def test_a_conversation_written_as_text_is_the_one_it_spells(
    tmp_path: Path, form: str, spell: Callable[[Any], str]
) -> None:
    found = case(tmp_path, [{"messages": spell([user(f"{n}?"), assistant("Rest.")])} for n in range(6)], form)
    assert found.used[5] == chat(("user", "5?"), ("assistant", "Rest.")) and len(found.used) == 6
    assert any("messages (6 rows)" in str(note) for note in found.said)


@pytest.mark.parametrize("form", FORMATS)
def test_sides_written_as_text_are_whole_conversations(tmp_path: Path, form: str) -> None:
    def side(n: int, answer: str) -> str:
        return json.dumps([user(f"{n}?"), assistant(answer)])

    rows = [{"prompt": f"{n}?", "chosen": side(n, "c"), "rejected": side(n, "r")} for n in range(5)]
    assert case(tmp_path, rows, form).used[4] == pair([("user", "4?")], "c", "r")


def test_one_row_among_many_may_be_written_as_text(tmp_path: Path) -> None:
    rows: list[Row] = [{"prompt": f"{n}?", "chosen": "c", "rejected": "r"} for n in range(230)]
    late = {
        "prompt": "q",
        "chosen": json.dumps([user("q"), assistant("c")]),
        "rejected": json.dumps([user("q"), assistant("r")]),
    }
    found = case(tmp_path, [*rows, late])
    assert found.used[-1] == pair([("user", "q")], "c", "r") and any(
        "chosen (1 row)" in str(note) for note in found.said
    )


def test_a_prompt_written_as_text_goes_before_its_answer(tmp_path: Path) -> None:
    prompt = json.dumps([{"role": "system", "content": "S"}, user("q")])
    assert case(tmp_path, [{"prompt": prompt, "completion": "a"}]).used == [
        chat(("system", "S"), ("user", "q"), ("assistant", "a"))
    ]


def test_messages_each_written_as_text(tmp_path: Path) -> None:
    found = case(tmp_path, [{"messages": [json.dumps(one) for one in TALK]}])
    assert found.used == [chat(("user", "What now?"), ("assistant", "Rest."))]


def test_json_as_spreadsheets_and_numpy_leave_it(tmp_path: Path) -> None:
    broken = '[{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "c"}]'
    assert case(tmp_path, [{"messages": broken}]).used == [chat(("user", "a\nb"), ("assistant", "c"))]
    numpy = "[{'role': 'user', 'content': 'a'}\n {'role': 'assistant', 'content': 'b'}]"
    assert case(tmp_path, [{"messages": numpy}]).used == [chat(("user", "a"), ("assistant", "b"))]


def test_an_answer_written_as_a_message_is_its_text_and_a_chat_in_json_stays_one(tmp_path: Path) -> None:
    said = [{"prompt": "q", "completion": json.dumps(assistant("a"))}]
    assert case(tmp_path, said).used == [chat(("user", "q"), ("assistant", "a"))]
    written = json.dumps(TALK)
    assert case(tmp_path, [{"prompt": "q", "completion": written}]).used == [
        chat(("user", "q"), ("assistant", written))
    ]
    assert case(tmp_path, [{"output": written}]).used == [chat(("user", "What now?"), ("assistant", "Rest."))]


ANSWERS = [
    '{"role": "admin", "content": "x"}', '[["a", "b"], ["c", "d"]]', '[{"text": "a", "score": 1}]', "[]", "{}", '"quoted" words',
    '[{"role": "narrator", "content": "x"}]', "[1, 2, 3]", "{not json}", "[see note]", "{'a': 1}",
    '{"role": "user", "content": "x"}',
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("form", FORMATS)
def test_an_answer_in_json_stays_an_answer(tmp_path: Path, answer: str, form: str) -> None:
    found = case(tmp_path, [{"prompt": f"{n}?", "completion": answer} for n in range(3)], form)
    assert found.first == chat(("user", "0?"), ("assistant", answer))


def test_what_is_only_wanted_in_one_place_is_only_unpacked_there() -> None:
    rounds = '[["q", "a"]]'
    assert parse_written_messages(rounds) == rounds and parse_written_messages(rounds, "rounds") == [["q", "a"]]
    scored = '[{"text": "a", "score": 1}]'
    assert parse_written_messages(scored) == scored and parse_written_messages(scored, "scored") == [
        {"text": "a", "score": 1}
    ]
    deep = "[" * 5000
    assert parse_written_messages(deep) == deep


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_scored_answers_and_rounds_written_as_text(tmp_path: Path, form: str) -> None:
    answers = json.dumps([{"response": "good", "score": 9}, {"response": "bad", "score": 1}])
    assert case(tmp_path, [{"prompt": "q", "completions": answers}], form).used == [
        pair([("user", "q")], "good", "bad")
    ]
    found = case(tmp_path, [{"instruction": "q", "output": "a", "history": '[["p", "b"]]'}], form)
    assert found.used == [chat(("user", "p"), ("assistant", "b"), ("user", "q"), ("assistant", "a"))]


@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_a_list_of_roles_beside_a_list_of_contents_is_a_conversation(
    tmp_path: Path, keys: tuple[str, str], form: str
) -> None:
    roles, contents = keys
    rows = [{"conversations": {roles: ["user", "assistant"], contents: [f"{n}?", "Rest."]}} for n in range(4)]
    assert case(tmp_path, rows, form).used[3] == chat(("user", "3?"), ("assistant", "Rest."))


TABLE = {"prompt": ["p0", "p1", "p2"], "chosen": ["c0", "c1", "c2"], "rejected": ["r0", "r1", "r2"]}
INDEXED = {name: {str(at): cell for at, cell in enumerate(cells)} for name, cells in TABLE.items()}
SPLIT = {"columns": list(TABLE), "index": [0, 1, 2], "data": [list(row) for row in zip(*TABLE.values(), strict=True)]}


@pytest.mark.parametrize("table", [TABLE, INDEXED, SPLIT])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_table_column_by_column_is_read_row_by_row(tmp_path: Path, table: Any, indent: int | None) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table, indent=indent))
    assert read(path).used == [pair([("user", f"p{n}")], f"c{n}", f"r{n}") for n in range(3)]


def test_one_object_with_lists_may_be_one_row(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"messages": TALK}))
    assert len(read(path).used) == 1
    path.write_text(json.dumps({"chosen": TALK, "rejected": [user("What now?"), assistant("Go on.")]}))
    assert read(path).used == [pair([("user", "What now?")], "Rest.", "Go on.")]
    path.write_text(json.dumps({"messages": [TALK, TALK]}))
    assert len(read(path).used) == 2
    path.write_text(json.dumps({"prompt": ["a", "b"], "completion": ["c"]}))
    assert str(Text("schema.holds_texts", column="prompt")) in read(path).refused


def test_a_refusal_says_what_stands_where_a_text_should_be(tmp_path: Path) -> None:
    assert (
        str(Text("schema.holds_truth", column="answer"))
        in case(tmp_path, [{"question": "Is it?", "answer": True}]).refused
    )


@pytest.mark.parametrize("words", ["null", "[]", "{}", " "])
def test_words_that_are_empty_json_are_words_all_the_same(tmp_path: Path, words: str) -> None:
    row = {"system": words, "instruction": words, "input": words, "output": words}
    read_back = case(tmp_path, [{**row, "instruction": "q", "output": "a"}, {**row, "instruction": "q", "output": "a"}])
    assert read_back.first == chat(("system", words), ("user", f"q\n\n{words}"), ("assistant", "a"))
