"""Conversations as tokens: which of them a model sees, and which of them it is trained on. Shared by training and Compare.

Nothing here imports a heavy library: the tokenizer comes in as an argument.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.data import Chat, Message, Pair
from trainer_core.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = -100
"""The label of a token that is read but not trained on (PyTorch's ignore_index)."""


@dataclass(frozen=True)
class Encoded:
    """Tokens and labels of equal length; a label is the token itself or MASKED."""

    input_ids: list[int]
    labels: list[int]

    @property
    def trained(self) -> int:
        """How many tokens carry loss."""
        return sum(label != MASKED for label in self.labels)

    def cut(self, length: int) -> Encoded:
        return Encoded(self.input_ids[:length], self.labels[:length])


def encode_chat(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> Encoded:
    """One conversation through the model's own template, with labels on the assistant's words and their end token only.

    A turn's span begins where the template has asked the assistant to speak, and ends with the turn. A template that
    re-writes earlier turns (by dropping their reasoning, say) has no such prefix for them; they stay masked.
    """
    whole = render(tokenizer, chat.messages)
    encoding = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    spans = assistant_spans(tokenizer, chat.messages, whole)
    labels = [
        token if any(start <= left and right <= end and left < right for start, end in spans) else MASKED
        for token, (left, right) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    ]
    return Encoded(list(encoding["input_ids"]), labels)


def assistant_spans(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], whole: str
) -> list[tuple[int, int]]:
    """Where in the rendered text the assistant speaks: character ranges from its first word to the end of its turn."""
    spans = []
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = render(tokenizer, messages[:index], asking=True)
        after = render(tokenizer, messages[: index + 1])
        if whole.startswith(before) and whole.startswith(after):
            spans.append((len(before), len(after)))
    return spans


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], asking: bool = False) -> str:
    """The conversation as the model's template writes it; `asking` appends the words that invite an answer.

    Raises:
        ModelError: the model has no chat template.
        DataError: the template refuses these roles.
    """
    if not tokenizer.chat_template:
        raise ModelError("This base model has no chat template. Pick its instruct version, which has one.")
    try:
        return str(tokenizer.apply_chat_template(as_dicts(messages), tokenize=False, add_generation_prompt=asking))
    except Exception as error:  # jinja raises its own and the template's own errors here
        roles = ", ".join(message.role for message in messages)
        raise DataError(f"The model's chat template refuses a conversation with the roles {roles}: {error}") from error


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def sft_rows(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], length: int) -> tuple[list[Encoded], list[str]]:
    """All conversations as tokens, cut at `length`, and sentences about what was cut or left out.

    Raises:
        DataError: no row has a trained token left.
    """
    encoded = [encode_chat(tokenizer, chat) for chat in chats]
    kept = [row.cut(length) for row in encoded if row.cut(length).trained]
    if not kept:
        raise DataError(
            f"None of the {len(encoded)} examples has a token to train on within {length} tokens. "
            "Raise the length, or check that there are assistant answers."
        )
    notes = []
    if lost := len(encoded) - len(kept):
        notes.append(f"{lost} of {len(encoded)} examples left out: no answer token within {length} tokens.")
    if cut := sum(len(row.input_ids) > length and row.cut(length).trained > 0 for row in encoded):
        notes.append(f"{cut} of {len(encoded)} examples cut at {length} tokens.")
    return kept, notes


def dpo_rows(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], length: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Pairs in TRL's conversational form, without those whose prompt fills `length`, and sentences about the rest.

    Raises:
        DataError: no pair is left.
    """
    sizes = [pair_sizes(tokenizer, pair) for pair in pairs]
    kept = [pair for pair, (prompt, _) in zip(pairs, sizes, strict=True) if prompt < length]
    if not kept:
        raise DataError(f"All {len(pairs)} prompts fill the length of {length} tokens. Raise the length.")
    notes = []
    if lost := len(pairs) - len(kept):
        notes.append(f"{lost} of {len(pairs)} pairs left out: the prompt alone fills {length} tokens.")
    if cut := sum(prompt < length < longest for prompt, longest in sizes):
        notes.append(f"{cut} of {len(pairs)} pairs cut at {length} tokens.")
    rows = [
        {"prompt": as_dicts(p.prompt), "chosen": as_dicts(p.chosen), "rejected": as_dicts(p.rejected)} for p in kept
    ]
    return rows, notes


def pair_sizes(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> tuple[int, int]:
    """Tokens of the prompt, and of the prompt with the longer answer."""
    prompt = render(tokenizer, pair.prompt, asking=True)
    sides = [render(tokenizer, (*pair.prompt, *side)) for side in (pair.chosen, pair.rejected)]
    counts = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (prompt, *sides)]
    return counts[0], max(counts[1:])


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """The held-out pairs, for Compare: one JSON object a line, in TRL's conversational form."""
    with path.open("w", encoding="utf-8") as file:
        for pair in pairs:
            sides = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
            row = {name: as_dicts(messages) for name, messages in sides.items()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
