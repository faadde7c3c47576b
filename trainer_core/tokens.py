"""Conversations as tokens: which of them a model sees, and which of them it is trained on. Shared by training and Compare.

Nothing here imports a heavy library: the tokenizer comes in as an argument.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core import durable
from trainer_core.config import Template
from trainer_core.data import Chat, Message, Pair
from trainer_core.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = -100
"""The label of a token that is read but not trained on (PyTorch's ignore_index)."""

SPEAKERS = "{'system': 'System', 'user': 'User', 'assistant': 'Assistant', 'tool': 'Tool'}"
TEMPLATES: dict[str, str] = {
    "plain": "{% for m in messages %}{{ " + SPEAKERS + "[m.role] }}: {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}",
    "alpaca": "{% for m in messages %}{% if m.role == 'assistant' %}### Response:\n{{ m.content }}{{ eos_token }}\n\n"
    "{% elif m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n{% else %}{{ m.content }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}",
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else '<|im_end|>' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}
"""For base models without a template. Answers end with the tokenizer's own end token, or the model would never stop."""


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


@dataclass(frozen=True)
class EncodedPair:
    """Both sides whole, each beginning with the prompt. Tokens from `prompt` on carry loss."""

    chosen: list[int]
    rejected: list[int]
    prompt: int
    """How many tokens both begin with that belong to the prompt."""

    @property
    def differ(self) -> int:
        """Where the first token differs; what is cut there or before teaches no preference."""
        return shared_start(self.chosen, self.rejected)

    @property
    def longest(self) -> int:
        return max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Tokenised:
    """A rendered conversation, its tokens, and the characters each token stands for."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]


def encode_chat(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> Encoded:
    """One conversation through the model's own template, with labels on the assistant's words and their end token only.

    A turn's span begins where the template has asked the assistant to speak, and ends with the turn. A template that
    re-writes earlier turns (by dropping their reasoning, say) has no such prefix for them; they stay masked.
    """
    return labelled(tokenizer, chat, tokenised(tokenizer, chat.messages))


def labelled(tokenizer: PreTrainedTokenizerBase, chat: Chat, whole: Tokenised) -> Encoded:
    """The tokens of a conversation with their labels; see `encode_chat`."""
    spans = assistant_spans(tokenizer, chat.messages, whole.text)
    labels = [
        token if any(start <= left and right <= end and left < right for start, end in spans) else MASKED
        for token, (left, right) in zip(whole.ids, whole.offsets, strict=True)
    ]
    return Encoded(whole.ids, labels)


def encode_pair(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> EncodedPair:
    """A pair as TRL's DPO trainer makes tokens of it (`DPOTrainer._prepare_dataset`, trl 1.15).

    The answer begins where prompt and prompt with answer part, which is not always after the prompt: a template may write
    the prompt's end differently when an answer follows.
    """
    prompt = tokenised(tokenizer, pair.prompt, asking=True).ids
    chosen, rejected = (tokenised(tokenizer, (*pair.prompt, *side)).ids for side in (pair.chosen, pair.rejected))
    return EncodedPair(chosen, rejected, min(shared_start(prompt, chosen), shared_start(prompt, rejected)))


def shared_start(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with together."""
    differ = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def tokenised(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], asking: bool = False) -> Tokenised:
    """A conversation as the model reads it. All training and all that is shown of it goes through here."""
    text = render(tokenizer, messages, asking)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return Tokenised(text, list(encoding["input_ids"]), [(left, right) for left, right in encoding["offset_mapping"]])


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
        raise ModelError(
            "This base model has no chat template. Pick its instruct version, which has one, or choose a template "
            f"({', '.join(TEMPLATES)}) under Data."
        )
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
    encoded = [encode_pair(tokenizer, pair) for pair in pairs]
    full = [row.prompt >= length for row in encoded]
    equal = [row.differ >= length and not filled for row, filled in zip(encoded, full, strict=True)]
    kept = [pair for pair, filled, same in zip(pairs, full, equal, strict=True) if not (filled or same)]
    if not kept:
        raise DataError(f"None of the {len(pairs)} pairs shows a difference within {length} tokens. Raise the length.")
    notes = []
    if lost := sum(full):
        notes.append(f"{lost} of {len(pairs)} pairs left out: the prompt alone fills {length} tokens.")
    if lost := sum(equal):
        notes.append(f"{lost} of {len(pairs)} pairs left out: cut at {length} tokens, both sides are the same.")
    if cut := sum(row.longest > length for row in encoded) - sum(full) - sum(equal):
        notes.append(f"{cut} of {len(pairs)} pairs cut at {length} tokens.")
    rows = [
        {"prompt": as_dicts(p.prompt), "chosen": as_dicts(p.chosen), "rejected": as_dicts(p.rejected)} for p in kept
    ]
    return rows, notes


def load_tokenizer(model: str, template: Template = "own") -> PreTrainedTokenizerBase:
    """A model's tokenizer without the model, from its folder, the local cache, or the hub.

    Raises:
        ModelError: it is not on this computer and cannot be fetched, or it cannot be read.
    """
    from transformers import AutoTokenizer  # heavy: several seconds

    try:
        try:
            tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False, local_files_only=True)
        except OSError:
            tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The tokenizer of {model} is not on this computer and could not be fetched. Go online, or pick a model that is here."
        ) from error
    return dressed(tokenizer, template)


def dressed(tokenizer: PreTrainedTokenizerBase, template: Template) -> PreTrainedTokenizerBase:
    """The tokenizer with the chosen template where its model has none; a model's own template is never replaced."""
    if not tokenizer.chat_template and template != "own":
        tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """The held-out pairs, for Compare: one JSON object a line, in TRL's conversational form.

    Raises:
        DiskError: the disk is full.
    """
    sides = ({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs)
    rows = ({name: as_dicts(messages) for name, messages in side.items()} for side in sides)
    durable.write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
