"""Prompt sets: bundled, held out by the run, and files of one's own with their mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer_core.errors import DataError
from trainer_core.evaluation import prompts
from trainer_core.runs.compare_requests import ChatMessage
from trainer_core.texts import Text


def test_bundled_prompts_have_tags(tmp_path: Path) -> None:
    found = prompts.load_prompts(tmp_path, "bundled")
    assert len(found) >= 20 and all(one.tag and one.text for one in found)


def test_held_out_prompts_are_the_runs_own(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        prompts.load_prompts(tmp_path, "held-out")
    assert refused.value.text == Text("prompts.nothing_held", run=tmp_path.name)
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
    ("content", "said"),
    [
        ("\n\n", Text("prompts.empty", name="a.jsonl")),
        ('{"prompt": "x"}\n{"text": "y"}\n', Text("prompts.bad_line", name="a.jsonl", line=2)),
        ("[1]\n", Text("prompts.bad_line", name="a.jsonl", line=1)),
        ("[" * 100_000 + "\n", Text("prompts.bad_line", name="a.jsonl", line=1)),
        ('{"prompt": ' + "9" * 5000 + "}\n", Text("prompts.bad_line", name="a.jsonl", line=1)),
        ('{"prompt": []}\n', Text("prompts.bad_line", name="a.jsonl", line=1)),
        (
            '{"prompt": [{"role": "assistant", "content": "x"}]}\n',
            Text("prompts.no_question", name="a.jsonl", line=1),
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, content: str, said: Text) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError) as refused:
        prompts.load_prompts(tmp_path, str(tmp_path / "a.jsonl"))
    assert refused.value.text == said


def test_a_text_file_without_a_prompt_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n")
    with pytest.raises(DataError) as refused:
        prompts.load_prompts(tmp_path, str(tmp_path / "a.txt"))
    assert refused.value.text == Text("prompts.empty", name="a.txt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        prompts.load_prompts(tmp_path, str(tmp_path / "none.txt"))
    assert refused.value.text.code == "prompts.not_read"
    assert refused.value.text.params["path"] == str(tmp_path / "none.txt")
