"""How a row becomes a chat or a pair once it is known which column plays which part."""

from __future__ import annotations

from dataclasses import replace

from trainer_core.data.schema import cells, transcripts
from trainer_core.data.schema.cells import BadRow, RowCells
from trainer_core.data.schema.messages import Chat, Message, Pair, Role, plain


def to_chat(row: RowCells) -> Chat:
    """A row as one conversation; plain text becomes a single turn of the assistant.

    Raises:
        BadRow: a part is missing or not what it should be, or the assistant says nothing.
    """
    text, answer = row.columns.get("text"), row.columns.get("answer")
    messages = spoken(row, text, "assistant", True) if text else before_answer(row)
    if answer:
        messages += with_reasoning(spoken(row, answer, "assistant"), row)
    if "assistant" not in [message.role for message in messages]:
        raise BadRow("no answer", "no turn of the assistant to learn from")
    return Chat(messages)


def with_reasoning(answer: tuple[Message, ...], row: RowCells) -> tuple[Message, ...]:
    """The answer with the reasoning column's text, where there is one."""
    thought = row.part("reasoning")
    if thought is None or answer[-1].role != "assistant":
        return answer
    return (*answer[:-1], replace(answer[-1], reasoning=cells.text(row, row.columns["reasoning"])))


def to_pair(row: RowCells) -> Pair:
    """A row as a pair. Sides that are whole conversations bring turns of the prompt: those both begin with.

    Raises:
        BadRow: a part is missing or not what it should be, or the sides do not answer the same prompt.
    """
    columns = row.columns
    if columns.get("scored"):
        return best_and_worst(row)
    whole = "prompt" not in columns and "messages" not in columns
    chosen = spoken(row, columns["chosen"], "assistant", whole)
    rejected = spoken(row, columns["rejected"], "assistant", whole)
    if chosen[0].role == "assistant" and rejected[0].role == "assistant":
        return checked(Pair(before_answer(row), chosen, rejected))
    shared = shared_turns(chosen, rejected)
    prompt = merged(row, chosen[:shared])
    return checked(Pair(prompt, chosen[shared:], rejected[shared:]))


def merged(row: RowCells, shared: tuple[Message, ...]) -> tuple[Message, ...]:
    """The prompt of sides that are whole conversations: the turns they share, with what the prompt's own column adds.

    That column may hold the system prompt, or turns from before those that the sides repeat. Where it says something else
    than the sides, they are believed, and that is remarked on.
    """
    if not shared or not any(row.part(part) is not None for part in ("prompt", "messages")):
        return with_system(shared, row)
    own, column = before_answer(row), row.columns.get("prompt") or row.columns["messages"]
    said, wanted = without_system(shared), without_system(own)
    system = system_of(shared) or system_of(own)
    if system_of(own) and not alike(system, system_of(own)):
        row.remark("system", column, own[0].content)
    if alike(wanted[-len(said) :], said):
        return (*system, *wanted)
    if not alike(said[: len(wanted)], wanted):
        row.remark("prompt", column, wanted[-1].content)
    return (*system, *said)


def system_of(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return messages[:1] if messages and messages[0].role == "system" else ()


def without_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return messages[len(system_of(messages)) :]


def alike(one: tuple[Message, ...], other: tuple[Message, ...]) -> bool:
    """Whether two conversations say the same; case and white space do not count."""
    return [(turn.role, plain(turn.content)) for turn in one] == [(turn.role, plain(turn.content)) for turn in other]


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


def best_and_worst(row: RowCells) -> Pair:
    """The answers with the highest and the lowest score.

    Raises:
        BadRow: no scored answers, or all with the same score.
    """
    column = row.columns["scored"]
    answers = row.values.get(column)
    if not isinstance(answers, list) or not all(isinstance(one, dict) and cells.is_scored(one) for one in answers):
        raise BadRow("not scored", f"{column!r} is not a list of answers with scores")
    ranked = sorted(answers, key=cells.score_of, reverse=True)
    if len(ranked) < 2 or cells.score_of(ranked[0]) == cells.score_of(ranked[-1]):
        raise BadRow("no preference", "no two answers with different scores")
    best, worst = ((Message("assistant", cells.answer_of(one)),) for one in (ranked[0], ranked[-1]))
    return checked(Pair(before_answer(row), best, worst))


def before_answer(row: RowCells) -> tuple[Message, ...]:
    """What stands before the answer: system, earlier rounds, the prompt with its input; or a conversation as it is."""
    columns = row.columns
    if conversation := columns.get("messages"):
        return with_system(cells.messages(row, conversation), row)
    if "prompt" not in columns:
        return ()
    return with_system(earlier(row) + asked(row), row)


def asked(row: RowCells) -> tuple[Message, ...]:
    """The prompt with its input after an empty line; the input alone where the prompt is empty."""
    prompt, more = row.columns["prompt"], row.columns.get("input")
    if more is None or row.part("input") is None:
        return spoken(row, prompt, "user", whole=True)
    if row.part("prompt") is None:
        return spoken(row, more, "user", whole=True)
    messages = spoken(row, prompt, "user", whole=True)
    whole = replace(messages[-1], content=f"{messages[-1].content}\n\n{cells.text(row, more)}")
    return (*messages[:-1], whole)


def earlier(row: RowCells) -> tuple[Message, ...]:
    """The turns of a history column: rounds of question and answer, or messages.

    Raises:
        BadRow: it is neither.
    """
    rounds = row.part("history")
    if rounds is None:
        return ()
    match cells.structure(rounds):
        case "rounds":
            return tuple(turn for one, said in rounds for turn in (Message("user", one), Message("assistant", said)))
        case "message" | "messages":
            return cells.messages(row, row.columns["history"])
    raise BadRow("history", f"{row.columns['history']!r} is not a list of question and answer")


def with_system(messages: tuple[Message, ...], row: RowCells) -> tuple[Message, ...]:
    """The messages with the system column's text in front. The messages' own system prompt comes before it."""
    if row.part("system") is None:
        return messages
    system = cells.text(row, row.columns["system"])
    if own := system_of(messages):
        if plain(own[0].content) != plain(system):
            row.remark("system", row.columns["system"], system)
        return messages
    return (Message("system", system), *messages)


def spoken(row: RowCells, column: str, role: Role, whole: bool = False) -> tuple[Message, ...]:
    """A cell as messages: text is one turn of `role`; with `whole`, a transcript is taken apart into its turns."""
    said = row.values.get(column)
    if not isinstance(said, str):
        if isinstance(said, list | dict):
            return cells.messages(row, column)
        said = cells.text(row, column)
    dialect = transcripts.spoken_in(said) if whole else None
    return transcripts.taken_apart(said, dialect) if dialect else (Message(role, said),)
