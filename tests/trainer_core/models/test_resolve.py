"""Which base models are taken: complete, safetensors, and without code of their own. More in reliability."""

import json
import os
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.model_files import pack_safetensors
from trainer_core.data import Chat, Message, tokenize
from trainer_core.data.render import as_message_dicts, render_chat
from trainer_core.data.tokenizer import TEMPLATES
from trainer_core.errors import ModelError
from trainer_core.models import resolve, template_sandbox
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text

pytestmark = pytest.mark.real

CONFIG = {
    "model_type": "llama",
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "vocab_size": 4,
}


WEIGHTS = pack_safetensors({"x": [300]})


def folder(tmp_path: Path, **changes: str | bytes | None) -> Path:
    files = {
        "config.json": json.dumps(CONFIG),
        "model.safetensors": WEIGHTS,
        "tokenizer.json": "{}",
        **{name.replace("__", "."): text for name, text in changes.items()},
    }
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "code", "facts"),
    [
        ({"config__json": None}, "model_folder.no_config", {}),
        ({"config__json": "{"}, "model_folder.bad_json", {}),
        ({"config__json": "[]"}, "model_folder.no_type", {}),
        *(
            ({"config__json": json.dumps(CONFIG | {"model_type": kind})}, "model_folder.no_type", {})
            for kind in (["llama"], {"a": 1}, [[]], None, 3)
        ),
        (
            {
                "tokenizer__json": '{"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "%s"}}'
                % ("b" * 900)
            },
            "model_folder.tokenizer_growth",
            {"growth": "900"},
        ),
        (
            {"config__json": json.dumps(CONFIG | {"vision_config": {"hidden_size": 4}})},
            "model_folder.multimodal",
            {"settings": "vision_config"},
        ),
        (
            {"config__json": json.dumps(CONFIG | {"audio_config": {"x": 1}})},
            "model_folder.multimodal",
            {"settings": "audio_config"},
        ),
        (
            {"config__json": json.dumps({"model_type": "x", "auto_map": {"AutoModel": "evil.py"}})},
            "model_folder.own_code",
            {"key": "auto_map"},
        ),
        (
            {"config__json": json.dumps(CONFIG | {"hidden_size": 400})},
            "model_folder.few_weights",
            {"asked": 646_400, "held": 1200},
        ),
        ({"model__safetensors": None}, "model_folder.no_weights", {}),
        (
            {"model__safetensors": None, "pytorch_model__bin": "x"},
            "model_folder.only_pickle",
            {"file": "pytorch_model.bin"},
        ),
        (
            {"model__safetensors": WEIGHTS[:-1]},
            "weights.wrong_header",
            {"problem": Text("weights.wrong_end", end=1200, size=1199)},
        ),
        ({"tokenizer__json": None}, "model_folder.no_tokenizer", {}),
    ],
)
def test_an_unfit_folder_is_refused_with_the_reason(tmp_path: Path, changes: dict, code: str, facts: dict) -> None:
    with pytest.raises(ModelError) as refused:
        resolve.resolve_model(str(folder(tmp_path, **changes)), Workspace(tmp_path))
    assert refused.value.text.code == code and facts.items() <= refused.value.text.params.items()


def test_a_fit_folder_and_a_hub_id_are_taken(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    (tmp_path / "m").mkdir()
    assert resolve.resolve_model(str(folder(tmp_path / "m")), workspace) == str(tmp_path / "m")
    assert resolve.resolve_model("owner/name", workspace) == "owner/name"


def test_a_folder_of_the_hubs_cache_is_taken(tmp_path: Path) -> None:
    """Its files are links to `blobs`."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/abc"
    blobs.mkdir(), snapshot.mkdir(parents=True)
    for path in list(folder(blobs).iterdir()):
        (snapshot / path.name).symlink_to(path)
    assert resolve.resolve_model(str(snapshot), Workspace(tmp_path / "w")) == str(snapshot)


@pytest.mark.parametrize("name", ["no/such/folder", "/nowhere/at/all", "../no-such-folder", "just-a-name", "", "a\0b"])
def test_a_name_that_is_neither_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as refused:
        resolve.resolve_model(name, Workspace(tmp_path))
    assert refused.value.text == Text("model_folder.not_found", name=name, starter="starter")


PYTHON_OBJECTS, MEMORY = str(Text("chat_template.python_objects")), str(Text("chat_template.memory"))

LATE = "{% if messages[0].content != 'Be brief.' %}HARM{% endif %}{{ messages[0].content }}"
"""Harmless until it meets what no trial of ours says."""


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end"),
        ("{{ 'A' * 2000000000 }}", MEMORY),
        ("{{ ''.__class__ }}", PYTHON_OBJECTS),
    ],
)
def test_a_template_that_waits_for_the_data_does_no_harm_either(harm: str, says: str) -> None:
    template = LATE.replace("HARM", harm)
    assert not template_sandbox.template_problem(template)
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=says):
        tokenize.sft_rows(tokenizer, [Chat((Message("user", "a"), Message("assistant", "b")))], 64)
    assert render_chat(tokenizer, [Message("user", "Be brief.")]) == "Be brief.", "the next one has a process again"


def test_what_transformers_is_asked_for_is_rendered_apart_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unsloth tries a template when it loads a model, and TRL makes tokens of pairs."""
    from transformers.utils import chat_template_utils as library

    monkeypatch.setattr(library, "_compile_jinja_template", library._compile_jinja_template)
    tokenizer, said = tiny.tokenizer(), [{"role": "user", "content": "Who are you?"}]
    usual = tokenizer.apply_chat_template(said)
    template_sandbox.patch_transformers(library)
    assert tokenizer.apply_chat_template(said) == usual
    tokenizer.chat_template = LATE.replace("HARM", "{{ ''.__class__ }}")
    with pytest.raises(ModelError, match=PYTHON_OBJECTS) as refused:
        tokenizer.apply_chat_template(said)
    assert refused.value.text.code == "chat_template.unsafe"


RENDERED = (
    tiny.TEMPLATE,
    *TEMPLATES.values(),
    "{{ bos_token }}{% for m in messages %}{% generation %}{{ m | tojson(indent=1) }}{% endgeneration %}{% endfor %}",
    "{%- macro turn(m) -%}\n {{ m.content | trim | title }} {%- endmacro -%}"
    "{% for m in messages[::-1] %}{{ turn(m) }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
    "{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m['content'].split('</think>')[-1] }}{{ tools }}{{ nothing }}{% endfor %}",
)


@pytest.mark.parametrize("template", RENDERED)
def test_the_text_is_the_one_of_transformers(template: str) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    talk = [
        Message("system", "Be kind."),
        Message("user", "Grüße <b>日本</b>?"),
        Message("assistant", "so\n</think> é👩 "),
    ]
    for asking in (False, True):
        usual = tokenizer.apply_chat_template(as_message_dicts(talk), tokenize=False, add_generation_prompt=asking)
        assert render_chat(tokenizer, talk, asking) == usual


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_further_templates_lie_in_the_folder_too(tmp_path: Path, kind: str) -> None:
    (tmp_path / "outside.jinja").write_text("{{ messages }}", encoding="utf-8")
    (tmp_path / "model/additional_chat_templates").mkdir(parents=True)
    place = folder(tmp_path / "model") / "additional_chat_templates/more.jinja"
    place.symlink_to(tmp_path / "outside.jinja") if kind == "link" else os.mkfifo(place)
    with pytest.raises(ModelError) as refused:
        resolve.check_model_folder(tmp_path / "model")
    assert refused.value.text.code == {"link": "model_folder.outside_link", "pipe": "model_folder.special_file"}[kind]
