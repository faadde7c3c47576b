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


def replace(pattern: str, content: str, kind: str = "String") -> Step:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(name: str, *steps: Step) -> Step:
    return {"type": "Sequence", name: list(steps)}


def charsmap(*replacements: str, index: int = 8) -> Step:
    table = index.to_bytes(4, "little") + bytes(index) + b"".join(one.encode() + b"\0" for one in replacements)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


def nested(levels: int) -> Step:
    return sequence("normalizers", nested(levels - 1)) if levels else sequence("normalizers", *[replace("a", "aa")] * 9)


TWICE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 20, "pair": []}
HOSTILE: dict[str, Step] = {
    "one letter, nine times": {"normalizer": sequence("normalizers", *[replace("a", "a" * 20)] * 9)},
    "another letter": {"normalizer": sequence("normalizers", *[replace("ж", "жж")] * 9)},
    "a word": {"normalizer": sequence("normalizers", *[replace("the", "the" * 4)] * 5)},
    "one long text": {"normalizer": replace("e", "x" * 10**6)},
    "a regular expression": {"normalizer": sequence("normalizers", *[replace("[a-z]", "abc", "Regex")] * 5)},
    "between all letters": {"normalizer": sequence("normalizers", *[replace("", "x")] * 9)},
    "in front of all": {
        "normalizer": sequence("normalizers", *[{"type": "Prepend", "prepend": "ab"}, replace("b", "bb" * 40)] * 3)
    },
    "a table": {"normalizer": charsmap("a", "b" * 1000)},
    "a table of another size": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "%" * 1000}},
    "deep": {"normalizer": nested(400)},
    "in two parts": {
        "normalizer": sequence("normalizers", *[replace("a", "aa")] * 6),
        "pre_tokenizer": sequence("pretokenizers", *[replace("a", "aa")] * 6),
    },
    "a template": {"post_processor": sequence("processors", TWICE, TWICE)},
    "in writing": {"decoder": sequence("decoders", *[replace("a", "aa")] * 9)},
}  # fmt: skip
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SOUND: dict[str, Step] = {
    "nothing": {},
    "no parts": {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None},
    "Llama 2": {
        "normalizer": sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        "decoder": sequence("decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
    },
    "Qwen": {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": sequence("pretokenizers", {"type": "Split"}, BYTES),
        "post_processor": BYTES,
        "decoder": BYTES,
    },
    "ALBERT": {
        "normalizer": sequence(
            "normalizers", replace("``", '"'), replace("''", '"'), {"type": "NFKD"}, {"type": "StripAccents"},
            {"type": "Lowercase"}, charsmap("ﷺ" * 1, "صلى الله عليه وسلم"), replace(" {2,}", " ", "Regex"),
        ),
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
        "post_processor": {**TWICE, "single": [{"SpecialToken": {}}, {"Sequence": {}}, {"SpecialToken": {}}]},
    },
}  # fmt: skip


def saved(folder: Path, values: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tokenizer_that_multiplies_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as refused:
        check_growth(saved(tmp_path, HOSTILE[name]))
    assert refused.value.text.code == "model_folder.tokenizer_growth"
    assert float(refused.value.text.params["growth"]) > MAX_GROWTH  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SOUND)
def test_tokenizers_in_use_are_taken(tmp_path: Path, name: str) -> None:
    check_growth(saved(tmp_path, SOUND[name]))


@pytest.mark.parametrize("values", ["", "{", "[" * 5000, "\x00"])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, values: str) -> None:
    with pytest.raises(ModelError) as refused:
        check_growth(saved(tmp_path, values))
    assert refused.value.text.code == "model_folder.bad_json"


@pytest.mark.parametrize(
    "values", [[], 3, {"normalizer": 3}, {"normalizer": {"type": ["Replace"]}}, {"normalizer": replace("", "")}]
)
def test_values_of_another_kind_do_not_grow(tmp_path: Path, values: Any) -> None:
    check_growth(saved(tmp_path, values))


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    check_growth(saved(tmp_path, SOUND["Qwen"]))
    with pytest.raises(ModelError):
        check_growth(saved(tmp_path, HOSTILE["a word"]))


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
