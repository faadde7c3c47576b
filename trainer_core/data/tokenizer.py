"""A model's tokenizer, its chat template, and answers as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer_core.config.recipe import Template
from trainer_core.errors import ModelError
from trainer_core.runs.events import SampleAnswer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def load_tokenizer(folder: str, template: Template = "own") -> PreTrainedTokenizerBase:
    """A model's tokenizer without the model, from its checked folder.

    Raises:
        ModelError: it cannot be read, or has neither an end token nor a padding token.
    """
    from transformers import AutoTokenizer  # heavy: several seconds

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError("tokens.no_tokenizer", folder=folder, error=str(error)) from error
    if tokenizer.eos_token_id is None and tokenizer.pad_token_id is None:
        raise ModelError("tokens.no_end_token", folder=folder)
    return with_chat_template(tokenizer, template)


def with_chat_template(tokenizer: PreTrainedTokenizerBase, template: Template) -> PreTrainedTokenizerBase:
    """The tokenizer with the chosen template if its model has none; a model's own template is never replaced."""
    if not tokenizer.chat_template and template != "own":
        tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Control tokens: the tokenizer's own, and added special ones."""
    added = (place for place, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset((*tokenizer.all_special_ids, *added))


def decode_answer(tokenizer: Any, prompt: str, row: list[int], ends: Sequence[int]) -> SampleAnswer:
    """One answer up to its end token, which is counted but not shown. Other special tokens are shown: template markers in an
    answer mean that its format is breaking down, and the doctor must see them."""
    end = next((at for at, token in enumerate(row) if token in ends), None)
    said = row if end is None else row[:end]
    text = str(tokenizer.decode(said, skip_special_tokens=False)).strip()
    return SampleAnswer(prompt, text, len(said) + (end is not None), end is not None)
