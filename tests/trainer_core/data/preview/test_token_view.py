"""What the model sees, as shown, is what the trainer gets; and the process that shows it lives as long as it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.support import tiny
from trainer_core.cli import commands
from trainer_core.config.recipe import Columns
from trainer_core.data import Chat, Message, Pair, tokenize
from trainer_core.data.preview import MeasureRequest, TokenPreview, TokenRowRequest
from trainer_core.data.preview.client import CHILD_LIMITS
from trainer_core.data.preview.token_view import token_texts, view_row
from trainer_core.data.tokenizer import TEMPLATES
from trainer_core.errors import DataError, ModelError
from trainer_core.runs.workspace import Workspace
from trainer_core.system import project
from trainer_core.system.child_process import ChildLimits
from trainer_core.system.format import format_gb
from trainer_core.texts import Text

pytestmark = pytest.mark.real

LENGTH = 48
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""No generation prompt of its own, and a space that merges with the answer's first word: the prompt is not a plain prefix."""


def tokenizer(special: list[str], template: str, metaspace: bool) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(BPE(byte_fallback=False, unk_token=special[0]))
    if metaspace:
        bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        alphabet = [chr(code) for code in range(33, 126)] + ["▁", "\n", "é", "日", "本"]
    else:
        bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(tiny.TEXT, trainer)
    bos, eos = special[1:3]
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=bos, eos_token=eos, pad_token=special[0])
    fast.chat_template = template
    return fast


