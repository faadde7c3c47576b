"""The same conversations, written in every shape and format people use, come back as the same rows, to the byte."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from trainer_core.config.recipe import Columns
from trainer_core.data import Chat, Message, Pair, ReadRequest
from trainer_core.data.read_events import IgnoredContent, SchemaDetected, UnusableRow, UsableRow
from trainer_core.data.schema.messages import Role
from trainer_core.data.stream import stream_rows
from trainer_core.errors import DataError
from trainer_core.texts import Text

Row = dict[str, Any]


def says(role: str, content: object) -> dict[str, Any]:
    return {"role": role, "content": content}


def plain(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    return [says(message.role, message.content) for message in messages]


def sharegpt(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "function"}
    return [{"from": names[message.role], "value": message.content} for message in messages]


def parts(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    return [
        says(m.role, [{"type": "text", "text": m.content[:1]}, {"type": "text", "text": m.content[1:]}])
        for m in messages
    ]


def chatml(messages: tuple[Message, ...]) -> str:
    return "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)


def transcript(messages: tuple[Message, ...]) -> str:
    return "".join(f"\n\n{'Human' if m.role == 'user' else 'Assistant'}: {m.content}" for m in messages)


def scored(pair: Pair) -> list[dict[str, Any]]:
    middle = {"response": "so so", "overall_score": 5.0}
    best, worst = {"response": pair.chosen[0].content}, {"response": pair.rejected[0].content}
    return [middle, {**worst, "overall_score": 1.5}, {**best, "overall_score": 9.0}]


@dataclass(frozen=True)
class Writer:
    """One shape: what it is called when found, how a conversation or a pair is written in it, and what it can hold."""

    name: str
    row: Callable[[Any], Row]
    turns: int = 1
    system: bool = False


CHATS = (
    Writer("Alpaca", lambda c: {"instruction": c[0].content, "input": "", "output": c[1].content}),
    Writer("ShareGPT", lambda c: {"conversations": sharegpt(c)}, 3, True),
    Writer("chat messages", lambda c: {"messages": plain(c)}, 3, True),
    Writer("chat messages", lambda c: {"dialog_turns": parts(c), "id": "7"}, 3, True),
    Writer("prompt and completion", lambda c: {"prompt": c[0].content, "completion": c[1].content}),
    Writer("prompt and completion", lambda c: {"prompt": plain(c[:-1]), "completion": plain(c[-1:])}, 3, True),
    Writer(
        "prompt and completion",
        lambda c: {"system": c[0].content, "query": c[1].content, "response": c[2].content},
        1,
        True,
    ),
    Writer("question and answer", lambda c: {"question": c[0].content, "answer": c[1].content}),
    Writer("conversations written in ChatML", lambda c: {"text": chatml(c)}, 3, True),
)
PAIRS = (
    Writer(
        "preference pairs",
        lambda p: {"prompt": p.prompt[0].content, "chosen": p.chosen[0].content, "rejected": p.rejected[0].content},
    ),
    Writer(
        "preference pairs",
        lambda p: {
            "system": p.prompt[0].content,
            "question": p.prompt[1].content,
            "chosen": p.chosen[0].content,
            "rejected": p.rejected[0].content,
        },
        1,
        True,
    ),
    Writer(
        "preference pairs as messages",
        lambda p: {"prompt": plain(p.prompt), "chosen": plain(p.chosen), "rejected": plain(p.rejected)},
        3,
        True,
    ),
    Writer(
        "preference pairs as messages",  # UltraFeedback: both sides hold the prompt again
        lambda p: {
            "prompt": p.prompt[-1].content,
            "chosen": plain(p.prompt + p.chosen),
            "rejected": plain(p.prompt + p.rejected),
            "messages": plain(p.prompt + p.chosen),
            "score_chosen": 8.0,
            "score_rejected": 2.0,
        },
        3,
        True,
    ),
    Writer(
        "preference pairs as whole conversations",
        lambda p: {"chosen": plain(p.prompt + p.chosen), "rejected": plain(p.prompt + p.rejected)},
        3,
        True,
    ),
    Writer(
        "preference pairs as whole conversations",
        lambda p: {"chosen_messages": plain(p.prompt + p.chosen), "rejected_messages": plain(p.prompt + p.rejected)},
        3,
    ),
    Writer(
        "ShareGPT pairs",
        lambda p: {
            "conversations": sharegpt(p.prompt),
            "chosen": sharegpt(p.chosen)[0],
            "rejected": sharegpt(p.rejected)[0],
        },
        3,
        True,
    ),
    Writer(
        "Anthropic HH transcripts",
        lambda p: {"chosen": transcript(p.prompt + p.chosen), "rejected": transcript(p.prompt + p.rejected)},
        3,
    ),
    Writer("scored answers", lambda p: {"instruction": p.prompt[0].content, "completions": scored(p)}),
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=2, max_size=30)
"""Any Unicode with line breaks, quotes and commas; nothing that a format or a shape gives a meaning of its own."""
WORDS = TEXTS.filter(
    lambda text: (
        text.strip() and text[0] not in "[{" and not any(mark in text for mark in ("Human:", "Assistant:", "<|"))
    )
)


@st.composite
def prompts(draw: st.DrawFn, turns: int, system: bool) -> tuple[Message, ...]:
    rounds = draw(st.integers(1, turns))
    roles: list[Role] = [*("user", "assistant") * (rounds - 1), "user"]
    front: list[Role] = ["system"] if system else []
    return tuple(Message(role, draw(WORDS)) for role in front + roles)


def written(rows: list[Row], form: str) -> bytes:
    match form:
        case "jsonl":
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        case "json":
            return json.dumps(rows, indent=2).encode()
        case "parquet":
            out = io.BytesIO()
            parquet.write_table(pyarrow.Table.from_pylist(rows), out)
            return out.getvalue()
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(
        [
            {key: json.dumps(cell) if isinstance(cell, list | dict) else cell for key, cell in row.items()}
            for row in rows
        ]
    )
    return text.getvalue().encode()


def read_back(path: Path, columns: Columns | None = None) -> tuple[str, list[Any]]:
    news = [one for one in stream_rows(ReadRequest(path, columns)) if not isinstance(one, IgnoredContent)]
    assert [type(one) for one in news] == [SchemaDetected] + [UsableRow] * (len(news) - 1), news
    return news[0].shape.name, [one.item for one in news[1:]]  # type: ignore[union-attr]


QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FORMATS = ("jsonl", "json", "csv", "parquet")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("at", range(len(CHATS)))
@QUICK
@given(data=st.data(), packed=st.booleans())
def test_chats_come_back(tmp_path: Path, at: int, form: str, data: st.DataObject, packed: bool) -> None:
    writer = CHATS[at]
    prompt = prompts(writer.turns, writer.system)
    chats = [(*data.draw(prompt), Message("assistant", data.draw(WORDS))) for _ in range(data.draw(st.integers(1, 4)))]
    content = written([writer.row(chat) for chat in chats], form)
    path = tmp_path / f"rows.{form}"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    assert read_back(path) == (writer.name, [Chat(chat) for chat in chats])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("at", range(len(PAIRS)))
@QUICK
@given(data=st.data(), packed=st.booleans())
def test_pairs_come_back(tmp_path: Path, at: int, form: str, data: st.DataObject, packed: bool) -> None:
    writer = PAIRS[at]
    answer = st.tuples(st.builds(Message, st.just("assistant"), WORDS))
    pair = st.builds(Pair, prompts(writer.turns, writer.system), answer, answer)
    pairs = data.draw(st.lists(pair, min_size=1, max_size=4))
    content = written([writer.row(pair) for pair in pairs], form)
    path = tmp_path / f"rows.{form}"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    assert read_back(path) == (writer.name, pairs)


@QUICK
@given(texts=st.lists(WORDS, min_size=1, max_size=4))
def test_plain_text_is_one_turn_of_the_assistant(tmp_path: Path, texts: list[str]) -> None:
    for form in FORMATS:
        (tmp_path / form).write_bytes(written([{"text": text} for text in texts], form))
        assert read_back(tmp_path / form) == ("plain text", [Chat((Message("assistant", text),)) for text in texts])


def one_row(tmp_path: Path, row: Row, columns: Columns | None = None) -> Any:
    (tmp_path / "one.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return read_back(tmp_path / "one.jsonl", columns)[1][0]


def test_alpaca_input_follows_the_instruction(tmp_path: Path) -> None:
    chat = one_row(tmp_path, {"instruction": "Add.", "input": "1, 2", "output": "3", "history": [["Hi", "Hello"]]})
    assert [m.content for m in chat.messages] == ["Hi", "Hello", "Add.\n\n1, 2", "3"]


def test_columns_by_hand(tmp_path: Path) -> None:
    row = {"q": "Why?", "gut": "Because.", "schlecht": "No."}
    with pytest.raises(DataError) as unknown:
        one_row(tmp_path, row)
    columns = Text("schema.columns", count=3, names="q, gut, schlecht")
    assert (unknown.value.text.code, unknown.value.text.params["columns"]) == ("schema.unknown", columns)
    pair = one_row(tmp_path, row, Columns(prompt="q", chosen="gut", rejected="schlecht"))
    assert pair == Pair((Message("user", "Why?"),), (Message("assistant", "Because."),), (Message("assistant", "No."),))
    with pytest.raises(DataError) as missing:
        one_row(tmp_path, row, Columns(prompt="q", chosen="gut", rejected="bad"))
    about = {"file": "one.jsonl", "column": "bad", "part": "rejected", "columns": columns}
    assert missing.value.text == Text("schema.no_column", **about)
    with pytest.raises(DataError) as neither:
        one_row(tmp_path, row, Columns(prompt="q"))
    assert neither.value.text.code == "schema.bad_mapping"


def test_a_wrapped_list_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "wrapped.json"
    path.write_text(
        json.dumps({"version": 2, "data": [{"question": "A?", "answer": 1}, {"question": "B?", "answer": 2.5}]})
    )
    assert [item.messages[1].content for item in read_back(path)[1]] == ["1", "2.5"]


def test_one_chat_object_is_one_row_not_a_list_of_its_turns(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"messages": [says("user", "Hi"), says("assistant", "Hello")]}, indent=1))
    assert read_back(path) == ("chat messages", [Chat((Message("user", "Hi"), Message("assistant", "Hello")))])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [says("user", "Hi")]}, Text("cells.no_answer")),
        (
            {"messages": [says("narrator", "Hi"), says("assistant", "x")]},
            Text("cells.unknown_role", column="messages", role="narrator"),
        ),
        (
            {"messages": [says("user", [{"type": "image_url"}]), says("assistant", "x")]},
            Text("cells.other_part", column="messages", type="image_url"),
        ),
        (
            {"messages": [says("user", "x"), {**says("assistant", ""), "tool_calls": [1]}]},
            Text("cells.tool_calls", column="messages"),
        ),
        (
            {
                "chosen": [says("user", "a"), says("assistant", "b")],
                "rejected": [says("user", "c"), says("assistant", "d")],
            },
            Text("cells.different_prompts"),
        ),
        (
            {"prompt": "a", "completions": [{"response": "x", "score": 1}, {"response": "y", "score": 1}]},
            Text("cells.no_preference"),
        ),
    ],
)
def test_a_row_that_does_not_fit_says_why(tmp_path: Path, row: Row, reason: Text) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    *_, last = stream_rows(ReadRequest(path))
    assert isinstance(last, UnusableRow) and last.reason == reason
