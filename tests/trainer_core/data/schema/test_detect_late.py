"""The shape of a file comes from all of its rows: what appears or is first filled late is used like the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import case_rows, cases
from tests.support.files_case import FORMATS, Row, assistant, case, chat, pair, user, written
from trainer_core import data
from trainer_core.config.recipe import Columns
from trainer_core.data import ReadRequest
from trainer_core.data.quality import analysis
from trainer_core.data.read_events import UsableRow
from trainer_core.data.stream import stream_rows
from trainer_core.texts import Text

EARLY = 230
"""More rows than any sample of the first rows would have."""


def plain(n: int) -> Row:
    return {"instruction": f"Count to {n}.", "output": f"… {n}."}


def late(*more: Row) -> list[Row]:
    return [*map(plain, range(EARLY)), *({**plain(EARLY + n), **one} for n, one in enumerate(more))]


@pytest.mark.parametrize("form", FORMATS)
def test_an_input_that_comes_late_belongs_to_its_prompt(tmp_path: Path, form: str) -> None:
    found = case(tmp_path, late({"input": "in Latin"}, {"input": "in Greek"}), form)
    assert (len(found.used), found.left_out, found.columns["input"]) == (EARLY + 2, {}, "input")
    assert found.used[-1] == chat(("user", f"Count to {EARLY + 1}.\n\nin Greek"), ("assistant", f"… {EARLY + 1}."))
    assert found.first == chat(("user", "Count to 0."), ("assistant", "… 0."))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("empty", [None, [], "missing"])
def test_a_history_that_is_filled_late_comes_before_its_prompt(tmp_path: Path, form: str, empty: object) -> None:
    rows = late({"history": [["Hi.", "Hello."]]})
    if empty != "missing":
        rows = [{"history": empty, **row} for row in rows]
    found = case(tmp_path, rows, form)
    assert found.used[-1].messages[:2] == chat(("user", "Hi."), ("assistant", "Hello.")).messages  # type: ignore[union-attr]
    assert (len(found.used), len(found.used[-1].messages), len(found.first.messages)) == (EARLY + 1, 4, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("more", "first"),
    [
        ({"system": "Be brief."}, ("system", "Be brief.")),
        ({"system_prompt": "Be brief."}, ("system", "Be brief.")),
        ({"history": [user("Hi."), assistant("Hello.")]}, ("user", "Hi.")),
        ({"context": "Numbers"}, ("user", f"Count to {EARLY}.\n\nNumbers")),
    ],
)
def test_any_part_that_may_be_there_may_come_late(tmp_path: Path, more: Row, first: tuple[str, str]) -> None:
    found = case(tmp_path, late(more))
    message = found.used[-1].messages[0]  # type: ignore[union-attr]
    assert ((message.role, message.content), len(found.used)) == (first, EARLY + 1)


def test_an_instruction_that_comes_late_does_not_turn_away_rows_that_have_only_an_input(tmp_path: Path) -> None:
    rows: list[Row] = [{"input": f"Count to {n}.", "output": "…"} for n in range(EARLY)]
    found = case(tmp_path, [*rows, {"instruction": "Translate.", "input": "one", "output": "uno"}])
    assert (len(found.used), found.left_out) == (EARLY + 1, {})
    assert found.used[-1] == chat(("user", "Translate.\n\none"), ("assistant", "uno"))
    assert found.first == chat(("user", "Count to 0."), ("assistant", "…"))


def test_a_few_rows_of_another_shape_do_not_turn_away_the_others(tmp_path: Path) -> None:
    found = case(tmp_path, [*map(plain, range(EARLY)), {"messages": [user("a"), assistant("b")]}])
    assert (len(found.used), [len(places) for places in found.left_out.values()]) == (EARLY, [1])
    assert any("messages (1 row)" in str(note) for note in found.said)


@pytest.mark.parametrize(
    ("one", "other", "columns"),
    [
        ({"prompt": "p", "completion": "c"}, {"prompt": "p", "response": "c"}, ["response"]),
        ({"messages": [user("p"), assistant("c")]}, {"conversations": [user("p"), assistant("c")]}, ["conversations"]),
        ({"question": "p", "answer": "c"}, {"instruction": "p", "output": "c"}, ["instruction", "output"]),
    ],
)
def test_a_part_under_another_name_later_is_the_same_part(
    tmp_path: Path, one: Row, other: Row, columns: list[str]
) -> None:
    found = case(tmp_path, [one] * EARLY + [other] * 3)
    assert (set(found.used), len(found.used)) == ({chat(("user", "p"), ("assistant", "c"))}, EARLY + 3)
    meaning = Text("ignored.other_column", names=", ".join(f"{name} (3 rows)" for name in columns))
    about = {"file": "rows.jsonl", "place": Text("selection.line", line=EARLY + 1), "meaning": meaning}
    assert Text("selection.ignored", **about) in found.said


def test_scores_tools_and_weights_are_seen_wherever_they_stand(tmp_path: Path) -> None:
    pairs: list[Row] = [{"prompt": f"p{n}", "chosen": "c", "rejected": "r"} for n in range(EARLY)]
    path = written(tmp_path, [*pairs, {**pairs[0], "prompt": "q", "score_chosen": 1, "score_rejected": 4}])
    *_, report = analysis.analyse_data(ReadRequest(path, checkup=data.CheckOptions()))
    assert isinstance(report, data.DataReport)
    assert [one.count for one in report.findings if one.code == "reversed"] == [1]
    chats: list[Row] = [{"messages": [user(f"u{n}"), assistant("a")]} for n in range(EARLY)]
    found = case(tmp_path, [*chats, {"messages": [user("u"), assistant("a")], "tools": [{"name": "clock"}]}])
    facts = {"rows": 1, "total": EARLY + 1, "places": f"line {EARLY + 1}"}
    assert any(facts.items() <= note.params.items() for note in found.said)


def test_columns_that_come_late_can_be_mapped_by_hand_and_are_shown(tmp_path: Path) -> None:
    path = written(tmp_path, late({"extra": "in Latin"}))
    assert [one.name for one in data.preview_dataset(path).columns] == ["instruction", "output", "extra"]
    columns = Columns(prompt="instruction", input="extra", answer="output")
    *_, last = (one for one in stream_rows(ReadRequest(path, columns)) if isinstance(one, UsableRow))
    assert last.item.messages[0].content == f"Count to {EARLY}.\n\nin Latin"  # type: ignore[union-attr]


def test_the_first_rows_alone_are_asked_for_and_looked_at(tmp_path: Path) -> None:
    path = written(tmp_path, late({"input": "in Latin"}))
    found = [one for one in stream_rows(ReadRequest(path, rows=10)) if isinstance(one, UsableRow)]
    assert (len(found), found[-1].row) == (10, 10)


def test_every_column_nobody_uses_is_counted_with_its_first_row(tmp_path: Path) -> None:
    rows: list[Row] = [{**plain(n), **({"source": f"book {n}", "solution": ""} if n > 1 else {})} for n in range(6)]
    path = written(tmp_path, rows)
    *_, report = analysis.analyse_data(ReadRequest(path, checkup=data.CheckOptions()))
    assert isinstance(report, data.DataReport)
    aside = next(one for one in report.findings if one.code == "aside: column")
    assert (aside.count, aside.examples[0].line, aside.examples[0].snippet) == (4, 3, "source: book 2")
    assert report.files[0].unused == ("source", "solution")
    assert "Not used: source, solution." in next(iter(report.as_lines()))
    ignored = Text("ignored.column", names="source (4 rows)")
    place = Text("selection.line", line=3)
    assert case(tmp_path, rows).said == [Text("selection.ignored", file="rows.jsonl", place=place, meaning=ignored)]


def test_more_columns_than_any_data_has_are_bounded_and_said(tmp_path: Path) -> None:
    found = case(tmp_path, [{**plain(n), **{f"c{n}_{at}": 1 for at in range(90)}} for n in range(20)])
    assert len(found.used) == 20 and Text("files.many_columns", file="rows.jsonl", limit=1000) in found.said


def test_cases_says_what_becomes_of_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(
        tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": "b"}]
    )
    (tmp_path / "notes.md").write_text("not data")
    assert cases.main([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "1 rows used, 1 left out" in told and f"1 left out, such as line 2: {Text('quality.identical')}" in told
    assert "  chosen, assistant (learned): b" in told and "notes.md" not in told
    assert case_rows.read(tmp_path / "nowhere.jsonl").refused


def test_a_system_prompt_of_the_prompt_list_stays_where_the_sides_are_whole(tmp_path: Path) -> None:
    says, asked = {"role": "system", "content": "S"}, [("system", "S"), ("user", "q")]
    sides = {"chosen": [user("q"), assistant("c")], "rejected": [user("q"), assistant("r")]}
    whole = pair(asked, "c", "r")
    assert case(tmp_path, [{"prompt": [says, user("q")], **sides}]).used == [whole]
    assert case(tmp_path, [{"prompt": [says], **sides}]).used == [whole]
    assert case(tmp_path, [{"prompt": json.dumps([says, user("q")]), **sides}]).used == [whole]
    assert case(tmp_path, [{"prompt": "q", "system": "S", **sides}]).used == [whole]
    earlier = [says, user("p"), assistant("a"), user("q")]
    longer = pair([("system", "S"), ("user", "p"), ("assistant", "a"), ("user", "q")], "c", "r")
    assert case(tmp_path, [{"prompt": earlier, **sides}]).used == [longer]
    differs = case(tmp_path, [{"prompt": [says, user("other")], **sides}])
    assert differs.used == [whole] and any("prompt (1 row)" in str(note) for note in differs.said)
    own = {name: [{"role": "system", "content": "T"}, *side] for name, side in sides.items()}
    second = case(tmp_path, [{"prompt": [says, user("q")], **own}])
    assert second.used == [pair([("system", "T"), ("user", "q")], "c", "r")]
    place, meaning = Text("selection.line", line=1), Text("ignored.system", names="prompt (1 row)")
    assert Text("selection.ignored", file="rows.jsonl", place=place, meaning=meaning) in second.said
