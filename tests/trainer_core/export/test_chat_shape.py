"""Chat templates for Ollama: the shape writes what the template writes, and Ollama's own code writes what the shape does.

recorded/ollama_prompts.json was written by Ollama's Go package `template` (its version is in the file) from our templates.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer_core.data.test_answer_spans import FOLDER, PICTURES, tokenizer_with
from trainer_core.data import Message
from trainer_core.data.render import render_chat
from trainer_core.export.chat_shape import PROOFS, ChatShape, NoShape, Render, SystemShape, find_shape
from trainer_core.export.go_template import without_begin, write_template

pytestmark = pytest.mark.real

RECORDED = json.loads((Path(__file__).parents[2] / "support/recorded/ollama_prompts.json").read_text(encoding="utf-8"))
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}{% for turn in turns %}"
    "{% if turn['role'] == 'user' %}[INST] {% if loop.last and system is defined %}{{ system }}\n\n{% endif %}"
    "{{ turn['content'] }}[/INST]{% else %} {{ turn['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""As Mistral's: the system prompt stands in the last question."""
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.jinja") if not path.name.startswith(PICTURES))
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


def make_render(template: str) -> Render:
    tokenizer = tokenizer_with(template)
    return lambda messages: render_chat(tokenizer, messages, asking=True)


def family_render(name: str) -> Render:
    return make_render(MISTRAL if name == "mistral" else (FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [*FAMILIES, "mistral"])
def test_the_shape_of_a_family_writes_its_prompts(name: str) -> None:
    render = family_render(name)
    more = [*PROOFS[-1], Message("assistant", "Five \n\n six."), Message("user", "Why?\n\n- a\n- b")]
    shape = find_shape(render, [more])
    assert shape.render(more) == render(more)
    assert (shape.system is None) == name.startswith("gemma_") or name == "gemma"


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["name"])
def test_ollamas_own_code_writes_what_the_shape_writes(case: dict[str, Any]) -> None:
    shape = find_shape(family_render(case["name"]))
    assert write_template(shape) == case["template"]
    conversations = [[Message(one["role"], one["content"]) for one in talk] for talk in RECORDED["conversations"]]
    assert len(case["prompts"]) in (3, 6)
    for messages, prompt in zip(conversations, case["prompts"], strict=False):
        assert shape.render(messages) == prompt


@pytest.mark.parametrize(
    "template",
    [
        PLAIN.replace("{{ m.content }}", "{{ m.content[::-1] }}"),
        PLAIN.replace("{{ m.content }}", "{{ m.content }}{% if '?' in m.content %}!{% endif %}"),
        PLAIN.replace("{{ m.role }}", "{{ loop.index }}"),
        PLAIN.replace("{% for m in messages %}", "{% for m in messages[-2:] %}"),
        PLAIN.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}"),
    ],
    ids=["reversed", "by content", "numbered", "the last two", "twice"],
)
def test_a_template_that_depends_on_more_has_no_shape(template: str) -> None:
    with pytest.raises(NoShape):
        find_shape(make_render(template))


def test_texts_stand_as_quoted_strings() -> None:
    shape = ChatShape('{{ "a" }}\n', "\\", "\t", "ü\u2028", SystemShape("<s>", "</s>"))
    text = write_template(shape)
    for literal in ('{{ "{{ \\"a\\" }}\\n" }}', '{{ "\\\\" }}', '{{ "\\t" }}', '{{ "ü\u2028" }}'):
        assert literal in text


def test_the_begin_token_is_left_to_the_engine() -> None:
    shape = without_begin(ChatShape("<s>[A]", "[B]", "[C]", "[D]", SystemShape("<s>[S]", "[/S]")), "<s>")
    assert (shape.opening, shape.system) == ("[A]", SystemShape("[S]", "[/S]"))
    last = ChatShape("<s>", "b", "c", "d", SystemShape("", "\n", is_in_last_question=True))
    assert without_begin(last, "<s>").system == last.system
