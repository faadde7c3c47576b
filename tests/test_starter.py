"""The starter model: made once, with the right tokens, and able to end an answer by itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests import tiny
from trainer_core import estimates, runs, starter
from trainer_core.config import Lane, Sampling
from trainer_core.data import Chat, Message
from trainer_core.lanes import general
from trainer_core.lanes.batch import Row, generate
from trainer_core.lanes.load import load
from trainer_core.lanes.progress import Progress
from trainer_core.lanes.read import BASE
from trainer_core.tokens import MASKED, encode_chat, render

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace's own copy where it exists, so that it is converted once per machine."""
    existing = runs.Workspace(runs.default_workspace())
    if (existing.root / "models" / starter.NAME / "config.json").exists():
        return starter.folder(existing)
    return starter.folder(runs.Workspace(tmp_path_factory.mktemp("starter")))


def test_the_tokens_are_the_original_models(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)


def test_only_the_answer_and_its_end_are_trained(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = Chat(
        (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Bye"), Message("assistant", "Ciao."))
    )
    encoded = encode_chat(tokenizer, chat)
    trained = tokenizer.decode([label for label in encoded.labels if label != MASKED])
    assert trained == "Hello.<|im_end|>\nCiao.<|im_end|>\n"
    assert tokenizer.decode(encoded.input_ids) == render(tokenizer, chat.messages)


def test_an_answer_ends_by_itself(folder: Path) -> None:
    lanes = load(str(folder), "fp32", (Lane(name="Base"),))
    row = Row("Base", render(lanes.tokenizer, [Message("user", "What is the capital of France?")], asking=True), "")
    generate(lanes, [row], Sampling(temperature=0, max_new_tokens=60), lambda: True)
    assert row.ended and 0 < len(row.tokens) < 60
    assert "Paris" in lanes.tokenizer.decode(row.tokens)


def test_random_weights_are_told_from_none_by_what_the_model_forgot(folder: Path, tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "broken", folder, rank=16, scale=0.3)
    tiny.adapter(tmp_path / "zero", folder, rank=16, scale=0.0)
    given = [Lane(name=name, adapter=str(tmp_path / name)) for name in ("broken", "zero")]
    lanes = load(str(folder), "bf16", (Lane(name="Base"), *given))
    known = general.known(lanes, Progress(lambda _: None, threading.Event()))
    assert sum(known[BASE]) > 0.75 * len(known[BASE]), "too few right answers to lose"
    assert known["zero"] == known["Base"] == known[BASE]
    broken = estimates.forgetting(known[BASE], known["broken"])
    assert broken.harmed and broken.lost > 20 and broken.p_value < 1e-4
