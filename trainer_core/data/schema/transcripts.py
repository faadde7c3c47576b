"""Conversations written as one text: the turn markers of ChatML, Llama, Alpaca and others, and how to parse them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainer_core.data.schema.messages import Message, Role


@dataclass(frozen=True)
class TranscriptFormat:
    """`turn` matches a turn's heading; its first filled group names the role. `end` closes a turn, if not empty."""

    name: str
    turn: re.Pattern[str]
    roles: dict[str, Role]
    end: str = ""


ROLE_NAMES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant", "model": "assistant"}
TRANSCRIPT_FORMATS = (
    TranscriptFormat("ChatML", re.compile(r"<\|im_start\|>(system|user|assistant)\n"), ROLE_NAMES, "<|im_end|>"),
    TranscriptFormat(
        "the Llama 3 template",
        re.compile(r"<\|start_header_id\|>(system|user|assistant)<\|end_header_id\|>\n\n"),
        ROLE_NAMES,
        "<|eot_id|>",
    ),
    TranscriptFormat("the Gemma template", re.compile(r"<start_of_turn>(user|model)\n"), ROLE_NAMES, "<end_of_turn>"),
    TranscriptFormat("the Zephyr template", re.compile(r"<\|(system|user|assistant)\|>\n"), ROLE_NAMES, "</s>"),
    TranscriptFormat(
        "the Llama 2 template",
        re.compile(r"(\[INST\]|\[/INST\]) ?"),
        {"[INST]": "user", "[/INST]": "assistant"},
        "</s>",
    ),
    TranscriptFormat(
        "Alpaca headings",
        re.compile(r"(?:^|\n+)### (Instruction|Input|Response):\n?"),
        {"Instruction": "user", "Input": "user", "Response": "assistant"},
    ),
    TranscriptFormat(
        "Human and Assistant",
        re.compile(r"(?:^\s*|\n\n)(Human|Assistant|System): ?"),
        {"Human": "user", "Assistant": "assistant", "System": "system"},
    ),
)
TEXT_START = re.compile(r"\s*(?:<s>|<bos>|<\|begin_of_text\|>)?\s*")
"""Text allowed before the first turn."""
MARKERS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|begin_of_text|>",
    "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|user|>", "<|assistant|>",
    "<|system|>", "<|end|>", "<|prompter|>", "<|channel|>",
)  # fmt: skip
"""Special tokens of templates. In a row's text they would end or start turns by accident."""


def detect_transcript(text: str) -> TranscriptFormat | None:
    """The format in which the whole text is a conversation: it starts with a turn, and has an assistant turn."""
    if not ("<" in text or "[INST]" in text or "### " in text or text[:40].lstrip().startswith(("Human:", "System:"))):
        return None
    return next((dialect for dialect in TRANSCRIPT_FORMATS if is_transcript(text, dialect)), None)


def is_transcript(text: str, dialect: TranscriptFormat) -> bool:
    first = dialect.turn.search(text)
    if first is None or not is_empty_preamble(text[: first.start()], dialect):
        return False
    return any(dialect.roles[turn[1]] == "assistant" for turn in dialect.turn.finditer(text))


def is_empty_preamble(before: str, dialect: TranscriptFormat) -> bool:
    """Is the text before the first turn meaningless? Alpaca has a fixed sentence there."""
    return TEXT_START.fullmatch(before) is not None or (
        dialect.name == "Alpaca headings" and before.startswith("Below is an instruction") and len(before) < 300
    )


def parse_transcript(text: str, dialect: TranscriptFormat) -> tuple[Message, ...]:
    """The turns of a text. An empty last assistant turn, as in a bare prompt, is removed."""
    parts = dialect.turn.split(text)[1:]
    turns: list[Message] = []
    for mark, words in zip(parts[::2], parts[1::2], strict=True):
        role, said = dialect.roles[mark], clean_turn(words, dialect)
        if turns and turns[-1].role == role:
            turns[-1] = Message(role, f"{turns[-1].content}\n\n{said}")
        else:
            turns.append(Message(role, said))
    return tuple(turns[:-1] if turns[-1].role == "assistant" and not turns[-1].content.strip() else turns)


def clean_turn(words: str, dialect: TranscriptFormat) -> str:
    """A turn's text up to its end marker; without one, minus the white space that the template adds."""
    if dialect.end and dialect.end in words:
        words = words[: words.index(dialect.end)]
        return words.strip(" ") if dialect.end == "</s>" else words
    return words.strip() if dialect.end else words.rstrip("\n") if dialect.name == "Alpaca headings" else words
