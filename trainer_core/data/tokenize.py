"""Conversations as tokens: which of them a model sees, and which of them it is trained on. Shared by training and Compare.

Nothing here imports a heavy library: the tokenizer comes in as an argument.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.data import Chat, Message, Pair
from trainer_core.data.tokenizer import TEMPLATES
from trainer_core.errors import DataError, ModelError
from trainer_core.models import template_sandbox
from trainer_core.system import durable
from trainer_core.texts import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MASKED = -100
"""The label of a token that is read but not trained on (PyTorch's ignore_index)."""
BATCH_CHATS, BATCH_LETTERS = 500, 1 << 20
"""Conversations rendered at a time."""


@dataclass(frozen=True)
class RenderRequest:
    """A conversation to be rendered; `asking` appends the words that invite an answer, `reading` shows all reasoning."""

    messages: Sequence[Message]
    asking: bool = False
    reading: bool = False


@dataclass(frozen=True)
class EncodedChat:
    """Tokens and labels of equal length; a label is the token itself or MASKED."""

    input_ids: list[int]
    labels: list[int]

    @property
    def target_count(self) -> int:
        """How many tokens carry loss."""
        return sum(label != MASKED for label in self.labels)

    def truncate(self, length: int) -> EncodedChat:
        return EncodedChat(self.input_ids[:length], self.labels[:length])


@dataclass(frozen=True)
class EncodedPair:
    """Both sides whole, each beginning with the prompt. Tokens from `prompt` on carry loss."""

    chosen: list[int]
    rejected: list[int]
    prompt: int
    """How many tokens both begin with that belong to the prompt."""

    @property
    def first_difference(self) -> int:
        """Where the first token differs; what is cut there or before teaches no preference."""
        return common_token_prefix(self.chosen, self.rejected)

    @property
    def longest_length(self) -> int:
        return max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class TokenizedText:
    """A rendered conversation, its tokens, and the characters each token stands for."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]


def encode_chat(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> EncodedChat:
    """One conversation with its labels; see `encode_chats`."""
    return next(encode_chats(tokenizer, [chat]))[1]


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat]
) -> Iterator[tuple[TokenizedText, EncodedChat]]:
    """Conversations through the model's own template, with labels on the assistant's words and their end token only.

    A turn's span begins where the template has asked the assistant to speak, and ends with the turn. A template that
    re-writes earlier turns (by dropping their reasoning, say) has no such prefix for them; they stay masked. So do turns
    that are not to be learned, and reasoning that is only to be read.
    """
    several = [turn_prefixes(chat.messages) for chat in chats]
    both = zip(chats, several, strict=True)
    texts = render_chats(
        tokenizer, (RenderRequest(chat.messages[:end], asking, True) for chat, its in both for end, asking in its)
    )
    for chat, its in zip(chats, several, strict=True):
        parts = dict(zip(its, texts, strict=False))
        whole = tokenize_text(tokenizer, parts[its[0]])
        yield whole, label_tokens(whole, assistant_spans(parts, whole.text, chat.messages))


def turn_prefixes(messages: Sequence[Message]) -> list[tuple[int, bool]]:
    """The conversation, and the beginnings that bound each learned turn: how many messages, and is an answer asked for?"""
    spoken = [at for at, message in enumerate(messages) if message.role == "assistant" and message.learned]
    begun, over = [(at, True) for at in spoken], [(at + 1, False) for at in spoken]
    return list(dict.fromkeys([(len(messages), False), *begun, *over]))


def label_tokens(whole: TokenizedText, spans: Sequence[tuple[int, int]]) -> EncodedChat:
    """Tokens with labels where the assistant speaks."""
    labels = [
        token if any(start <= left and right <= end and left < right for start, end in spans) else MASKED
        for token, (left, right) in zip(whole.ids, whole.offsets, strict=True)
    ]
    return EncodedChat(whole.ids, labels)


def encode_pair(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> EncodedPair:
    """One pair; see `encode_pairs`."""
    return next(encode_pairs(tokenizer, [pair]))


def encode_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> Iterator[EncodedPair]:
    """Pairs as TRL's DPO trainer makes tokens of them (`DPOTrainer._prepare_dataset`, trl 1.15).

    The answer begins where prompt and prompt with answer part, which is not always after the prompt: a template may write
    the prompt's end differently when an answer follows.
    """
    asks = (
        (RenderRequest(p.prompt, True), RenderRequest((*p.prompt, *p.chosen)), RenderRequest((*p.prompt, *p.rejected)))
        for p in pairs
    )
    texts = render_chats(tokenizer, chain.from_iterable(asks))
    for three in zip(texts, texts, texts, strict=True):
        prompt, chosen, rejected = (tokenize_text(tokenizer, text).ids for text in three)
        yield EncodedPair(
            chosen, rejected, min(common_token_prefix(prompt, chosen), common_token_prefix(prompt, rejected))
        )


def common_token_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with together."""
    differ = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def tokenize_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], asking: bool = False
) -> TokenizedText:
    """A conversation as the model reads it."""
    return tokenize_text(tokenizer, render_chat(tokenizer, messages, asking))


