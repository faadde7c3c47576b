"""Conversations as tokens, and which of them carry loss. Shared by training and Compare.

Imports no heavy library: the tokenizer is an argument.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.data import Chat, Message, Pair
from trainer_core.data.answer_spans import AnswerSpan, RenderedChat, find_answers
from trainer_core.data.render import RenderRequest, as_message_dicts, render_chat, render_chats
from trainer_core.data.tokenizer import special_token_ids
from trainer_core.errors import DataError
from trainer_core.system import durable
from trainer_core.texts import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


MASKED = -100
"""The label of a token that is read but not trained on (PyTorch's ignore_index)."""


@dataclass(frozen=True)
class EncodedChat:
    """Tokens and labels of equal length; a label is the token itself or MASKED.

    unwritten: learned answers that the template leaves out.
    """

    input_ids: list[int]
    labels: list[int]
    unwritten: int = 0

    @property
    def target_count(self) -> int:
        """Number of tokens that carry loss."""
        return sum(label != MASKED for label in self.labels)

    def truncate(self, length: int) -> EncodedChat:
        return EncodedChat(self.input_ids[:length], self.labels[:length], self.unwritten)


@dataclass(frozen=True)
class EncodedPair:
    """Both whole sides, each starting with the prompt. Tokens from `prompt` on carry loss."""

    chosen: list[int]
    rejected: list[int]
    prompt: int
    """Number of tokens at the start of both that belong to the prompt."""

    @property
    def first_difference(self) -> int:
        """Index of the first token that differs; truncated there or earlier, the pair teaches no preference."""
        return common_token_prefix(self.chosen, self.rejected)

    @property
    def longest_length(self) -> int:
        return max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class TokenizedText:
    """A rendered conversation, its tokens, and the character range of each token."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]


def encode_chat(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> EncodedChat:
    """One conversation with its labels; see `encode_chats`."""
    return next(encode_chats(tokenizer, [chat]))[1]


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat]
) -> Iterator[tuple[TokenizedText, EncodedChat]]:
    """Conversations in the model's own template, with labels only on the learned answers and their end tokens."""
    specials = special_token_ids(tokenizer)
    for rendered in find_answers(tokenizer, chats):
        whole = tokenize_text(tokenizer, rendered.text)
        yield whole, label_tokens(whole, rendered, specials)


def label_tokens(whole: TokenizedText, rendered: RenderedChat, specials: Container[int]) -> EncodedChat:
    """Tokens, with labels in the answers and on the end tokens that follow them."""
    spans = [(span.start, end_of_answer(whole, span, specials)) for span in rendered.spans]
    labels = [
        token if any(start <= left and right <= end and left < right for start, end in spans) else MASKED
        for token, (left, right) in zip(whole.ids, whole.offsets, strict=True)
    ]
    return EncodedChat(whole.ids, labels, rendered.unwritten)


def end_of_answer(whole: TokenizedText, span: AnswerSpan, specials: Container[int]) -> int:
    """End of an answer with its end token, which some templates write differently within a conversation (gpt-oss)."""
    if span.open_from is None:
        return span.end
    behind = ((token, ends) for token, ends in zip(whole.ids, whole.offsets, strict=True) if ends[0] >= span.open_from)
    for token, (left, right) in behind:
        if token in specials:
            return max(span.end, right)
        if whole.text[left:right].strip():
            break
    return span.end


def encode_pair(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> EncodedPair:
    """One pair; see `encode_pairs`."""
    return next(encode_pairs(tokenizer, [pair]))


def encode_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> Iterator[EncodedPair]:
    """Pairs as TRL's DPO trainer tokenises them (`DPOTrainer._prepare_dataset`, trl 1.15).

    The answer starts where prompt and prompt with answer differ, which is not always after the prompt: a template may write the
    prompt's end differently when an answer follows.
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
    """Length of the common prefix of two token sequences."""
    differ = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def tokenize_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], asking: bool = False
) -> TokenizedText:
    """A conversation as the model reads it."""
    return tokenize_text(tokenizer, render_chat(tokenizer, messages, asking))


def tokenize_text(tokenizer: PreTrainedTokenizerBase, text: str) -> TokenizedText:
    """A rendered conversation as tokens. All training and every token preview uses this function."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return TokenizedText(
        text, list(encoding["input_ids"]), [(left, right) for left, right in encoding["offset_mapping"]]
    )


def count_unwritten_reasoning(chats: Sequence[Chat], texts: Iterable[str]) -> int:
    """Number of conversations with reasoning that the template does not render."""
    several = ((chat.messages, text) for chat, text in zip(chats, texts, strict=True))
    return sum(
        any(one.reasoning.strip() not in text for one in messages if one.reasoning) for messages, text in several
    )


def sft_rows(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], length: int
) -> tuple[list[EncodedChat], list[Text]]:
    """All conversations as tokens, truncated to `length`, and notes on what was truncated or left out.

    Raises:
        DataError: no row has a trained token left.
    """
    written = [(whole.text, row) for whole, row in encode_chats(tokenizer, chats)]
    encoded = [row for _, row in written]
    kept = [row.truncate(length) for row in encoded if row.truncate(length).target_count]
    if not kept:
        short = any(row.target_count for row in encoded)
        code = "tokens.no_examples" if short else "tokens.no_answers"
        raise DataError(code, total=len(encoded), length=length)
    total, notes = len(encoded), list[Text]()
    if lost := total - len(kept):
        notes.append(Text("tokens.examples_masked", rows=lost, total=total, length=length))
    if cut := sum(len(row.input_ids) > length and row.truncate(length).target_count > 0 for row in encoded):
        notes.append(Text("tokens.examples_cut", rows=cut, total=total, length=length))
    if lost := count_unwritten_reasoning(chats, (text for text, _ in written)):
        notes.append(Text("tokens.reasoning_unwritten", rows=lost, total=total))
    if lost := sum(row.unwritten for row in encoded):
        rows = sum(row.unwritten > 0 for row in encoded)
        notes.append(Text("tokens.answers_unwritten", answers=lost, rows=rows, total=total))
    return kept, notes


def pair_rows(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], length: int
) -> tuple[list[EncodedPair], list[Text]]:
    """Pairs as tokens, untruncated, without those that show no difference within `length`, and notes on the rest.

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
    """Write the held-out pairs for Compare: one JSON object per line, in TRL's conversational form.

    Raises:
        DiskError: the disk is full.
    """
    durable.write_atomically(path, "".join(json.dumps(as_trl_row(pair), ensure_ascii=False) + "\n" for pair in pairs))
