"""How a row becomes a chat or a pair once it is known which column plays which part."""

from __future__ import annotations

from dataclasses import replace

from trainer_core.data import cells, dialects
from trainer_core.data.cells import BadRow, Parts, Values
from trainer_core.data.rows import Chat, Message, Pair, Role


def to_chat(values: Values, columns: Parts) -> Chat:
    """A row as one conversation; plain text becomes a single turn of the assistant.

    Raises:
        BadRow: a part is missing or not what it should be, or the assistant says nothing.
    """
    text, answer = columns.get("text"), columns.get("answer")
    messages = spoken(values, text, "assistant", True) if text else before_answer(values, columns)
    if answer:
        messages += spoken(values, answer, "assistant")
    if "assistant" not in [message.role for message in messages]:
        raise BadRow("no answer", "no turn of the assistant to learn from")
    return Chat(messages)


def to_pair(values: Values, columns: Parts) -> Pair:
    """A row as a pair. Sides that are whole conversations give the prompt themselves: the turns both begin with.

    Raises:
        BadRow: a part is missing or not what it should be, or the sides do not answer the same prompt.
    """
    if columns.get("scored"):
        return best_and_worst(values, columns)
    whole = "prompt" not in columns and "messages" not in columns
    chosen = spoken(values, columns["chosen"], "assistant", whole)
    rejected = spoken(values, columns["rejected"], "assistant", whole)
    if chosen[0].role == "assistant" and rejected[0].role == "assistant":
        return checked(Pair(before_answer(values, columns), chosen, rejected))
    shared = shared_turns(chosen, rejected)
    prompt = with_system(chosen[:shared], values, columns)
    return checked(Pair(prompt, chosen[shared:], rejected[shared:]))


def shared_turns(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> int:
    """How many turns both sides begin with; at least one turn stays for each answer."""
    most = min(len(chosen), len(rejected)) - 1
    return next((at for at in range(most) if chosen[at] != rejected[at]), most)


def checked(pair: Pair) -> Pair:
    """The pair, if both sides answer the same prompt.

    Raises:
        BadRow: a side begins with another role than the assistant's, or no user asks anything.
    """
    if pair.chosen[0].role != "assistant" or pair.rejected[0].role != "assistant":
        raise BadRow("different prompts", "chosen and rejected do not answer the same prompt")
    if "user" not in [message.role for message in pair.prompt]:
        raise BadRow("no prompt", "no prompt before the answers")
    return pair


def best_and_worst(values: Values, columns: Parts) -> Pair:
    """The answers with the highest and the lowest score.

    Raises:
        BadRow: no scored answers, or all with the same score.
    """
    answers = values.get(columns["scored"])
    if not isinstance(answers, list) or not all(isinstance(one, dict) and cells.is_scored(one) for one in answers):
        raise BadRow("not scored", f"{columns['scored']!r} is not a list of answers with scores")
    ranked = sorted(answers, key=cells.score_of, reverse=True)
    if len(ranked) < 2 or cells.score_of(ranked[0]) == cells.score_of(ranked[-1]):
        raise BadRow("no preference", "no two answers with different scores")
    best, worst = ((Message("assistant", cells.answer_of(one)),) for one in (ranked[0], ranked[-1]))
    return checked(Pair(before_answer(values, columns), best, worst))


def before_answer(values: Values, columns: Parts) -> tuple[Message, ...]:
    """What stands before the answer: system, earlier rounds, the prompt with its input; or a conversation as it is."""
    if conversation := columns.get("messages"):
        return with_system(cells.messages(values, conversation), values, columns)
    if "prompt" not in columns:
        return ()
    messages = earlier(values, columns) + spoken(values, columns["prompt"], "user", whole=True)
    if (more := columns.get("input")) and values.get(more):
        last = messages[-1]
        whole = replace(last, content=f"{last.content}\n\n{cells.text(values, more)}")
        messages = (*messages[:-1], whole)
    return with_system(messages, values, columns)


def earlier(values: Values, columns: Parts) -> tuple[Message, ...]:
    """The turns of a history column.

    Raises:
        BadRow: it is no list of question and answer.
    """
    rounds = values.get(columns["history"]) if columns.get("history") else None
    if not rounds:
        return ()
    if not isinstance(rounds, list) or not all(is_round(one) for one in rounds):
        raise BadRow("history", f"{columns['history']!r} is not a list of question and answer")
    return tuple(turn for asked, said in rounds for turn in (Message("user", asked), Message("assistant", said)))


def is_round(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)


def with_system(messages: tuple[Message, ...], values: Values, columns: Parts) -> tuple[Message, ...]:
    """The messages with the system column's text in front, where there is one and the messages have none."""
    system = columns.get("system")
    if not system or not values.get(system) or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", cells.text(values, system)), *messages)


def spoken(values: Values, column: str, role: Role, whole: bool = False) -> tuple[Message, ...]:
    """A cell as messages: text is one turn of `role`; with `whole`, a transcript is taken apart into its turns."""
    said = values.get(column)
    if not isinstance(said, str):
        if isinstance(said, list | dict):
            return cells.messages(values, column)
        said = cells.text(values, column)
    dialect = dialects.spoken_in(said) if whole else None
    return dialects.taken_apart(said, dialect) if dialect else (Message(role, said),)