def tokenize_text(tokenizer: PreTrainedTokenizerBase, text: str) -> TokenizedText:
    """A rendered conversation as tokens. All training and all that is shown of it goes through here."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return TokenizedText(
        text, list(encoding["input_ids"]), [(left, right) for left, right in encoding["offset_mapping"]]
    )


def assistant_spans(
    parts: Mapping[tuple[int, bool], str], whole: str, messages: Sequence[Message]
) -> list[tuple[int, int]]:
    """Where in the rendered text are the words to learn: character ranges from a turn's first word to the end of its turn."""
    spoken = [(messages[at], text, parts[at + 1, False]) for (at, asking), text in parts.items() if asking]
    return [
        (answer_start(whole, len(before), len(after), message), len(after))
        for message, before, after in spoken
        if whole.startswith(before) and whole.startswith(after)
    ]


def answer_start(whole: str, start: int, end: int, message: Message) -> int:
    """Where the learned words of a turn begin: behind its reasoning, where that is only to be read."""
    thought, said = message.reasoning.strip(), message.content.strip()
    if not thought or message.learn_reasoning:
        return start
    at = whole.find(thought, start, end)
    if at < 0:
        return start
    behind = at + len(thought)
    answer = whole.find(said, behind, end)
    return behind if answer < 0 else answer


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], asking: bool = False) -> str:
    """The conversation as the model's template writes it; see `render_all`."""
    return next(render_chats(tokenizer, [RenderRequest(messages, asking)]))


def render_chats(tokenizer: PreTrainedTokenizerBase, asks: Iterable[RenderRequest]) -> Iterator[str]:
    """Conversations as the model's template writes them, in the process that has little time and memory for it.

    Raises:
        ModelError: the model has no chat template, or one that takes too much.
        DataError: the template refuses these roles.
    """
    found = tokenizer.chat_template
    template = found.get("default") if isinstance(found, dict) else found
    if not template:
        raise ModelError("tokens.no_template", templates=", ".join(TEMPLATES))
    marks = tokenizer.special_tokens_map
    for some in batch_requests(asks):
        given = [
            template_sandbox.template_variables(as_message_dicts(ask.messages, ask.reading), ask.asking, marks)
            for ask in some
        ]
        try:
            yield from template_sandbox.shared_sandbox(template, given)
        except template_sandbox.TemplateRefused as refusal:
            roles = ", ".join(message.role for message in some[refusal.at].messages)
            raise DataError("tokens.refused", roles=roles, refusal=str(refusal)) from refusal
        except template_sandbox.TemplateUnsafe as harm:
            raise ModelError("tokens.unsafe_template", harm=str(harm)) from harm


def batch_requests(asks: Iterable[RenderRequest]) -> Iterator[list[RenderRequest]]:
    """As many at a time as cost little memory."""
    some, letters = list[RenderRequest](), 0
    for ask in asks:
        some.append(ask)
        letters += sum(len(message.content) + len(message.reasoning) for message in ask.messages)
        if len(some) == BATCH_CHATS or letters > BATCH_LETTERS:
            yield some
            some, letters = [], 0
    if some:
        yield some


REASONING_FIELDS = ("reasoning_content", "thinking")
"""Under these names templates look for reasoning: Qwen, DeepSeek, GLM and SmolLM; gpt-oss."""


