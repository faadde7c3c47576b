"""Fields of a message: weights, reasoning, parts, tools and pictures are obeyed, or counted with an example."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trl
from transformers import PreTrainedTokenizerFast

from tests.support import tiny
from tests.support.files_case import Row, assistant, case, user, written
from trainer_core import data
from trainer_core.config.recipe import Columns, Data, MethodChain
from trainer_core.data import Chat, Message, Pair, ReadRequest, load_data, tokenize
from trainer_core.data.preview.token_view import view_row
from trainer_core.data.quality import analysis
from trainer_core.texts import Text

pytestmark = pytest.mark.real

TEMPLATES = Path(trl.__file__).parent / "chat_templates"


def report(path: Path, steps: tuple[str, ...] = ()) -> data.DataReport:
    *_, found = analysis.analyse_data(ReadRequest(path, checkup=data.CheckOptions(steps=steps)))
    assert isinstance(found, data.DataReport)
    return found


def counts(found: data.DataReport) -> dict[str, int]:
    return {one.code: one.count for one in found.findings}


def drafts(**weight: Any) -> list[Row]:
    return [
        {"messages": [user(f"Hi {n}"), assistant("DRAFT", **weight), user("And?"), assistant("GOOD")]} for n in range(4)
    ]


def learned(item: Any) -> list[bool]:
    return [one.learned for one in item.messages if one.role == "assistant"]


@pytest.mark.parametrize("name", ["weight", "loss_weight", "train", "training", "trainable", "loss"])
@pytest.mark.parametrize("value", [0, 0.0, False, "0", "0.0", "false", "False", "no", -1])
def test_an_answer_with_weight_0_is_read_and_not_learned(tmp_path: Path, name: str, value: object) -> None:
    found = case(tmp_path, drafts(**{name: value}))
    assert (len(found.used), learned(found.first)) == (4, [False, True])
    (note,) = [note for note in found.said if note.code == "selection.fault"]
    assert (note.params["rows"], note.params["total"], note.params["meaning"]) == (4, 4, Text("quality.weight_zero"))


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "true", None])
def test_an_answer_with_weight_1_or_none_is_learned(tmp_path: Path, value: object) -> None:
    found = case(tmp_path, drafts(weight=value))
    assert learned(found.first) == [True, True] and found.said == []


@pytest.mark.parametrize("value", [0.5, "0.25", 2, "some", "NaN"])
def test_a_weight_between_is_taken_as_1_and_counted(tmp_path: Path, value: object) -> None:
    path = written(tmp_path, drafts(weight=value))
    assert counts(report(path))["aside: weight"] == 4
    assert (
        next(one for one in report(path).findings if one.code == "aside: weight").examples[0].snippet
        == f"weight: {value}"
    )
    assert learned(case(tmp_path, drafts(weight=value)).first) == [True, True]


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "parquet"])
def test_weights_are_obeyed_in_every_format_and_spelling(tmp_path: Path, form: str) -> None:
    said = [("human", "Hi", None), ("gpt", "D", 0), ("human", "?", None), ("gpt", "G", 1)]
    turns = [{"from": role, "value": text, "weight": weight} for role, text, weight in said]
    gpt: list[Row] = [{"conversations": turns}] * 3
    assert learned(case(tmp_path, gpt, form).first) == [False, True]
    assert learned(case(tmp_path, drafts(masked=True), form).first) == [False, True]
    lists = {
        "role": ["user", "assistant", "user", "assistant"],
        "content": ["a", "D", "b", "G"],
        "weight": [None, 0, None, 1],
    }
    assert learned(case(tmp_path, [{"messages": lists}] * 2, form).first) == [False, True]


def test_rows_in_which_nothing_is_to_be_learned_are_left_out_with_the_reason(tmp_path: Path) -> None:
    none = case(tmp_path, [{"messages": [user("a"), assistant("b", weight=0)]}])
    assert (none.used, list(none.left_out)) == ([], [Text("quality.unlearned")])
    sides = [{"prompt": [user("a")], "chosen": [assistant("b", weight=0)], "rejected": [assistant("c")]}]
    assert case(tmp_path, sides).used == []
    preference = [{"prompt": [user("a")], "chosen": [assistant("b", weight=1)], "rejected": [assistant("c", weight=0)]}]
    assert len(case(tmp_path, preference).used) == 1, "the rejected answer is not to be imitated anyway"
    assert learned(case(tmp_path, drafts(weight=0), steps=("learn_all",)).first) == [True, True]
    others = case(tmp_path, [{"messages": [user("a", train=True), assistant("b", train=True)]}])
    ignored = Text("ignored.weight_of_others", names="train (1 row)")
    place = Text("selection.line", line=1)
    assert others.said == [Text("selection.ignored", file="rows.jsonl", place=place, meaning=ignored)]


def tokenizer(name: str = "") -> PreTrainedTokenizerFast:
    its = tiny.tokenizer()
    if name:
        its.chat_template = (TEMPLATES / name).read_text(encoding="utf-8")
    return its


def words(its: PreTrainedTokenizerFast, item: Chat) -> str:
    """What is learned of a conversation."""
    row = tokenize.encode_chat(its, item)
    return str(its.decode([label for label in row.labels if label != tokenize.MASKED]))


DRAFT = Chat(
    (
        Message("user", "a"),
        Message("assistant", "DRAFT", learned=False),
        Message("user", "b"),
        Message("assistant", "GOOD"),
    )
)


@pytest.mark.parametrize("name", ["", "llama3.jinja", "qwen2_5.jinja"])
def test_a_masked_answer_is_among_the_tokens_and_carries_no_loss(name: str) -> None:
    its = tokenizer(name)
    row = tokenize.encode_chat(its, DRAFT)
    assert "DRAFT" in its.decode(row.input_ids) and "DRAFT" not in words(its, DRAFT) and "GOOD" in words(its, DRAFT)
    free = Chat(tuple(Message(one.role, one.content) for one in DRAFT.messages))
    assert tokenize.encode_chat(its, free).input_ids == row.input_ids
    assert words(its, free).count("DRAFT") == 1


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_kept_read_and_learned_only_on_request(tmp_path: Path, name: str) -> None:
    rows = [{"messages": [user(f"Two and {n}?"), assistant("Four.", **{name: "Count the beads."})]} for n in range(4)]
    found = case(tmp_path, rows)
    answer = found.first.messages[-1]  # type: ignore[union-attr]
    assert (answer.reasoning, answer.learn_reasoning) == ("Count the beads.", False)
    assert counts(report(written(tmp_path, rows)))["reasoning"] == 4
    its, item = tokenizer("qwen3.jinja"), found.first
    assert isinstance(item, Chat)
    assert "Count the beads." in its.decode(tokenize.encode_chat(its, item).input_ids)
    assert words(its, item).startswith("Four.") and "beads" not in words(its, item)
    also = case(tmp_path, rows, steps=("learn_reasoning",)).first
    assert isinstance(also, Chat) and "Count the beads." in words(its, also)
    without = case(tmp_path, rows, steps=("no_reasoning",)).first
    assert isinstance(without, Chat) and without.messages[-1].reasoning == ""
    assert "reasoning" not in counts(report(written(tmp_path, rows), ("learn_reasoning",)))


@pytest.mark.parametrize(
    ("name", "invitation"), [("gptoss.jinja", "final"), ("qwen3.jinja", "</think>"), ("glm4moe.jinja", "</think>")]
)
def test_reasoning_is_masked_however_a_template_writes_it(name: str, invitation: str) -> None:
    its = tokenizer(name)
    item = Chat((Message("user", "Two and two?"), Message("assistant", "Four.", reasoning="Count the beads.")))
    text = its.decode(tokenize.encode_chat(its, item).input_ids)
    assert "Count the beads." in text and invitation in text
    assert words(its, item).startswith("Four.")


def test_a_template_without_a_place_for_reasoning_is_counted(tmp_path: Path) -> None:
    item = Chat((Message("user", "a"), Message("assistant", "b", reasoning="hmm")))
    _, notes = tokenize.sft_rows(tokenizer(), [item, Chat(item.messages[:1] + (Message("assistant", "b"),))], 64)
    assert Text("tokens.reasoning_unwritten", rows=1, total=2) in notes
    _, notes = tokenize.sft_rows(tokenizer("qwen3.jinja"), [item], 64)
    assert notes == []


def test_dpo_leaves_reasoning_out_and_says_so_unless_it_is_to_be_learned() -> None:
    def sides(learn: bool) -> Pair:
        answers = (Message("assistant", text, True, "hmm", learn) for text in ("b", "c"))
        chosen, rejected = ((one,) for one in answers)
        return Pair((Message("user", "a"),), chosen, rejected)

    its = tokenizer("qwen3.jinja")
    rows, notes = tokenize.pair_rows(its, [sides(False)], 64)
    assert "hmm" not in its.decode(rows[0].chosen) and notes[0] == Text("tokens.reasoning_dropped", rows=1, total=1)
    rows, notes = tokenize.pair_rows(its, [sides(True)], 64)
    assert "hmm" in its.decode(rows[0].chosen) and notes == []
    assert len(view_row(its, sides(False), 64).sides) == 2


def test_reasoning_in_parts_in_columns_and_of_other_kinds(tmp_path: Path) -> None:
    def thought(row: Row) -> str:
        return case(tmp_path, [row]).first.messages[-1].reasoning  # type: ignore[union-attr]

    parts = [{"type": "thinking", "thinking": "hmm"}, {"type": "text", "text": "b"}]
    assert thought({"messages": [user("a"), assistant(parts)]}) == "hmm"
    assert thought({"messages": [user("a"), assistant([{"type": "reasoning", "text": "hmm"}, "b"])]}) == "hmm"
    assert thought({"prompt": "a", "reasoning_content": "hmm", "completion": "b"}) == "hmm"
    assert thought({"messages": json.dumps([user("a"), assistant("b", reasoning_content="hmm")])}) == "hmm"
    odd = case(tmp_path, [{"messages": [user("a"), assistant("b", reasoning={"effort": "high"}, name="Eve")]}])
    assert "reasoning (1 row), name (1 row)" in str(odd.said[0])


PARTS: list[Any] = [
    [{"type": "text", "value": "Hello"}], [{"type": "text", "text": "Hel"}, {"type": "text", "value": "lo"}], ["Hel", "lo"],
    {"type": "text", "text": "Hello"}, [{"type": "text", "text": {"value": "Hello", "annotations": []}}],
    [{"type": "text", "content": "Hello"}], [{"type": "input_text", "text": "Hello"}], [{"text": "Hello", "type": None}],
    json.dumps([{"type": "text", "text": "Hello"}]), [{"type": "text", "text": "Hello", "image_url": None}],
]  # fmt: skip


@pytest.mark.parametrize("content", PARTS)
def test_the_text_of_a_part_is_found_wherever_it_stands(tmp_path: Path, content: Any) -> None:
    found = case(tmp_path, [{"messages": [user(content), assistant("b")]}])
    assert (found.left_out, found.first.messages[0].content) == ({}, "Hello")  # type: ignore[union-attr]


def test_parts_that_are_no_text_are_refused_by_their_type(tmp_path: Path) -> None:
    def reasons(part: Row) -> list[Text]:
        return list(case(tmp_path, [{"messages": [user([part]), assistant("b")]}]).left_out)

    picture = Text("cells.other_part", column="messages", type="image")
    assert reasons({"type": "image", "image": "a.png"}) == reasons({"type": "image", "text": ""}) == [picture]
    assert reasons({"type": "tool_use", "name": "f"}) == [Text("cells.tool_calls", column="messages")]


def test_pictures_are_noticed_in_columns_fields_and_words(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"messages": [user("<image>What is it?"), assistant("A cup.")], "images": ["cup.jpg"]},
        {"messages": [user("<image>And this?"), assistant("A jug.")], "images": []},
        {"messages": [user("And that?", images=["pot.jpg"]), assistant("A pot.")]},
        {"messages": [user("And now?"), assistant("Nothing.")]},
    ]
    path = written(tmp_path, rows)
    found = next(one for one in report(path).findings if one.code == "pictures")
    assert (found.count, [one.step for one in found.remedies]) == (3, ["strip_pictures", "drop_pictures"])
    assert "images (2 rows)" in found.sentence
    assert report(path).files[0].unused == ("images",)
    about = {"file": path.name, "shape": "chat messages", "columns": "messages ← messages", "rows": 4}
    assert next(report(path).as_lines()) == str(Text("data_report.file_unused", **about, unused="images"))
    assert case(tmp_path, rows, steps=("strip_pictures",)).first.messages[0].content == "What is it?"  # type: ignore[union-attr]
    assert len(case(tmp_path, rows, steps=("drop_pictures",)).used) == 1


def tool_rows() -> Iterator[Row]:
    calls = [
        {"from": "human", "value": "When?"},
        {"from": "function_call", "value": "{}"},
        {"from": "observation", "value": "9"},
    ]
    yield {"conversations": [*calls, {"from": "gpt", "value": "At nine."}], "tools": '[{"name": "clock"}]'}
    yield {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "tools": "[]"}
    yield {
        "conversations": [{"from": "human", "value": "Yo"}, {"from": "gpt", "value": "Hello"}],
        "tools": [{"name": "clock"}],
    }


def test_tool_lists_and_calls_are_a_finding_with_a_way_out(tmp_path: Path) -> None:
    path = written(tmp_path, list(tool_rows()))
    found = next(one for one in report(path).findings if one.code == "tools")
    title = str(Text("quality_titles.tools"))
    assert (found.title, found.count, found.of, found.examples[0].line) == (title, 2, 3, 1)
    assert [one.step for one in found.remedies] == ["drop_tools"]
    assert "tools (2 rows), function_call (1 row)" in found.sentence
    assert len(case(tmp_path, list(tool_rows()), steps=("drop_tools",)).used) == 1
    call = {"messages": [user("a"), assistant(None, tool_calls=[{"function": {"name": "f"}}])]}
    refused = report(
        written(tmp_path, [call, {"messages": [user("a"), assistant("b", tool_calls=[], function_call=None)]}])
    )
    assert [(one.title, one.count) for one in refused.findings if one.level == "error"] == [
        (str(Text("finding_titles.tool_calls")), 1)
    ]
    assert refused.usable == 1


def test_a_run_is_told_the_same(tmp_path: Path) -> None:
    loaded = load_data(Data(pairs=None, chat=str(written(tmp_path, drafts(weight=0)))), MethodChain("sft"))
    about = {"rows": 4, "total": 4, "file": "rows.jsonl", "places": "line 1, line 2, line 3, line 4"}
    assert Text("selection.fault", **about, meaning=Text("quality.weight_zero")) in loaded.notes
    free = load_data(Data(pairs=None, chat=str(written(tmp_path, drafts(weight=1)))), MethodChain("sft"))
    assert loaded.sha256 != free.sha256 and learned(loaded.chats[0]) == [False, True]
    assert Columns(reasoning="why").column_by_part == {"reasoning": "why"}


def test_joining_turns_keeps_what_is_masked_apart(tmp_path: Path) -> None:
    rows = [{"messages": [user("a"), assistant("D", weight=0), assistant("G"), assistant("H")]}]
    said = case(tmp_path, rows, steps=("join_turns",)).first.messages  # type: ignore[union-attr]
    assert [(one.content, one.learned) for one in said] == [("a", True), ("D", False), ("G\n\nH", True)]
