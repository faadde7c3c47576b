"""The text around the messages of a conversation, found by rendering a chat template: for programs that do not run Jinja.

A template whose text depends on more than the roles and their order has no such shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trainer_core.data import Message
from trainer_core.errors import DataError, ModelError

Render = Callable[[Sequence[Message]], str]
SYSTEM, ASK, REPLY, NEXT = "qsystemq", "qaskq", "qreplyq", "qnextq"
"""Messages that no template writes by itself and that need no trimming."""
TALK = (Message("user", ASK), Message("assistant", REPLY), Message("user", NEXT))
LONG_TALK = (
    Message("user", "One?"),
    Message("assistant", "Yes, 2 < 3."),
    Message("user", "Two,\n\nthree?"),
    Message("assistant", "No."),
    Message("user", "{{ four }}"),
)
BRIEF = Message("system", "Be brief.\nBe kind.")
PROOFS: tuple[tuple[Message, ...], ...] = (LONG_TALK[:1], LONG_TALK[:3], LONG_TALK)
"""Conversations that a shape must render as its template does, each also with a system prompt."""


@dataclass(frozen=True)
class SystemShape:
    """Where a system prompt stands: `before` SYSTEM `after` in the place of the opening, or SYSTEM `after` in front of the last
    question."""

    before: str
    after: str
    is_in_last_question: bool = False


@dataclass(frozen=True)
class ChatShape:
    """A conversation that ends with a question: opening ASK reply ANSWER question ASK ending.

    system: None for a template that refuses system prompts.
    """

    opening: str
    reply: str
    question: str
    ending: str
    system: SystemShape | None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt. The messages without the system prompt alternate, beginning and ending with a question."""
        given = "\n\n".join(one.content for one in messages if one.role == "system")
        turns = [one for one in messages if one.role != "system"]
        text, in_last = self.opening, ""
        if self.system and given:
            in_last = given + self.system.after if self.system.is_in_last_question else ""
            text = text if in_last else self.system.before + given + self.system.after
        for number, turn in enumerate(turns):
            last = number == len(turns) - 1
            if turn.role == "assistant":
                text += self.reply + turn.content + ("" if last else self.question)
            else:
                text += (in_last if last else "") + turn.content + (self.ending if last else "")
        return text


class NoShape(ModelError):
    """The template's text depends on more than the roles."""


def find_shape(render: Render, more: Iterable[Sequence[Message]] = ()) -> ChatShape:
    """The shape of a template.

    Args:
        render: writes a conversation in the template, with the generation prompt.
        more: conversations that the shape must render too.

    Raises:
        NoShape: there is none.
        ModelError, DataError: the template cannot be rendered.
    """
    opening, reply, question, ending = split_text(render(TALK), (ASK, REPLY, NEXT))
    shape = ChatShape(opening, reply, question, ending, find_system(render))
    with_system = [(BRIEF, *messages) for messages in PROOFS if shape.system]
    for messages in (*PROOFS, *with_system, *more):
        if shape.render(messages) != render(messages):
            raise NoShape("export.no_shape")
    return shape


def find_system(render: Render) -> SystemShape | None:
    """Where the template writes a system prompt; None if it refuses one."""
    try:
        text = render((Message("system", SYSTEM), *TALK))
    except DataError:
        return None
    if text.find(SYSTEM) > text.find(REPLY):
        _, _, _, after, _ = split_text(text, (ASK, REPLY, SYSTEM, NEXT))
        return SystemShape("", after, is_in_last_question=True)
    before, after, *_ = split_text(text, (SYSTEM, ASK, REPLY, NEXT))
    return SystemShape(before, after)


def split_text(text: str, parts: Sequence[str]) -> list[str]:
    """The text before, between and after the parts, which occur once each and in this order.

    Raises:
        NoShape: they do not.
    """
    found = []
    for part in parts:
        before, mark, text = text.partition(part)
        if not mark or part in text:
            raise NoShape("export.no_shape")
        found.append(before)
    return [*found, text]
