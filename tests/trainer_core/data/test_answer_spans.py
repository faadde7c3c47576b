"""Labels with the chat templates of real model families, which TRL keeps: each answer's words and its end token, nothing else."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.support import tiny
from trainer_core.data import Chat, Message, tokenize
from trainer_core.data.answer_spans import find_answers
from trainer_core.errors import DataError

pytestmark = pytest.mark.real
FOLDER = Path(str(importlib.util.find_spec("trl").origin)).parent / "chat_templates"  # type: ignore[union-attr]
PICTURES = ("idefics3", "llava_next", "smolvlm")
"""Their templates take lists of parts only, which no text model has."""
TEMPLATES = sorted(path.name for path in FOLDER.glob("*.jinja") if not path.name.startswith(PICTURES))
SPECIAL = re.compile(r"<[|｜][^|｜<>]*[|｜]>|</?s>|<(?:start|end)_of_turn>|<\|?turn\|?>|\[/?INST\]|<end_of_utterance>")
ENDS = re.compile(r"\s*(?:" + SPECIAL.pattern + ")")
ANSWERS = ("Red is warm.", "Blue is cold.", "Green lies between.")
TALK = tuple(
    message
    for at, answer in enumerate(ANSWERS)
    for message in (Message("user", f"Question {at}, please?"), Message("assistant", answer))
)


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    """The tests' tokenizer, which knows the template's control tokens."""
    found = tiny.tokenizer()
    found.add_special_tokens({"additional_special_tokens": sorted({"</s>", *SPECIAL.findall(template)})})
    found.chat_template = template
    return found


def learned_pieces(tokenizer: PreTrainedTokenizerFast, talk: tuple[Message, ...]) -> tuple[str, list[str]]:
    """The rendered conversation, and each stretch of it that carries loss."""
    whole, row = next(tokenize.encode_chats(tokenizer, [Chat(talk)]))
    pieces, before = list[str](), 0
    for (left, right), label in zip(whole.offsets, row.labels, strict=True):
        if label == tokenize.MASKED:
            continue
        if pieces and before == left:
            pieces[-1] += whole.text[left:right]
        else:
            pieces.append(whole.text[left:right])
        before = right
    return whole.text, pieces


def expected_end(text: str, answer: str) -> str:
    """The answer's words and its end token in the rendered text, if there is one."""
    at = text.index(answer)
    end = ENDS.match(text, at + len(answer))
    return text[at : end.end() if end else at + len(answer)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_answer_is_learned_to_its_end_token(name: str) -> None:
    template = (FOLDER / name).read_text(encoding="utf-8")
    text, pieces = learned_pieces(tokenizer_with(template), TALK)
    assert len(pieces) == len(ANSWERS), (text, pieces)
    for piece, answer in zip(pieces, ANSWERS, strict=True):
        words = (
            answer if name.startswith("glm") else expected_end(text, answer)
        )  # GLM answers end with the next turn's mark
        opening, found, rest = piece.partition(words)
        assert found and not SPECIAL.sub("", rest).strip() and "Question" not in opening, (piece, words)
        assert name.startswith("glm") or not re.search("start|user", rest, re.IGNORECASE), rest


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith("_training.jinja")])
def test_the_templates_own_marks_agree(name: str) -> None:
    """TRL's copies mark the assistant's text. What they mark beside words and end token is a family's empty reasoning."""
    template = (FOLDER / name).read_text(encoding="utf-8")
    marked = re.sub(r"\{%-?\s*generation\s*-?%\}", "{{ '\ue010' }}", template)
    marked = re.sub(r"\{%-?\s*endgeneration\s*-?%\}", "{{ '\ue011' }}", marked)
    tokenizer = tokenizer_with(template)
    _, pieces = learned_pieces(tokenizer, TALK)
    tokenizer.chat_template = marked
    text = next(find_answers(tokenizer, [Chat(TALK)])).text
    theirs = re.findall("\ue010(.*?)\ue011", re.sub("\ue011\\s*\ue010", "", text), re.DOTALL)
    for ours, marked in zip(pieces, theirs, strict=True):
        ours, marked = ("".join(one.split()) for one in (ours, marked))
        extra = marked.removesuffix(ours)  # the turn's head, or an empty thought, which the prompt has too
        more = SPECIAL.sub("", ours.removeprefix(marked))  # a second end token
        assert "Question" not in extra and (extra != marked or not more), (ours, marked)


def test_an_answer_that_no_template_writes_is_counted() -> None:
    template = "{% for m in messages[-2:] %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
    rows, notes = tokenize.sft_rows(tokenizer_with(template), [Chat(TALK)] * 3, 512)
    assert len(rows) == 3
    assert [(note.code, note.params["answers"], note.params["rows"]) for note in notes] == [
        ("tokens.answers_unwritten", 6, 3)
    ]


def test_a_template_without_answers_is_the_reason() -> None:
    with pytest.raises(DataError) as refused:
        tokenize.sft_rows(tokenizer_with("{{ messages[0].content }}"), [Chat(TALK)], 512)
    assert refused.value.text.code == "tokens.no_answers"


def test_only_what_is_learned_is_marked() -> None:
    """A turn that is context, and reasoning that is context, in a template that rewrites earlier turns."""
    tokenizer = tokenizer_with((FOLDER / "qwen3.jinja").read_text(encoding="utf-8"))
    talk = (
        Message("user", "One?"),
        Message("assistant", "Skipped.", learned=False),
        Message("user", "Two?"),
        Message("assistant", "Kept.", reasoning="Read, not learned."),
        Message("user", "Three?"),
        Message("assistant", "Last.", reasoning="Thought.", learn_reasoning=True),
    )
    text, pieces = learned_pieces(tokenizer, talk)
    assert [piece.strip() for piece in pieces] == [
        "Kept.<|im_end|>",
        "<think>\nThought.\n</think>\n\nLast.<|im_end|>",
    ], text
