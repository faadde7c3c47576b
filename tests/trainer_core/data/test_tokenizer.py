"""Tokenizers that are loaded, and those that cannot serve training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import tiny
from trainer_core.data.tokenizer import load_tokenizer
from trainer_core.errors import ModelError


def folder_with(folder: Path, *tokens: str) -> str:
    """A tokenizer that names only these special tokens."""
    tiny.tokenizer().save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    values = json.loads(file.read_text())
    kept = {key: value for key, value in values.items() if not key.endswith("_token") or key in tokens}
    file.write_text(json.dumps(kept))
    return str(folder)


def test_a_tokenizer_without_end_and_padding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        load_tokenizer(folder_with(tmp_path, "bos_token"))
    assert refused.value.text.code == "tokens.no_end_token"


@pytest.mark.parametrize("token", ["eos_token", "pad_token"])
def test_one_of_both_is_enough(tmp_path: Path, token: str) -> None:
    assert load_tokenizer(folder_with(tmp_path, token)).chat_template == tiny.TEMPLATE
