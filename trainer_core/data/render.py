"""Conversations in the model's chat template, rendered in a process with limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from trainer_core.data import Chat, Message
from trainer_core.data.quality.remedies import REMEDY_LABELS, ROW_REMEDIES
from trainer_core.data.tokenizer import TEMPLATES
from trainer_core.errors import DataError, ModelError
from trainer_core.models import template_sandbox

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

BATCH_ITEMS, BATCH_LETTERS = 500, 1 << 20
"""Batch limits for rendering: conversations, characters."""
REASONING_FIELDS = ("reasoning_content", "thinking")
"""Names of the reasoning field in templates: Qwen, DeepSeek, GLM and SmolLM; gpt-oss."""


@dataclass(frozen=True)
class RenderRequest:
    """A conversation to render; `asking` appends the generation prompt, `reading` includes all reasoning."""

    messages: Sequence[Message]
    asking: bool = False
    reading: bool = False


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], asking: bool = False) -> str:
    """The conversation in the model's template; see `render_chats`."""
    return next(render_chats(tokenizer, [RenderRequest(messages, asking)]))


def render_chats(tokenizer: PreTrainedTokenizerBase, asks: Iterable[RenderRequest]) -> Iterator[str]:
    """Conversations in the model's template, rendered in the process with time and memory limits.

    Raises:
        ModelError: the model has no chat template, or one that exceeds the limits.
        DataError: the template refuses these roles.
    """
    template = default_template(tokenizer)
    if not template:
        raise ModelError("tokens.no_template", templates=", ".join(TEMPLATES))
    for some in batch_items(asks, lambda ask: count_letters(ask.messages)):
        try:
            yield from template_sandbox.shared_sandbox(template, [request_variables(tokenizer, ask) for ask in some])
        except template_sandbox.TemplateRefused as refusal:
            raise refusal_error(tokenizer, some[refusal.at], str(refusal)) from refusal
        except template_sandbox.TemplateUnsafe as harm:
            raise ModelError("tokens.unsafe_template", harm=str(harm)) from harm


def default_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template for conversations without tools; empty if the model has none."""
    found = tokenizer.chat_template
    return (found.get("default") if isinstance(found, dict) else found) or ""


def request_variables(tokenizer: PreTrainedTokenizerBase, ask: RenderRequest) -> template_sandbox.TemplateVariables:
    messages = as_message_dicts(ask.messages, ask.reading)
    return template_sandbox.template_variables(messages, ask.asking, tokenizer.special_tokens_map)


ROLE_STEPS = ("no_system", "join_turns")
"""Steps that change which roles follow each other."""


def refusal_error(tokenizer: PreTrainedTokenizerBase, ask: RenderRequest, refusal: str) -> DataError:
    """The error for a conversation that the template refuses. It names the step after which it takes it, if there is one."""
    roles = ", ".join(message.role for message in ask.messages)
    for step in ROLE_STEPS:
        changed = ROW_REMEDIES[step](Chat(tuple(ask.messages)))
        assert isinstance(changed, Chat)
        if changed.messages and changed.messages != tuple(ask.messages) and can_render(tokenizer, changed, ask.asking):
            label = REMEDY_LABELS[step]
            return DataError("tokens.refused_but_for_step", roles=roles, refusal=refusal, step=step, label=label)
    return DataError("tokens.refused", roles=roles, refusal=refusal)


def can_render(tokenizer: PreTrainedTokenizerBase, chat: Chat, asking: bool) -> bool:
    ask = RenderRequest(chat.messages, asking)
    try:
        template_sandbox.shared_sandbox(default_template(tokenizer), [request_variables(tokenizer, ask)])
    except (template_sandbox.TemplateRefused, template_sandbox.TemplateUnsafe):
        return False
    return True


def check_roles(tokenizer: PreTrainedTokenizerBase, conversations: Iterable[Sequence[Message]]) -> None:
    """Render one conversation of each order of roles.

    Raises:
        DataError, ModelError: see `render_chats`.
    """
    orders = {tuple(message.role for message in messages): messages for messages in conversations}
    for _ in render_chats(tokenizer, map(RenderRequest, orders.values())):
        pass


def batch_items(items: Iterable[T], letters: Callable[[T], int]) -> Iterator[list[T]]:
    """Batches that need little memory. letters: characters that an item takes."""
    some, total = list[T](), 0
    for item in items:
        some.append(item)
        total += letters(item)
        if len(some) == BATCH_ITEMS or total > BATCH_LETTERS:
            yield some
            some, total = [], 0
    if some:
        yield some


def count_letters(messages: Sequence[Message]) -> int:
    return sum(len(message.content) + len(message.reasoning) for message in messages)


def as_message_dicts(messages: Sequence[Message], reading: bool = False) -> list[dict[str, str]]:
    """Messages for templates and TRL. Includes reasoning, under every name that templates use, if it is learned or with
    `reading`. DPO learns all it reads of an answer, so its rows include only learned reasoning."""
    return [
        {"role": message.role, "content": message.content}
        | (dict.fromkeys(REASONING_FIELDS, message.reasoning) if shows_reasoning(message, reading) else {})
        for message in messages
    ]


def shows_reasoning(message: Message, reading: bool) -> bool:
    return bool(message.reasoning) and (reading or message.learn_reasoning)
