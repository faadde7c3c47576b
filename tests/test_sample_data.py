"""The bundled sample data: what the script makes is what is committed, and each row is fit to train on."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ASSETS = Path(__file__).resolve().parents[1] / "assets"
TOOL = ASSETS.parent / "tools" / "make_sample_data.py"
MADE: dict[str, str] = runpy.run_path(str(TOOL))["build_files"]()
ROWS: dict[str, list[dict[str, Any]]] = {
    name: [json.loads(line) for line in text.splitlines()] for name, text in MADE.items()
}
PAIR_FILES = ("sample_data/sample_pairs.jsonl", "sample_data/sample_heldout.jsonl")


@pytest.mark.parametrize("name", MADE)
def test_the_committed_file_is_what_the_script_makes(name: str) -> None:
    assert (ASSETS / name).read_bytes().decode("utf-8") == MADE[name]


def test_there_are_enough_rows() -> None:
    counts = {name: len(rows) for name, rows in ROWS.items()}
    assert counts["sample_data/sample_chat.jsonl"] >= 300
    assert counts["sample_data/sample_pairs.jsonl"] >= 300
    assert counts["sample_data/sample_heldout.jsonl"] >= 40
    assert counts["prompts/compare_prompts.jsonl"] == 20


def test_no_prompt_stands_twice_in_or_across_the_files() -> None:
    seen = Counter(normal(prompt(row)) for rows in ROWS.values() for row in rows)
    assert [text for text, times in seen.items() if times > 1] == []


def test_chats_alternate_and_some_have_several_turns() -> None:
    chats = [row["messages"] for row in ROWS["sample_data/sample_chat.jsonl"]]
    for turns in chats:
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
    assert sum(len(turns) > 2 for turns in chats) >= 10


def test_pairs_have_one_turn_on_each_side_and_the_sides_differ() -> None:
    for row in pairs():
        assert [(key, [turn["role"] for turn in turns]) for key, turns in row.items()] == [
            ("prompt", ["user"]),
            ("chosen", ["assistant"]),
            ("rejected", ["assistant"]),
        ]
        assert normal(text(row, "chosen")) != normal(text(row, "rejected"))


def test_no_text_is_empty_or_holds_markers_slots_or_loose_spaces() -> None:
    for one in texts():
        assert one == one.strip() != ""
        assert not re.search(r"[{}]|<\||\|>|\[/?INST|###|\ufffd|  | \n", one), one


def test_no_two_answers_are_the_same() -> None:
    answers = Counter(text(row, side) for row in pairs() for side in ("chosen", "rejected"))
    assert answers.most_common(1)[0][1] == 1


def test_good_answers_are_short() -> None:
    """One to four short sentences, 10 to 60 words and punctuation marks."""
    answers = [turns["content"] for row in ROWS["sample_data/sample_chat.jsonl"] for turns in row["messages"][1::2]]
    assert all(4 <= size(answer) <= 60 for answer in answers)
    assert all(15 <= size(text(row, "chosen")) <= 60 for row in pairs())


@pytest.mark.parametrize("name", PAIR_FILES)
def test_rejected_answers_are_mostly_longer_but_length_alone_does_not_decide(name: str) -> None:
    ratios = [size(text(row, "rejected")) / size(text(row, "chosen")) for row in ROWS[name]]
    assert 2 <= median(ratios) <= 4
    assert max(ratios) <= 4.5
    assert 0.10 <= sum(ratio < 1 for ratio in ratios) / len(ratios) <= 0.30
    assert sum(ratio < 1.5 for ratio in ratios) / len(ratios) >= 0.20
    assert max(size(text(row, "rejected")) for row in ROWS[name]) <= 140


def test_no_opening_or_stock_phrase_gives_a_side_away() -> None:
    for side, most in (("chosen", 0.02), ("rejected", 0.10)):
        openings = Counter(tuple(text(row, side).split()[:3]) for row in pairs())
        assert openings.most_common(1)[0][1] <= most * len(pairs())
    phrases = Counter(phrase for row in pairs() for phrase in set(windows(text(row, "rejected"), 5)))
    assert phrases.most_common(1)[0][1] <= 0.20 * len(pairs())


def test_compare_prompts_have_a_prompt_and_a_tag_each_kind_more_than_once() -> None:
    rows = ROWS["prompts/compare_prompts.jsonl"]
    assert all(set(row) == {"prompt", "tag"} for row in rows)
    kinds = Counter(row["tag"] for row in rows)
    assert set(kinds) == {"advice", "explain", "write", "fact", "code"}
    assert min(kinds.values()) >= 2


def test_a_broken_content_line_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("# topic\n: a; b\nc a question without an answer\n", encoding="utf-8")
    topics_of = runpy.run_path(str(TOOL))["read_topics"]
    with pytest.raises(ValueError, match=r"bad\.txt, line 3"):
        list(topics_of(bad))


def pairs() -> list[dict[str, Any]]:
    return [row for name in PAIR_FILES for row in ROWS[name]]


def texts() -> list[str]:
    chats = [turn["content"] for row in ROWS["sample_data/sample_chat.jsonl"] for turn in row["messages"]]
    sides = [text(row, side) for row in pairs() for side in ("prompt", "chosen", "rejected")]
    return chats + sides + [row["prompt"] for row in ROWS["prompts/compare_prompts.jsonl"]]


def prompt(row: dict[str, Any]) -> str:
    """The first thing the user says."""
    first: Any = row["messages"][0] if "messages" in row else row["prompt"]
    return first if isinstance(first, str) else (first if isinstance(first, dict) else first[0])["content"]


def text(row: dict[str, Any], side: str) -> str:
    return row[side][0]["content"]


def normal(one: str) -> str:
    return " ".join(one.casefold().split())


def size(one: str) -> int:
    """Words and punctuation marks: a little under the number of tokens."""
    return len(re.findall(r"\w+|[^\w\s]", one))


def windows(one: str, width: int) -> list[tuple[str, ...]]:
    found = one.split()
    return [tuple(found[start : start + width]) for start in range(len(found) - width + 1)]
