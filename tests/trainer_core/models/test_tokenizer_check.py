"""How much a tokenizer can lengthen a text is known before it is loaded, and a tokenizer that takes all memory never is."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import WordLevel

from trainer_core.errors import ModelError
from trainer_core.models import tokenizer_check
from trainer_core.models.tokenizer_check import MAX_GROWTH, check_growth

Step = dict[str, Any]


def replace_step(pattern: str, content: str, kind: str = "String") -> Step:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence_step(name: str, *steps: Step) -> Step:
    return {"type": "Sequence", name: list(steps)}


def table_step(*replacements: str, index: int = 8) -> Step:
    table = index.to_bytes(4, "little") + bytes(index) + b"".join(one.encode() + b"\0" for one in replacements)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


def nest_sequences(levels: int) -> Step:
    return (
        sequence_step("normalizers", nest_sequences(levels - 1))
        if levels
        else sequence_step("normalizers", *[replace_step("a", "aa")] * 9)
    )


TWICE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 20, "pair": []}
HOSTILE: dict[str, Step] = {
    "one letter, nine times": {"normalizer": sequence_step("normalizers", *[replace_step("a", "a" * 20)] * 9)},
    "another letter": {"normalizer": sequence_step("normalizers", *[replace_step("ж", "жж")] * 9)},
    "a word": {"normalizer": sequence_step("normalizers", *[replace_step("the", "the" * 4)] * 5)},
    "one long text": {"normalizer": replace_step("e", "x" * 10**6)},
    "a regular expression": {"normalizer": sequence_step("normalizers", *[replace_step("[a-z]", "abc", "Regex")] * 5)},
    "between all letters": {"normalizer": sequence_step("normalizers", *[replace_step("", "x")] * 9)},
    "in front of all": {
        "normalizer": sequence_step("normalizers", *[{"type": "Prepend", "prepend": "ab"}, replace_step("b", "bb" * 40)] * 3)
    },
    "a table": {"normalizer": table_step("a", "b" * 1000)},
    "a table of another size": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "%" * 1000}},
    "deep": {"normalizer": nest_sequences(400)},
    "in two parts": {
        "normalizer": sequence_step("normalizers", *[replace_step("a", "aa")] * 6),
        "pre_tokenizer": sequence_step("pretokenizers", *[replace_step("a", "aa")] * 6),
    },
    "a template": {"post_processor": sequence_step("processors", TWICE, TWICE)},
    "in writing": {"decoder": sequence_step("decoders", *[replace_step("a", "aa")] * 9)},
}  # fmt: skip
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SOUND: dict[str, Step] = {
    "nothing": {},
    "no parts": {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None},
    "Llama 2": {
        "normalizer": sequence_step("normalizers", {"type": "Prepend", "prepend": "▁"}, replace_step(" ", "▁")),
        "decoder": sequence_step("decoders", replace_step("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
    },
    "Qwen": {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": sequence_step("pretokenizers", {"type": "Split"}, BYTES),
        "post_processor": BYTES,
        "decoder": BYTES,
    },
    "ALBERT": {
        "normalizer": sequence_step(
            "normalizers", replace_step("``", '"'), replace_step("''", '"'), {"type": "NFKD"}, {"type": "StripAccents"},
            {"type": "Lowercase"}, table_step("ﷺ" * 1, "صلى الله عليه وسلم"), replace_step(" {2,}", " ", "Regex"),
        ),
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
        "post_processor": {**TWICE, "single": [{"SpecialToken": {}}, {"Sequence": {}}, {"SpecialToken": {}}]},
    },
}  # fmt: skip


def write_tokenizer(folder: Path, values: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tokenizer_that_multiplies_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as refused:
        check_growth(write_tokenizer(tmp_path, HOSTILE[name]))
    assert refused.value.text.code == "model_folder.tokenizer_growth"
    assert float(refused.value.text.params["growth"]) > MAX_GROWTH  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SOUND)
def test_tokenizers_in_use_are_taken(tmp_path: Path, name: str) -> None:
    check_growth(write_tokenizer(tmp_path, SOUND[name]))


@pytest.mark.parametrize("values", ["", "{", "[" * 5000, "\x00"])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, values: str) -> None:
    with pytest.raises(ModelError) as refused:
        check_growth(write_tokenizer(tmp_path, values))
    assert refused.value.text.code == "model_folder.bad_json"


@pytest.mark.parametrize(
    "values", [[], 3, {"normalizer": 3}, {"normalizer": {"type": ["Replace"]}}, {"normalizer": replace_step("", "")}]
)
def test_values_of_another_kind_do_not_grow(tmp_path: Path, values: Any) -> None:
    check_growth(write_tokenizer(tmp_path, values))


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    check_growth(write_tokenizer(tmp_path, SOUND["Qwen"]))
    with pytest.raises(ModelError):
        check_growth(write_tokenizer(tmp_path, HOSTILE["a word"]))


LETTERS = st.text("ab 字ﷺ́", min_size=1, max_size=3)
STEPS = st.one_of(
    st.builds(normalizers.Replace, LETTERS, LETTERS),
    st.builds(normalizers.Replace, st.sampled_from([Regex("[ab]"), Regex("a+"), Regex(" {2,}"), Regex("字?b")]), LETTERS),
    st.builds(normalizers.Prepend, LETTERS),
    st.just(normalizers.Lowercase()),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=4), text=st.text("ab 字", min_size=1, max_size=20))
def test_no_text_grows_more_than_measured(tmp_path: Path, steps: list[Any], text: str) -> None:
    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    measured = tokenizer_check.chain_growth([json.loads(tokenizer.to_str())["normalizer"]])
    assert len(tokenizer.normalizer.normalize_str(text)) <= measured * (len(text) + 1)
