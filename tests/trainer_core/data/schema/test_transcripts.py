"""Conversations written as one text, in the templates that public data sets use."""

from __future__ import annotations

import pytest

from trainer_core.data.schema.messages import Message
from trainer_core.data.schema.transcripts import detect_transcript, parse_transcript

ASKED = (Message("user", "What grows here?"), Message("assistant", "Beans."))
THANKED = (*ASKED, Message("user", "Thank you."), Message("assistant", "You are welcome."))
BRIEF = Message("system", "Answer briefly.")
TEXTS = {
    "guanaco": (
        "### Human: What grows here?### Assistant: Beans.### Human: Thank you.### Assistant: You are welcome.",
        THANKED,
    ),
    "guanaco in lines": ("### Human: What grows here?\n### Assistant: Beans.", ASKED),
    "vicuna": ("USER: What grows here? ASSISTANT: Beans.</s>USER: Thank you. ASSISTANT: You are welcome.</s>", THANKED),
    "vicuna with its sentence": (
        "A chat between a curious user and an assistant. USER: What grows here? ASSISTANT: Beans.</s>",
        (Message("system", "A chat between a curious user and an assistant."), *ASKED),
    ),
    "vicuna in lines": ("USER: What grows here?\nASSISTANT: Beans.", ASKED),
    "llama 2": (
        "<s>[INST] What grows here? [/INST] Beans. </s><s>[INST] Thank you. [/INST] You are welcome. </s>",
        THANKED,
    ),
    "llama 2 with a system prompt": (
        "<s>[INST] <<SYS>>\nAnswer briefly.\n<</SYS>>\n\nWhat grows here? [/INST] Beans. </s>",
        (BRIEF, *ASKED),
    ),
    "phi 3": ("<|user|>\nWhat grows here?<|end|>\n<|assistant|>\nBeans.<|end|>\n", ASKED),
    "phi 3 with a system prompt": (
        "<|system|>\nAnswer briefly.<|end|>\n<|user|>\nWhat grows here?<|end|>\n<|assistant|>\nBeans.<|end|>\n<|endoftext|>",
        (BRIEF, *ASKED),
    ),
    "zephyr": ("<|user|>\nWhat grows here?</s>\n<|assistant|>\nBeans.</s>\n", ASKED),
}


@pytest.mark.parametrize("name", TEXTS)
def test_turns_are_taken_apart(name: str) -> None:
    text, turns = TEXTS[name]
    dialect = detect_transcript(text)
    assert dialect
    found = parse_transcript(text, dialect)
    assert [(turn.role, turn.content.strip()) for turn in found] == [(turn.role, turn.content) for turn in turns]


@pytest.mark.parametrize(
    "text",
    [
        "USER is a word. ASSISTANT too.",
        "### Human rights\nA chapter.",
        "A chat between friends about beans.",
        "The log says USER: admin and ASSISTANT: none.",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert detect_transcript(text) is None


def test_an_empty_answer_stays_an_answer_and_an_open_prompt_ends_before_it() -> None:
    text = "\n\nHuman: What grows here?\n\nAssistant: "
    dialect = detect_transcript(text)
    assert dialect
    assert [turn.role for turn in parse_transcript(text, dialect)] == ["user", "assistant"]
    assert [turn.role for turn in parse_transcript(text, dialect, is_prompt=True)] == ["user"]
