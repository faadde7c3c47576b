"""Conversations written as one text: the turn markers of ChatML, Llama, Alpaca and others, and how to parse them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainer_core.data.schema.messages import Message, Role


@dataclass(frozen=True)
class TranscriptFormat:
    """How one template writes turns.

    turn: a turn's heading; its first filled group names the role. end: closes a turn, if not empty. needs_end: without it the
    text is of another format. system: a system prompt within the first user turn. preamble: the start of a fixed sentence before
    the first turn; keeps_preamble: it is the system prompt.
    """

    name: str
    turn: re.Pattern[str]
    roles: dict[str, Role]
    end: str = ""
    needs_end: bool = False
    system: re.Pattern[str] | None = None
    preamble: str = ""
    keeps_preamble: bool = False


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
    TranscriptFormat(
        "the Phi-3 template",
        re.compile(r"<\|(system|user|assistant)\|>\n"),
        ROLE_NAMES,
        "<|end|>",
        needs_end=True,
    ),
    TranscriptFormat("the Zephyr template", re.compile(r"<\|(system|user|assistant)\|>\n"), ROLE_NAMES, "</s>"),
    TranscriptFormat(
        "the Llama 2 template",
        re.compile(r"(\[INST\]|\[/INST\]) ?"),
        {"[INST]": "user", "[/INST]": "assistant"},
        "</s>",
        system=re.compile(r"\s*<<SYS>>\s*(.*?)\s*<</SYS>>\s*", re.DOTALL),
    ),
    TranscriptFormat(
        "Alpaca headings",
        re.compile(r"(?:^|\n+)### (Instruction|Input|Response):\n?"),
        {"Instruction": "user", "Input": "user", "Response": "assistant"},
        preamble="Below is an instruction",
    ),
    TranscriptFormat(
        "Guanaco headings",
        re.compile(r"\s*### ?(Human|Assistant|System): ?"),
        {"Human": "user", "Assistant": "assistant", "System": "system"},
    ),
    TranscriptFormat(
        "the Vicuna template",
        re.compile(r"(?:^|\s+|(?<=</s>))(USER|ASSISTANT): ?"),
        {"USER": "user", "ASSISTANT": "assistant"},
        "</s>",
        preamble="A chat between",
        keeps_preamble=True,
    ),
    TranscriptFormat(
        "Human and Assistant",
        re.compile(r"(?:^\s*|\n\n)(Human|Assistant|System): ?"),
        {"Human": "user", "Assistant": "assistant", "System": "system"},
    ),
)
FIRST_WORDS = ("Human:", "System:", "USER:", "A chat between")
"""Beginnings of conversations without any marker."""
MAX_PREAMBLE = 400
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
    if not ("<" in text or "[INST]" in text or "###" in text or text[:40].lstrip().startswith(FIRST_WORDS)):
        return None
    return next((dialect for dialect in TRANSCRIPT_FORMATS if is_transcript(text, dialect)), None)


def is_transcript(text: str, dialect: TranscriptFormat) -> bool:
    first = dialect.turn.search(text)
    if first is None or (dialect.needs_end and dialect.end not in text):
        return False
    if not is_preamble(text[: first.start()], dialect):
        return False
    return any(dialect.roles[turn[1]] == "assistant" for turn in dialect.turn.finditer(text))


def is_preamble(before: str, dialect: TranscriptFormat) -> bool:
    """Is the text before the first turn nothing, or the sentence that this template has there?"""
    known = bool(dialect.preamble) and before.lstrip().startswith(dialect.preamble) and len(before) < MAX_PREAMBLE
    return known or TEXT_START.fullmatch(before) is not None


def parse_transcript(text: str, dialect: TranscriptFormat, is_prompt: bool = False) -> tuple[Message, ...]:
    """The turns of a text. is_prompt: an empty last assistant turn asks for the answer, and is removed."""
    before, *parts = dialect.turn.split(text)
    turns: list[Message] = []
    if dialect.keeps_preamble and before.strip():
        turns.append(Message("system", before.strip()))
    for mark, words in zip(parts[::2], parts[1::2], strict=True):
        role, said = dialect.roles[mark], clean_turn(words, dialect)
        if dialect.system and not turns and (found := dialect.system.match(said)):
            turns.append(Message("system", found[1]))
            said = said[found.end() :]
        if turns and turns[-1].role == role:
            turns[-1] = Message(role, f"{turns[-1].content}\n\n{said}")
        else:
            turns.append(Message(role, said))
    is_open = turns[-1].role == "assistant" and not turns[-1].content.strip()
    return tuple(turns[:-1] if is_prompt and is_open else turns)


def clean_turn(words: str, dialect: TranscriptFormat) -> str:
    """A turn's text up to its end marker; without one, minus the white space that the template adds."""
    if dialect.end and dialect.end in words:
        words = words[: words.index(dialect.end)]
        return words.strip(" ") if dialect.end == "</s>" else words
    return words.strip() if dialect.end else words.rstrip("\n") if dialect.name == "Alpaca headings" else words
