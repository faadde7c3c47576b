"""The command that checks folders of cases finds what is right, what differs, and what nobody has stated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import cases, check_cases
from tests.support.expectations import Expectation, from_sentences, from_values

ROWS = [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(12)]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}] * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (": 12 pairs.", Expectation(12, kind="pairs")),
        (": 2,100 rows in Windows-1252. Today it has 7 pairs.", Expectation(2100)),
        (": 12 usable chats. The first is \"Bed 0 holds …\" there", Expectation(12, kind="chats", words=("Bed 0 holds",))),
        (": 12 chats of four turns: user, assistant", Expectation(12, kind="chats", turns=4)),
        (": 12 chats of three turns: system \"Be brief.\", user", Expectation(12, kind="chats", turns=3, words=("Be brief.",))),
        (": 12 rows, none usable; the reason is that", Expectation(0)),
        (": 9 rows; the answer is 111111111111 (ones)", Expectation(9, words=("111111111111",))),
        (": 12 rows. Either they become text, or the refusal says why.", Expectation(12, refused="may")),
        (": is not valid TOML; the refusal should say so.", Expectation(refused=True)),
        (": reads like the same file", Expectation(refused=False)),
        (": the data of one_step.toml.", Expectation()),
    ],
)  # fmt: skip
def test_sentences_are_read(text: str, expected: Expectation) -> None:
    assert from_sentences(text) == expected


def test_a_name_that_is_no_expectation_is_an_error() -> None:
    assert from_values({"used": 3, "words": ["a"]}) == Expectation(3, words=("a",))
    with pytest.raises(ValueError, match="usd"):
        from_values({"usd": 3})


def folder_of(root: Path, stated: object, name: str = "kind") -> Path:
    """Two data files and a recipe, with what is expected of them as JSON or Markdown."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "talk.json").write_text(json.dumps([{"messages": TALK}] * 3))
    (folder / "recipe.toml").write_text('method = "sft"\n')
    file = "expected.md" if isinstance(stated, str) else "expected.json"
    (folder / file).write_text(stated if isinstance(stated, str) else json.dumps(stated))
    return root


RIGHT_JSON = {
    "rows.jsonl": {"used": 12, "left_out": 0, "kind": "chats", "words": ["What is 0?", "It is 0."], "refused": False},
    "talk.json": {"used": 3, "turns": 4},
    "recipe.toml": {"refused": False},
}
RIGHT_TEXT = (
    '# Kind\n\n- `rows.jsonl`: 12 chats. The first answer is "It is 0."\n- `talk.json`: 3 chats of four turns.\n'
    "- `recipe.toml` reads. Today it is not valid.\n- `another command`: 7 pairs\n"
)


def printed_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("stated", [RIGHT_JSON, RIGHT_TEXT])
def test_a_folder_that_is_right(tmp_path: Path, stated: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert cases.main([str(folder_of(tmp_path, stated))]) == 0
    lines = printed_lines(capsys)
    assert len(lines) == 4 and all(line.startswith("ok ") for line in lines[:3])
    assert lines[-1] == "3 cases: 3 ok, 0 differs, 0 not stated"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rows.jsonl", {"used": 11}),
        ("rows.jsonl", {"left_out": 1}),
        ("rows.jsonl", {"kind": "pairs"}),
        ("rows.jsonl", {"words": ["It is 7."]}),
        ("rows.jsonl", {"refused": True}),
        ("rows.jsonl", {"said": ["not used"]}),
        ("talk.json", {"turns": 3}),
        ("recipe.toml", {"refused": True}),
    ],
)
def test_each_difference_is_found(
    tmp_path: Path, name: str, wrong: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cases.main([str(folder_of(tmp_path, {**RIGHT_JSON, name: wrong}))]) == 1
    lines = printed_lines(capsys)
    assert [name in line for line in lines if line.startswith("differs")] == [True]
    assert lines[-1] == "3 cases: 2 ok, 1 differs, 0 not stated"


def test_a_refusal_nobody_expected_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(
        tmp_path, {"rows.jsonl": {"used": 12}, "talk.json": {"used": 3}, "recipe.toml": {"refused": False}}
    )
    (folder / "kind" / "rows.jsonl").write_text('{"foo": 1}\n')
    (folder / "kind" / "recipe.toml").write_text("foo = 1\n")
    assert cases.main([str(folder)]) == 1
    assert printed_lines(capsys)[-1] == "3 cases: 1 ok, 2 differs, 0 not stated"


def test_what_is_not_stated_is_counted_and_nothing_at_all_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cases.main([str(folder_of(tmp_path / "some", {"rows.jsonl": {"used": 12}}))]) == 0
    assert printed_lines(capsys)[-1] == "3 cases: 1 ok, 0 differs, 2 not stated"
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "expected.md").write_text("Nothing here.")
    assert cases.main([str(tmp_path / "none")]) == 1


def test_a_path_without_expectations_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]))
    assert cases.main([str(path)]) == 0
    assert "1 rows used, 0 left out" in printed_lines(capsys)


GROWS = {"normalizer": {"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 1000}}
HOSTILE: dict[str, tuple[str, str]] = {
    "deep.toml": ("a = " + "[" * 9000, 'method = "sft"\n'),
    "model/config.json": ('{"model_type": {"a": 1}}', '{"model_type": "llama", "hidden_size": 4, "intermediate_size": 4, '
                          '"num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 4}'),
    "words/tokenizer.json": (json.dumps(GROWS), "{}"),
}  # fmt: skip
"""Input → one that the product refuses, and one that it takes, which a check must call a difference."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_inputs_go_to_the_part_that_meets_them(tmp_path: Path, name: str) -> None:
    for content, refused in zip(HOSTILE[name], (True, False), strict=True):
        path = tmp_path / str(refused) / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
        given = path if path.suffix == ".toml" else path.parent
        check = check_cases.hostile_check(given)
        assert check and (check_cases.run_check("x", check).verdict == "ok") is refused


def test_hostile_data_and_cookies(tmp_path: Path) -> None:
    for name, content in (("rows.jsonl", json.dumps({"text": "\x1b[2J\x1b]0;x\x07"})), ("cookies.txt", 'a=[1]\nb="\n')):
        (tmp_path / name).write_text(content)
        check = check_cases.hostile_check(tmp_path / name)
        assert check and check_cases.run_check(name, check).verdict == "ok"
    assert check_cases.hostile_check(tmp_path / "README.md") is None


def test_a_check_that_breaks_is_a_difference() -> None:
    def broken(place: Path) -> str:
        raise RuntimeError("broken")

    assert check_cases.run_check("x", broken).text == "RuntimeError: broken"
