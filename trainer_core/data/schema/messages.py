"""The internal form of all data: messages, chats, preference pairs; and when two prompts count as equal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
WHITESPACE = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85\u1680\u2028\u2029"
"""All white space that NFKC leaves, except the space itself."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `content` is byte-identical to the file."""

    role: Role
    content: str
    learned: bool = True
    """False: context, never trained on. A weight of 0 in the file sets it."""
    reasoning: str = ""
    """The assistant's thinking before the answer, if the file has a separate field for it."""
    learn_reasoning: bool = False
    """Train on the reasoning too. Otherwise SFT reads it as context, and DPO omits it."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to imitate: the assistant's turns are learned, the rest is context."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt with a better and a worse answer; each answer is usually a single assistant message."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


Item = Chat | Pair


def as_chat(pair: Pair) -> Chat:
    """The part of a pair that SFT learns: the chosen answer."""
    return Chat(pair.prompt + pair.chosen)


@lru_cache(maxsize=8)
def prompt_key(prompt: tuple[Message, ...]) -> int:
    """A 64-bit hash, equal for prompts that a reader would call the same.

    System messages, letter case, white space and Unicode look-alikes (NFKC) do not count. A row's prompt is hashed several
    times in succession, hence the small cache.
    """
    said = [f"{message.role}\0{normalise_text(message.content)}\0" for message in prompt if message.role != "system"]
    return int.from_bytes(blake2b("".join(said).encode(), digest_size=8).digest())


def prompts_of(item: Item) -> Iterator[tuple[Message, ...]]:
    """Every prompt of the item: one for a pair, one per assistant turn for a chat that follows a user's words."""
    if isinstance(item, Pair):
        yield item.prompt
        return
    asked = False
    for at, message in enumerate(item.messages):
        asked = asked or message.role == "user"
        if message.role == "assistant" and asked:
            yield item.messages[:at]


def opening_messages(item: Item) -> tuple[Message, ...]:
    """The messages before the first answer; rows that share them are never split between training and held-out. Of plain text,
    the text itself."""
    return item.prompt if isinstance(item, Pair) else next(prompts_of(item), item.messages[:1])


def normalise_text(text: str) -> str:
    """Text without differences that do not count: case, white space, Unicode look-alikes."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    for white in WHITESPACE:
        if white in text:
            text = text.replace(white, " ")
    while "  " in text:
        text = text.replace("  ", " ")
    return text.strip().casefold()
