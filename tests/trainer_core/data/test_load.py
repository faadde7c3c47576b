"""What a run trains on: which rows, which are held out, and that nothing is left out in silence."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest

from trainer_core.config.recipe import SAMPLE, Columns, Data, MethodChain, RemedyName
from trainer_core.data import Chat, Message, Pair, count_rows, load_data, split
from trainer_core.data.quality.remedies import STEP_NAMES, RemedyPipeline
from trainer_core.data.schema.messages import normalise_text, prompt_key
from trainer_core.data.select import EXAMPLES, PAIRS
from trainer_core.errors import DataError
from trainer_core.texts import Text

Row = dict[str, Any]


def pair(n: int, prompt: str | None = None) -> Row:
    return {"prompt": prompt or f"Question {n}?", "chosen": f"Good {n}.", "rejected": f"Bad {n}."}


def saved(path: Path, rows: list[Row]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def keys(pairs: tuple[Pair, ...]) -> set[int]:
    return {prompt_key(pair.prompt) for pair in pairs}


def test_sft_learns_the_chosen_answers_and_nothing_held_out_is_trained(tmp_path: Path) -> None:
    loaded = load_data(Data(pairs=saved(tmp_path / "p.jsonl", [pair(n) for n in range(400)])), MethodChain("sft+dpo"))
    assert (len(loaded.chats), len(loaded.pairs), len(loaded.held_out), len(loaded.held_out_chats)) == (
        380,
        380,
        20,
        20,
    )
    assert loaded.chats[0] == Chat(loaded.pairs[0].prompt + loaded.pairs[0].chosen)
    assert keys(loaded.pairs).isdisjoint(keys(loaded.held_out))
    assert loaded.notes == (Text("selection.held_out", rows=20, total=400, what=PAIRS),)


def test_the_same_rows_are_held_out_in_any_order(tmp_path: Path) -> None:
    rows = [pair(n) for n in range(300)]
    first = load_data(Data(pairs=saved(tmp_path / "a.jsonl", rows)), MethodChain("dpo"))
    random.Random(1).shuffle(rows)
    second = load_data(Data(pairs=saved(tmp_path / "b.jsonl", rows)), MethodChain("dpo"))
    assert set(first.held_out) == set(second.held_out)
    assert first.sha256 != second.sha256
    assert first.sha256 == load_data(Data(pairs=str(tmp_path / "a.jsonl")), MethodChain("dpo")).sha256


@pytest.mark.parametrize(
    ("rows", "held_out"), [(3, 0), (4, 1), (32, 8), (63, 15), (64, 16), (320, 16), (400, 20), (4000, 200), (9000, 200)]
)
def test_how_many_are_held_out(rows: int, held_out: int) -> None:
    assert split.held_out_size(rows) == held_out


def test_rows_with_one_prompt_stay_on_one_side(tmp_path: Path) -> None:
    rows = [pair(n, f"question  {n % 100}?" if n > 100 else f"Question {n % 100}?") for n in range(500)]
    loaded = load_data(Data(pairs=saved(tmp_path / "p.jsonl", rows)), MethodChain("dpo"))
    assert len(loaded.held_out) == 25
    assert keys(loaded.pairs).isdisjoint(keys(loaded.held_out))
    assert set(Counter(prompt_key(one.prompt) for one in loaded.held_out).values()) == {5}


def test_no_white_space_counts_in_a_prompt() -> None:
    white = [letter for letter in map(chr, range(sys.maxunicode + 1)) if letter.isspace()]
    assert len(white) > 20
    for one in white:
        for other in white:
            assert normalise_text(f"{one}{other}So{one}many {other}{other}Spaces{other}{one}{one}") == "so many spaces"


def test_a_prompt_that_fills_the_set_cannot_be_held_out(tmp_path: Path) -> None:
    loaded = load_data(
        Data(pairs=saved(tmp_path / "p.jsonl", [pair(n, "Always?") for n in range(100)])), MethodChain("dpo")
    )
    assert len(loaded.pairs) == 100
    assert loaded.notes == (Text("selection.none_held_out", total=100, what=PAIRS),)


def test_a_held_out_file_is_kept_out_of_both_stages(tmp_path: Path) -> None:
    pairs = saved(tmp_path / "p.jsonl", [pair(n) for n in range(50)])
    held_out = saved(tmp_path / "h.jsonl", [pair(0, "QUESTION 3?"), pair(1, "Another?")])
    chats = saved(tmp_path / "c.jsonl", [{"question": f"Question {n}?", "answer": "x"} for n in range(100)])
    loaded = load_data(Data(pairs=pairs, held_out=held_out, chat=chats), MethodChain("sft+dpo"))
    assert (len(loaded.pairs), len(loaded.held_out)) == (49, 2)
    assert Text("selection.same_prompt", rows=1, total=50, what=PAIRS) in loaded.notes
    assert Text("selection.same_prompt", rows=1, total=100, what=EXAMPLES) in loaded.notes
    asked = {chat.messages[0].content for chat in loaded.chats + loaded.held_out_chats}
    assert len(asked) == 99 and "Question 3?" not in asked


@pytest.mark.parametrize("asked", [1, 3])
def test_a_later_turn_of_a_chat_can_leak_too(tmp_path: Path, asked: int) -> None:
    said = [("user", "Question 1?"), ("assistant", "Good."), ("user", "And?"), ("assistant", "More.")]
    turns = [{"role": role, "content": text} for role, text in said]
    chats: list[Row] = [{"messages": turns}]
    chats += [
        {"messages": [{"role": "user", "content": f"Else {n}?"}, {"role": "assistant", "content": "y"}]}
        for n in range(9)
    ]
    sides = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    held_out = saved(tmp_path / "h.jsonl", [{"prompt": turns[:asked], **sides}])
    data = Data(chat=saved(tmp_path / "c.jsonl", chats), pairs=None, held_out=held_out)
    loaded = load_data(data, MethodChain("sft"))
    assert len(loaded.chats) + len(loaded.held_out_chats) == 9


def test_the_sample_data_is_complete() -> None:
    loaded = load_data(Data(), MethodChain("sft+dpo"))
    assert len(loaded.pairs) >= 300 and len(loaded.held_out) >= 40
    assert loaded.notes == ()


def test_first_rows_only(tmp_path: Path) -> None:
    pairs = saved(tmp_path / "p.jsonl", [pair(n) for n in range(100)])
    loaded = load_data(Data(pairs=pairs, pair_rows=32), MethodChain("dpo"))
    assert {one.prompt[0].content for one in loaded.pairs + loaded.held_out} == {f"Question {n}?" for n in range(32)}


def test_unusable_rows_are_counted_and_named(tmp_path: Path) -> None:
    rows = [pair(n) for n in range(20)]
    rows[2]["rejected"] = rows[2]["chosen"]
    for at in range(4, 11):
        rows[at]["chosen"] = " \n"
    del rows[15]["prompt"]
    rows[16]["prompt"] = ""
    loaded = load_data(Data(pairs=saved(tmp_path / "p.jsonl", rows)), MethodChain("dpo"))
    assert loaded.notes[:4] == tuple(
        Text("selection.left_out", rows=count, total=20, file="p.jsonl", places=places, reason=reason)
        for count, places, reason in (
            (1, "line 3", Text("quality.identical")),
            (7, "line 5, line 6, line 7, line 8, line 9, …", Text("quality.empty_answer")),
            (1, "line 16", Text("cells.missing", column="prompt")),
            (1, "line 17", Text("quality.empty_prompt")),
        )
    )
    assert len(loaded.pairs) + len(loaded.held_out) == 10


def test_chats_where_pairs_are_needed(tmp_path: Path) -> None:
    chats = saved(tmp_path / "c.jsonl", [{"instruction": f"Do {n}.", "output": "Done."} for n in range(40)])
    with pytest.raises(DataError) as error:
        load_data(Data(pairs=chats), MethodChain("dpo"))
    assert error.value.text == Text("selection.no_pairs", file="c.jsonl", shape="Alpaca")
    assert len(load_data(Data(pairs=chats), MethodChain("sft")).chats) == 30


def test_a_chat_that_nobody_answers_at_the_end_is_cut_there(tmp_path: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user")]
    loaded = load_data(Data(pairs=None, chat=saved(tmp_path / "c.jsonl", [{"messages": turns}])), MethodChain("sft"))
    assert loaded.chats == (Chat((Message("user", "user"), Message("assistant", "assistant"))),)


def test_damaged_lines_stop_a_run_unless_they_may_be_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    saved(path, [pair(n) for n in range(10)])
    path.write_text(path.read_text().replace('"Question 6?"', '"Question 6?'))
    with pytest.raises(
        DataError, match=r"p\.jsonl, line 7, column 27: not valid JSON.*\n.*1 damaged line in p\.jsonl"
    ) as error:
        load_data(Data(pairs=str(path)), MethodChain("dpo"))
    assert (error.value.text.code, error.value.text.params["lines"]) == ("selection.damaged", 1)
    loaded = load_data(Data(pairs=str(path), steps=("skip_damaged",)), MethodChain("dpo"))
    assert len(loaded.pairs) + len(loaded.held_out) == 9
    note = loaded.notes[0]
    assert (note.code, note.params["lines"], note.params["file"]) == ("selection.skipped", 1, "p.jsonl")
    assert str(note.params["first"]) == error.value.text.params["faults"]


def test_nothing_left_to_train_on(tmp_path: Path) -> None:
    rows = [{"prompt": "a?", "chosen": "same", "rejected": "same"}] * 3
    with pytest.raises(DataError, match="3 of 3 rows in p.jsonl left out") as error:
        load_data(Data(pairs=saved(tmp_path / "p.jsonl", rows)), MethodChain("dpo"))
    assert (error.value.text.code, error.value.text.params["what"]) == ("selection.none_left", PAIRS)


def test_columns_by_hand_and_steps_reach_the_rows(tmp_path: Path) -> None:
    rows = [{"q": f"Why {n}?", "yes": f"Mail me@example.org {n}", "no": "No."} for n in range(8)]
    columns = Columns(prompt="q", chosen="yes", rejected="no")
    loaded = load_data(
        Data(pairs=saved(tmp_path / "p.jsonl", rows), columns=columns, steps=("mask",)), MethodChain("dpo")
    )
    assert {one.chosen[0].content for one in loaded.pairs} < {f"Mail [mail] {n}" for n in range(8)}
    with pytest.raises(DataError) as error:
        RemedyPipeline(("polish",))
    assert (error.value.text.code, error.value.text.params["step"]) == ("remedies.unknown_step", "polish")


def test_a_recipe_may_hold_every_step_and_no_other() -> None:
    assert set(get_args(RemedyName)) == set(STEP_NAMES)


def test_a_count_is_what_a_run_would_train_on(tmp_path: Path) -> None:
    """Columns and steps count as well; bundled data keeps its own columns."""
    rows = [{"q": f"Why {n}?", "yes": f"Yes {n}", "no": f"No {n}." if n % 4 else f"Yes {n}"} for n in range(80)]
    data = Data(pairs=saved(tmp_path / "p.jsonl", rows), columns=Columns(prompt="q", chosen="yes", rejected="no"))
    loaded, counts = load_data(data, MethodChain("sft+dpo")), count_rows(data, MethodChain("sft+dpo"))
    assert (counts.rows["sft"], counts.rows["dpo"], counts.held_out) == (45, 45, 15) and counts.notes == loaded.notes
    assert (len(loaded.chats), len(loaded.pairs), len(loaded.held_out)) == (45, 45, 15)
    mixed = data.model_copy(update={"pairs": SAMPLE, "chat": None})
    assert count_rows(mixed, MethodChain("dpo")).rows["dpo"] == len(load_data(Data(), MethodChain("dpo")).pairs)


def test_counting_a_large_file_leaves_this_process_small(tmp_path: Path) -> None:
    """The rows stay in the child: 40 MB of them cost the one who asks next to nothing."""
    rows = [pair(n) | {"chosen": f"Good {n}. " * 200} for n in range(20_000)]
    path = saved(tmp_path / "large.jsonl", rows)
    del rows
    process = psutil.Process()
    before = process.memory_info().rss
    assert count_rows(Data(pairs=path), MethodChain("dpo")).rows["dpo"] == 19_800
    assert process.memory_info().rss - before < 10 * 2**20


@pytest.mark.parametrize("length", [8, 60, 200, 400, 5_000])
def test_rows_that_the_length_leaves_nothing_of_are_not_counted(tmp_path: Path, length: int) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "long " * (4 * n) + f"{n}?", "chosen": "Yes, it is so.", "rejected": "No."} for n in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = count_rows(Data(pairs=str(path)), MethodChain("sft+dpo"))
    needs = whole.needs["dpo"]
    assert len(needs) == whole.rows["dpo"] == 84 and list(needs) == sorted(needs)
    found = whole.after_truncation({"dpo": length})
    assert found.rows["dpo"] == sum(one <= length for one in needs)
    said = [
        note.params for note in found.notes if note.code == "row_counts.about_kept" and note.params["stage"] == "DPO"
    ]
    assert bool(said) == (length < 5_000)
    if said:
        fits = said[0]["fits"]
        assert (said[0]["kept"], said[0]["rows"], said[0]["length"]) == (found.rows["dpo"], 84, length)
        assert fits % 64 == 0
        assert (
            sum(one <= fits for one in whole.wholes["dpo"])
            >= 0.95 * 84
            > sum(one <= fits - 64 for one in whole.wholes["dpo"])
        )
    assert found.rows["sft"] == whole.rows["sft"]


@pytest.mark.parametrize("kind", ["plain text", "begins with the assistant"])
def test_rows_without_a_prompt_are_held_out_too(tmp_path: Path, kind: str) -> None:
    """Each is its own prompt: of a thousand with none, a twentieth is held out, and no more is left out."""
    if kind == "plain text":
        rows: list[Row] = [{"text": f"Chapter {n} of a long book."} for n in range(100)]
    else:
        asked = {"role": "assistant", "content": "How can I help?"}
        rows = [
            {
                "messages": [
                    asked,
                    {"role": "user", "content": f"With {n}."},
                    {"role": "assistant", "content": "Gladly."},
                ]
            }
            for n in range(100)
        ]
    loaded = load_data(Data(pairs=None, chat=saved(tmp_path / "rows.jsonl", rows)), MethodChain("sft"))
    assert (len(loaded.chats), len(loaded.held_out_chats)) == (84, 16)
