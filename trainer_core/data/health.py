"""What can be wrong with rows that were read: findings with counts and examples, and rows that teach nothing."""

from __future__ import annotations

from trainer_core.data.rows import Chat, Item, Message, Pair


def unusable(item: Item) -> str | None:
    """Why a row teaches nothing, or None where it can be trained on."""
    if isinstance(item, Chat):
        return "an answer is empty" if any(empty(m) for m in item.messages if m.role == "assistant") else None
    if all(empty(message) for message in item.prompt if message.role != "system"):
        return "the prompt is empty"
    for side, messages in (("chosen", item.chosen), ("rejected", item.rejected)):
        if any(empty(message) for message in messages if message.role == "assistant"):
            return f"the {side} answer is empty"
    return "chosen and rejected are the same text" if item.chosen == item.rejected else None


def empty(message: Message) -> bool:
    return not message.content.strip()


def trimmed(item: Item) -> Item:
    """A chat without the turns after its last answer, since nobody answers them."""
    if isinstance(item, Pair) or item.messages[-1].role == "assistant":
        return item
    last = max(at for at, message in enumerate(item.messages) if message.role == "assistant")
    return Chat(item.messages[: last + 1])
