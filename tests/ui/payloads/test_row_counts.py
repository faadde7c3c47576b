"""Rows are counted once, and again when their file changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer_core.errors import DataError
from trainer_core.planning.presets import starter_recipe
from ui.payloads.row_counts import count_data_rows, describe_data


def test_the_sample_data_is_counted() -> None:
    found = count_data_rows(starter_recipe())
    assert found.rows["sft"] >= 300 and found.rows["dpo"] >= 300 and found.held_out >= 40
    assert describe_data(found)[0] == f"{found.rows['sft']} examples for SFT"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    recipe = starter_recipe()
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"pairs": str(file)})})
    with pytest.raises(DataError, match="pairs.jsonl"):
        count_data_rows(recipe)
    rows = [f'{{"prompt": "Question {at}?", "chosen": "Yes, {at}.", "rejected": "No."}}' for at in range(40)]
    file.write_text("\n".join(rows))
    assert count_data_rows(recipe).rows["dpo"] + count_data_rows(recipe).held_out == 40
