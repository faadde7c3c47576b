"""Where the learned answers lie in a rendered conversation.

An answer begins after the generation prompt and ends with its turn, where the template writes both as it does without the turns
behind. Other templates rewrite earlier turns (Qwen3 and gpt-oss drop their reasoning), or ask in other words than they answer
(DeepSeek's R1 distills). There the turn is rendered again with a mark in place of its words: what differs is the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import TYPE_CHECKING

from trainer_core.data import Chat, Message
from trainer_core.data.render import RenderRequest, batch_items, count_letters, render_chats

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\ue000\uf8ff\ue000"
"""Letters of the private use area, which no template changes and no answer begins or ends with."""


@dataclass(frozen=True)
class AnswerSpan:
    """Character range of a learned answer.

    open_from: end of its words where the template ends the turn otherwise within the conversation than at its end, so that the
    end token has to be looked for behind them.
    """

    start: int
    end: int
    open_from: int | None = None


@dataclass(frozen=True)
class RenderedChat:
    """A conversation in its template. `unwritten`: learned answers that the template leaves out."""

    text: str
    spans: tuple[AnswerSpan, ...]
    unwritten: int = 0


Bound = tuple[int, bool]
"""A part of a conversation from its start: number of messages, and whether an answer is asked for."""


@dataclass(frozen=True)
class ChatParts:
    """A conversation, and the texts of the parts that bound its learned answers."""

    chat: Chat
    texts: Mapping[Bound, str]

    @property
    def whole(self) -> str:
        return self.texts[len(self.chat.messages), False]

    def plain_span(self, turn: int) -> AnswerSpan | None:
        """The answer of a turn that is written as without the turns behind. None: it is not, or a part of it is only context."""
        before, after = self.texts[turn, True], self.texts[turn + 1, False]
        plain = self.whole.startswith(before) and self.whole.startswith(after)
        if not plain or has_context(self.chat.messages[turn]):
            return None
        return AnswerSpan(len(before), len(after))

    def marked_span(self, turn: int, marked: str, marked_end: str) -> AnswerSpan | None:
        """The answer of a turn by what differs from the marked conversation. None: the template leaves the turn out.

        Args:
            marked_end: the marked conversation up to this turn. After the mark it has what ends an answer.
        """
        if MARK not in marked:
            return None
        whole, before = self.whole, self.texts[turn, True]
        start = len(commonprefix([whole, marked]))
        end = len(whole) - len(commonprefix([whole[start:][::-1], marked[start:][::-1]]))
        last_closing = marked_end.rpartition(MARK)[2]
        closing = commonprefix([whole[end:], last_closing])
        if whole.startswith(before) and not has_context(self.chat.messages[turn]):
            start = min(start, len(before))
        is_open = bool(last_closing[len(closing) :].strip())
        return AnswerSpan(start, end + len(closing), end if is_open else None)


def find_answers(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat]) -> Iterator[RenderedChat]:
    """Each conversation and the spans of its learned answers.

    Raises:
        DataError, ModelError: see `render_chats`.
    """
    for some in batch_items(chats, count_part_letters):
        rendered = list(render_parts(tokenizer, some))
        spans = [{turn: parts.plain_span(turn) for turn in learned_turns(parts.chat)} for parts in rendered]
        missing = [(at, turn) for at, found in enumerate(spans) for turn, span in found.items() if span is None]
        texts = render_marked(tokenizer, [(some[at], turn) for at, turn in missing])
        for (at, turn), (marked, marked_end) in zip(missing, texts, strict=True):
            spans[at][turn] = rendered[at].marked_span(turn, marked, marked_end)
        for parts, found in zip(rendered, spans, strict=True):
            written = tuple(span for span in found.values() if span)
            yield RenderedChat(parts.whole, written, len(found) - len(written))


def count_part_letters(chat: Chat) -> int:
    """Characters of all parts of a conversation, at most."""
    return count_letters(chat.messages) * (1 + 2 * len(learned_turns(chat)))


def learned_turns(chat: Chat) -> list[int]:
    return [at for at, message in enumerate(chat.messages) if message.role == "assistant" and message.learned]


def has_context(message: Message) -> bool:
    """Is the turn's reasoning read, and not learned?"""
    return bool(message.reasoning.strip()) and not message.learn_reasoning


def render_parts(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat]) -> Iterator[ChatParts]:
    bounds = [chat_bounds(chat) for chat in chats]
    asks = (
        RenderRequest(chat.messages[:end], asking, True)
        for chat, its in zip(chats, bounds, strict=True)
        for end, asking in its
    )
    texts = render_chats(tokenizer, asks)
    for chat, its in zip(chats, bounds, strict=True):
        yield ChatParts(chat, dict(zip(its, texts, strict=False)))


def chat_bounds(chat: Chat) -> list[Bound]:
    """The whole conversation, and the parts before and up to each learned turn."""
    turns = learned_turns(chat)
    bounds = [(len(chat.messages), False), *((at, True) for at in turns), *((at + 1, False) for at in turns)]
    return list(dict.fromkeys(bounds))


def render_marked(tokenizer: PreTrainedTokenizerBase, turns: Sequence[tuple[Chat, int]]) -> Iterator[tuple[str, str]]:
    """For each turn the whole conversation with the mark in its place, and the marked conversation up to it."""
    both = ((mark_turn(chat, turn), turn) for chat, turn in turns)
    asks = (RenderRequest(messages, reading=True) for marked, turn in both for messages in (marked, marked[: turn + 1]))
    texts = render_chats(tokenizer, asks)
    yield from zip(texts, texts, strict=True)


def mark_turn(chat: Chat, turn: int) -> tuple[Message, ...]:
    """The messages with the mark in place of what is learned of the turn."""
    message = chat.messages[turn]
    reasoning = message.reasoning if has_context(message) or not message.reasoning else MARK
    return (*chat.messages[:turn], replace(message, content=MARK, reasoning=reasoning), *chat.messages[turn + 1 :])
