"""OpenAI's preference format: `input.messages`, `preferred_output`, `non_preferred_output`, as objects or as columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.files_case import FORMATS, Row, assistant, case, pair, user

Spell = Callable[[Row], Row]


def preference(n: int, **more: object) -> Row:
    """As OpenAI's guide writes one row."""
    asked = [{"role": "system", "content": "Be brief."}, user(f"What is {n}?")]
    return {
        "input": {"messages": asked, "tools": [], "parallel_tool_calls": True, **more},
        "preferred_output": [assistant(f"{n}.")],
        "non_preferred_output": [assistant(f"Who knows what {n} is?")],
    }


def columns(row: Row) -> Row:
    return {f"input.{key}": value for key, value in row["input"].items()} | {
        key: value for key, value in row.items() if key != "input"
    }


def cells(row: Row) -> Row:
    return {key: json.dumps(value) for key, value in row.items()}


SPELLINGS: list[Spell] = [
    lambda row: row,
    columns,
    cells,
    lambda row: cells(columns(row)),
    lambda row: {**row, "input": row["input"]["messages"]},
    lambda row: {**row, "preferred_output": row["preferred_output"][0]["content"]},
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("spell", SPELLINGS)
def test_every_spelling_is_the_same_pair(tmp_path: Path, form: str, spell: Spell) -> None:
    found = case(tmp_path, [spell(preference(n)) for n in range(5)], form)
    assert found.left_out == {}
    assert found.used == [
        pair([("system", "Be brief."), ("user", f"What is {n}?")], f"{n}.", f"Who knows what {n} is?") for n in range(5)
    ]


def test_tools_inside_the_input_are_counted(tmp_path: Path) -> None:
    rows = [preference(n, tools=[{"name": "clock"}] if n < 2 else []) for n in range(5)]
    assert len(case(tmp_path, rows).used) == 5
    assert len(case(tmp_path, rows, steps=("drop_tools",)).used) == 3


def test_an_input_without_messages_stays_one_column(tmp_path: Path) -> None:
    rows = [{"instruction": "Add.", "input": '{"a": 1, "b": 2}', "output": "3"}]
    assert case(tmp_path, rows).first.messages[0].content == 'Add.\n\n{"a": 1, "b": 2}'  # type: ignore[union-attr]