def as_message_dicts(messages: Sequence[Message], reading: bool = False) -> list[dict[str, str]]:
    """Messages as templates and TRL read them. Reasoning is there, under every name that templates have for it, where it is
    to be learned, and with `reading` anywhere. DPO learns all it reads of an answer, so its rows have only the former."""
    return [
        {"role": message.role, "content": message.content}
        | (dict.fromkeys(REASONING_FIELDS, message.reasoning) if shows_reasoning(message, reading) else {})
        for message in messages
    ]


def shows_reasoning(message: Message, reading: bool) -> bool:
    return bool(message.reasoning) and (reading or message.learn_reasoning)


def count_unwritten_reasoning(chats: Sequence[Chat], texts: Iterable[str]) -> int:
    """In how many conversations some reasoning is not in the rendered text: the template has no place for it."""
    several = ((chat.messages, text) for chat, text in zip(chats, texts, strict=True))
    return sum(
        any(one.reasoning.strip() not in text for one in messages if one.reasoning) for messages, text in several
    )


def sft_rows(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], length: int
) -> tuple[list[EncodedChat], list[Text]]:
    """All conversations as tokens, cut at `length`, and sentences about what was cut or left out.

    Raises:
        DataError: no row has a trained token left.
    """
    written = [(whole.text, row) for whole, row in encode_chats(tokenizer, chats)]
    encoded = [row for _, row in written]
    kept = [row.truncate(length) for row in encoded if row.truncate(length).target_count]
    if not kept:
        raise DataError("tokens.no_examples", total=len(encoded), length=length)
    total, notes = len(encoded), list[Text]()
    if lost := total - len(kept):
        notes.append(Text("tokens.examples_masked", rows=lost, total=total, length=length))
    if cut := sum(len(row.input_ids) > length and row.truncate(length).target_count > 0 for row in encoded):
        notes.append(Text("tokens.examples_cut", rows=cut, total=total, length=length))
    if lost := count_unwritten_reasoning(chats, (text for text, _ in written)):
        notes.append(Text("tokens.reasoning_unwritten", rows=lost, total=total))
    return kept, notes


def pair_rows(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], length: int
) -> tuple[list[EncodedPair], list[Text]]:
    """Pairs as tokens, whole, without those that show no difference within `length`, and sentences about the rest.

    Raises:
        DataError: no pair is left.
    """
    encoded = list(encode_pairs(tokenizer, pairs))
    full = [row.prompt >= length for row in encoded]
    equal = [row.first_difference >= length and not filled for row, filled in zip(encoded, full, strict=True)]
    kept = [at for at, (filled, same) in enumerate(zip(full, equal, strict=True)) if not (filled or same)]
    if not kept:
        raise DataError("tokens.no_pairs", total=len(pairs), length=length)
    total, notes = len(pairs), list[Text]()
    if lost := sum(full):
        notes.append(Text("tokens.prompts_too_long", rows=lost, total=total, length=length))
    if lost := sum(equal):
        notes.append(Text("tokens.sides_equal", rows=lost, total=total, length=length))
    if cut := sum(row.longest_length > length for row in encoded) - sum(full) - sum(equal):
        notes.append(Text("tokens.pairs_cut", rows=cut, total=total, length=length))
    if lost := sum(any(one.reasoning and not one.learn_reasoning for one in pair_messages(pairs[at])) for at in kept):
        notes.append(Text("tokens.reasoning_dropped", rows=lost, total=total))
    return [encoded[at] for at in kept], notes


def as_trl_row(pair: Pair) -> dict[str, list[dict[str, str]]]:
    """A pair in TRL's conversational form."""
    return {
        "prompt": as_message_dicts(pair.prompt),
        "chosen": as_message_dicts(pair.chosen),
        "rejected": as_message_dicts(pair.rejected),
    }


def pair_messages(pair: Pair) -> tuple[Message, ...]:
    return pair.prompt + pair.chosen + pair.rejected


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """The held-out pairs, for Compare: one JSON object a line, in TRL's conversational form.

    Raises:
        DiskError: the disk is full.
    """
    durable.write_atomically(path, "".join(json.dumps(as_trl_row(pair), ensure_ascii=False) + "\n" for pair in pairs))