TOKENIZERS = {
    "chatml": tiny.tokenizer,
    "llama": lambda: tokenizer(
        ["<pad>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"], LLAMA, False
    ),
    "mistral": lambda: tokenizer(["<unk>", "<s>", "</s>"], MISTRAL, True),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, make in TOKENIZERS.items():
        its = make()
        tiny.model(folder / name, vocab_size=len(its) + 8)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (folder / name / file).unlink(missing_ok=True)
        its.save_pretrained(folder / name)
    return {name: folder / name for name in TOKENIZERS}


def chat(n: int, words: int, turns: int = 1) -> dict[str, Any]:
    asked = {"role": "user", "content": f"question {n}?"}
    said = {"role": "assistant", "content": " ".join(["fox"] * words) + f" é 日本 {n}"}
    return {"messages": [asked, said] * turns}


def pair(n: int, words: int, asks: int = 2, shared: int = 0) -> dict[str, Any]:
    begin = "the quick brown fox " * shared
    return {
        "prompt": " ".join(["why"] * asks) + f" {n}?",
        "chosen": begin + " ".join(["dog"] * words) + f" yes {n}",
        "rejected": begin + f"no\n{n} é",
    }


def saved(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Short rows, cut ones, several turns, and rows of which the length leaves nothing to learn."""
    folder = tmp_path_factory.mktemp("rows")
    chats = [chat(1, 2), chat(2, 60), chat(3, 2, turns=3), chat(4, 0)]
    chats.append({"messages": [{"role": "user", "content": "why " * 90}, {"role": "assistant", "content": "so"}]})
    pairs = [pair(1, 2), pair(2, 70), pair(3, 2, asks=90), pair(4, 3, shared=20), pair(5, 1)]
    return saved(folder / "chats.jsonl", chats), saved(folder / "pairs.jsonl", pairs)


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenPreview]:
    lens = TokenPreview(Workspace(tmp_path_factory.mktemp("workspace")))
    yield lens
    lens.close()


def shown(lens: TokenPreview, source: Path, model: Path, length: int = LENGTH) -> list[dict[str, Any]]:
    """Every row, page by page."""
    look = TokenRowRequest(source=str(source), model=str(model), length=length, at=0)
    first = lens.ask(look)
    return [first, *(lens.ask(look.model_copy(update={"at": at})) for at in range(1, first["rows"]))]


@pytest.fixture(scope="module")
def real(models: dict[str, Path], rows: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the engine's trainers hand to each model."""
    out = tmp_path_factory.mktemp("real") / "real.json"
    ours = {"CUDA_VISIBLE_DEVICES": "", "UNSLOTH_FORCE_CPU": "1", "HF_HUB_OFFLINE": "1"}
    more = {"UNSLOTH_DISABLE_STATISTICS": "1", "UNSLOTH_COMPILE_LOCATION": str(out.parent / "compiled")}
    arguments = [*rows, LENGTH, out, *models.values()]
    command = [sys.executable, "-m", "tests.support.tokenizers_case", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=project.PROJECT, env={**os.environ, **ours, **more}, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return {name: json.loads(out.read_text())[str(model)] for name, model in models.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_shown_is_what_the_trainers_get(
    name: str, models: dict[str, Path], rows: tuple[Path, Path], lens: TokenPreview, real: dict[str, Any]
) -> None:
    """Token by token and label by label, for SFT and for both sides of DPO; rows left out are said to be."""
    told = real[name]
    chats, pairs = (shown(lens, source, models[name]) for source in rows)
    kept = [row["sides"][0] for row in chats if not row["left_out"]]
    assert len(kept) == len(told["sft"]) == len(chats) - 1
    for side, batch in zip(kept, told["sft"], strict=True):
        ids, trained = side["ids"][: side["cut"]], side["trained"][: side["cut"]]
        assert batch["input_ids"] == [ids]
        assert batch["labels"] == [[token if its else -100 for token, its in zip(ids, trained, strict=True)]]
    sides = [row["sides"] for row in pairs if not row["left_out"]]
    assert len(sides) == len(told["dpo"]) == len(pairs) - 2
    for both, batch in zip(sides, told["dpo"], strict=True):
        for at, side in enumerate(both):
            cut = side["cut"]
            assert batch["input_ids"][at][:cut] == side["ids"][:cut]
            assert [bool(one) for one in batch["completion_mask"][at][:cut]] == side["trained"][:cut]
            assert sum(batch["attention_mask"][at]) == cut


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_pieces_are_the_rendered_text(name: str) -> None:
    its = TOKENIZERS[name]()
    whole = tokenize.tokenize_chat(its, (Message("user", "Grüße 日本 👩‍👧?"), Message("assistant", "so\n\n so  é")))
    assert "".join(token_texts(whole)) == whole.text and len(token_texts(whole)) == len(whole.ids)


def test_sides_share_a_prompt_and_part_where_they_differ() -> None:
    asked, good, bad = Message("user", "why?"), Message("assistant", "the fox"), Message("assistant", "the dog")
    seen = view_row(tiny.tokenizer(), Pair((asked,), (good,), (bad,)), LENGTH)
    chosen, rejected = seen.sides
    assert seen.differ is not None and chosen.ids[: seen.differ] == rejected.ids[: seen.differ]
    assert chosen.ids[seen.differ] != rejected.ids[seen.differ]
    prompt = chosen.trained.index(True)
    assert "".join(chosen.texts[:prompt]) == "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"
    assert chosen.special[0] == 0 and chosen.texts[chosen.special[-1]] == "<|im_end|>"


def measured(lens: TokenPreview, source: Path, model: Path, length: int) -> dict[str, int]:
    found = lens.ask(MeasureRequest(source=str(source), model=str(model), length=length))
    return {finding["code"]: finding["count"] for finding in found["findings"]}


def test_what_a_length_does_is_counted_exactly(lens: TokenPreview, models: dict[str, Path], tmp_path: Path) -> None:
    pairs = [pair(n, 2) for n in range(20)] + [pair(n, 70) for n in range(20, 27)]
    pairs += [pair(n, 2, asks=90) for n in range(27, 32)] + [pair(n, 2, shared=20) for n in range(32, 35)]
    source = saved(tmp_path / "p.jsonl", pairs)
    assert measured(lens, source, models["chatml"], 64) == {"cut": 7, "prompt_too_long": 5, "cut_equal": 3}
    assert measured(lens, source, models["chatml"], 4096) == {}
    source = saved(tmp_path / "c.jsonl", [chat(n, 2) for n in range(9)] + [chat(9, 2) | {"messages": [
        {"role": "user", "content": "why " * 90}, {"role": "assistant", "content": "so"}]}])  # fmt: skip
    assert measured(lens, source, models["chatml"], 64) == {"masked": 1}


def test_training_leaves_out_what_the_finding_says(models: dict[str, Path]) -> None:
    its = AutoTokenizer.from_pretrained(models["chatml"])
    asked, long = (Message("user", "why?"),), "the quick brown fox " * 20
    sides = ((Message("assistant", long + "yes"),), (Message("assistant", long + "no"),))
    other = Pair(asked, (Message("assistant", "a"),), (Message("assistant", "b"),))
    kept, notes = tokenize.pair_rows(its, [Pair(asked, *sides), other], 64)
    assert len(kept) == 1 and notes == [Text("tokens.sides_equal", rows=1, total=2, length=64)]
    with pytest.raises(DataError) as error:
        tokenize.pair_rows(its, [Pair(asked, *sides)], 64)
    assert error.value.text == Text("tokens.no_pairs", total=1, length=64)


def test_a_template_without_an_end_is_found(lens: TokenPreview, models: dict[str, Path], tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    tiny.model(endless)
    its = AutoTokenizer.from_pretrained(endless)
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    its.chat_template = turns + "{% if add_generation_prompt %}assistant: {% endif %}"
    its.save_pretrained(endless)
    source = saved(tmp_path / "c.jsonl", [chat(n, 2) for n in range(9)])
    assert measured(lens, source, endless, 256) == {"no_end": 9}


def test_answers_that_a_template_leaves_out_are_counted_for_a_plan_too(
    lens: TokenPreview, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.model(tmp_path / "last")
    its = AutoTokenizer.from_pretrained(model)
    its.chat_template = str(its.chat_template).replace("in messages %}", "in messages[-2:] %}")
    its.save_pretrained(model)
    talks = [{"messages": [turn for n in range(turns) for turn in chat(n, 2)["messages"]]} for turns in (2, 4)]
    source = saved(tmp_path / "c.jsonl", [chat(n, 2) for n in range(6)] + talks)
    assert measured(lens, source, model, 256) == {"unwritten": 2}
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'model = {str(model)!r}\nmethod = "sft"\n[data]\nchat = {str(source)!r}\npairs = {str(source)!r}\n'
    )
    for number in (2, 0):
        assert commands.main(["--workspace", str(tmp_path / "w"), "plan", str(recipe), "--json"]) == 0
        notes = json.loads(capsys.readouterr().out)["notes"]
        found = Text("length.unwritten", rows=number, total=8, answers=4)
        assert (str(found) in notes) == bool(number)
        saved(source, [chat(n, 2) for n in range(8)])


def test_a_base_without_template_gets_the_chosen_one(lens: TokenPreview, tmp_path: Path) -> None:
    """The answer ends with the tokenizer's own end token, or the model would never stop."""
    bare = tmp_path / "bare"
    tiny.model(bare)
    its = AutoTokenizer.from_pretrained(bare)
    its.chat_template = None
    its.save_pretrained(bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    source = saved(tmp_path / "c.jsonl", [chat(n, 2) for n in range(9)])
    look = TokenRowRequest(source=str(source), model=str(bare), length=256, at=0)
    examples = lens.ask(look)["examples"]
    assert examples["alpaca"].startswith("### Instruction:\nquestion 0?\n\n### Response:\nfox fox é 日本 0<|im_end|>")
    assert set(examples) == set(TEMPLATES)
    for name in TEMPLATES:
        side = lens.ask(look.model_copy(update={"template": name}))["sides"][0]
        assert "".join(side["texts"]) == examples[name]
        learned = "".join(text for text, trained in zip(side["texts"], side["trained"], strict=True) if trained)
        assert learned.strip() == "fox fox é 日本 0<|im_end|>"
    with pytest.raises(ModelError) as error:
        tokenize.encode_chat(its, Chat((Message("user", "a"), Message("assistant", "b"))))
    assert error.value.text == Text("tokens.no_template", templates="plain, alpaca, chatml")


def test_columns_steps_and_a_changed_file_count(lens: TokenPreview, models: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"q": f"why {n}", "a": f"mail me@example.org {n}"} for n in range(6)] + [{"q": "why", "a": ""}]
    source = saved(tmp_path / "q.jsonl", rows)
    look = TokenRowRequest(
        source=str(source), model=str(models["chatml"]), length=256, at=2,
        columns=Columns(prompt="q", answer="a"), steps=("mask",),
    )  # fmt: skip
    seen = lens.ask(look)
    assert seen["rows"] == 6 and seen["item"]["messages"][1]["content"] == "mail [mail] 2"
    saved(source, rows[:2])
    os.utime(source, (1, 1))
    assert lens.ask(look)["rows"] == 2


def test_what_cannot_be_shown_is_said(lens: TokenPreview, models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError) as missing:
        lens.ask(MeasureRequest(source=str(tmp_path / "nowhere.jsonl"), model=str(models["chatml"]), length=64))
    assert missing.value.text == Text("files.missing", path=str(tmp_path / "nowhere.jsonl"))
    source = saved(tmp_path / "c.jsonl", [chat(1, 1)])
    with pytest.raises(DataError, match="no such folder, and it is not a Hub id"):
        lens.ask(TokenRowRequest(source=str(source), model=str(tmp_path / "model"), length=64, at=0))


def test_a_template_that_never_ends_holds_up_nobody(
    lens: TokenPreview, models: dict[str, Path], tmp_path: Path
) -> None:
    """It is harmless in the one conversation that models are tried with."""
    endless, source = tmp_path / "endless", saved(tmp_path / "c.jsonl", [chat(1, 1)])
    tiny.model(endless)
    loops = "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3
    template = "{% if messages[0].content != 'Be brief.' %}" + loops + "{% endif %}" + tiny.TEMPLATE
    (endless / "chat_template.jinja").write_text(template)
    with pytest.raises(DataError, match="does not end within 1 s of processor time") as error:
        lens.ask(TokenRowRequest(source=str(source), model=str(endless), length=64, at=0))
    assert error.value.text.code == "tokens.unsafe_template"
    assert lens.ask(TokenRowRequest(source=str(source), model=str(models["chatml"]), length=64, at=0))["rows"] == 1


def test_a_process_that_does_not_answer_is_ended(models: dict[str, Path], tmp_path: Path) -> None:
    lens = TokenPreview(Workspace(tmp_path), limits=ChildLimits(answer_seconds=0.3))
    look = TokenRowRequest(
        source=str(saved(tmp_path / "c.jsonl", [chat(1, 1)])), model=str(models["chatml"]), length=64, at=0
    )
    with pytest.raises(ModelError) as error:
        lens.ask(look)
    assert error.value.text == Text("preview.late", model=str(models["chatml"]), seconds=0.3)
    assert lens.shared.child and lens.shared.child.process.poll() is not None


def test_a_process_that_takes_too_much_memory_is_ended(models: dict[str, Path], tmp_path: Path) -> None:
    limit = 20 << 20
    lens = TokenPreview(Workspace(tmp_path), limits=ChildLimits(memory_bytes=limit, watch_seconds=0.05))
    look = TokenRowRequest(
        source=str(saved(tmp_path / "c.jsonl", [chat(1, 1)])), model=str(models["chatml"]), length=64, at=0
    )
    with pytest.raises(ModelError) as error:
        lens.ask(look)
    assert error.value.text == Text("preview.memory", model=str(models["chatml"]), limit=format_gb(limit))
    assert CHILD_LIMITS.memory_bytes < 8 << 30, "the usual limit is one"


def test_the_process_ends_when_nobody_asks_and_starts_again(models: dict[str, Path], tmp_path: Path) -> None:
    lens = TokenPreview(Workspace(tmp_path), idle_seconds=1.0)
    look = TokenRowRequest(
        source=str(saved(tmp_path / "c.jsonl", [chat(1, 1)])), model=str(models["chatml"]), length=64, at=0
    )
    lens.ask(look)
    assert lens.shared.child and lens.shared.timer
    first = psutil.Process(lens.shared.child.process.pid)
    assert not [one.path for one in first.memory_maps() if "libtorch" in one.path], (
        "it takes three times as long with torch"
    )
    lens.shared.timer.join(10)
    assert first.wait(10) is not None or not first.is_running()
    assert lens.ask(look)["rows"] == 1 and lens.shared.child.process.pid != first.pid
    lens.close()
