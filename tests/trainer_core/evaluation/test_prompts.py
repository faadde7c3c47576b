"""Prompt sets: bundled, held out by the run, and files of one's own with their mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer_core.errors import DataError
from trainer_core.evaluation import prompts
from trainer_core.runs.compare_requests import ChatMessage


def test_bundled_prompts_have_tags(tmp_path: Path) -> None:
    found = prompts.load_prompts(tmp_path, "bundled")
    assert len(found) >= 20 and all(one.tag and one.text for one in found)


def test_held_out_prompts_are_the_runs_own(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="held no pairs out"):
        prompts.load_prompts(tmp_path, "held-out")
    asked = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]
    row = {"prompt": asked, "chosen": [], "rejected": []}
    (tmp_path / "held-out.jsonl").write_text(json.dumps(row) + "\n")
    (found,) = prompts.load_prompts(tmp_path, "held-out")
    assert found.messages == (ChatMessage(role="system", content="Be short."), ChatMessage(role="user", content="Why?"))


def test_own_files_are_text_or_json_lines(tmp_path: Path) -> None:
    text, rows = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("\ufeffOne?\n\n Two? \n", encoding="utf-8")
    rows.write_text('{"prompt": "One?", "tag": "x"}\n{"prompt": [{"role": "user", "content": "Two?"}]}\n')
    assert [one.text for one in prompts.load_prompts(tmp_path, str(text))] == ["One?", "Two?"]
    assert [(one.text, one.tag) for one in prompts.load_prompts(tmp_path, str(rows))] == [("One?", "x"), ("Two?", "")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "\n\n", "holds no prompts"),
        ("a.jsonl", '{"prompt": "x"}\n{"text": "y"}\n', 'line 2: no JSON object with a "prompt"'),
        ("a.jsonl", "[1]\n", "line 1"),
        ("a.jsonl", '{"prompt": []}\n', "line 1"),
        ("a.jsonl", '{"prompt": [{"role": "assistant", "content": "x"}]}\n', "line 1: the last message is not the user's"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        prompts.load_prompts(tmp_path, str(tmp_path / name))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        prompts.load_prompts(tmp_path, str(tmp_path / "none.txt"))
