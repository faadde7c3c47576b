"""Converts a row to a chat or a pair, given the column of each part."""

from __future__ import annotations

from dataclasses import replace

from trainer_core.data.schema import cells, transcripts
from trainer_core.data.schema.cells import BadRow, RowCells
from trainer_core.data.schema.message_objects import cell_messages
from trainer_core.data.schema.messages import Chat, Message, Pair, Role, normalise_text
from trainer_core.texts import Text


def to_chat(row: RowCells) -> Chat:
    """A row as one conversation; plain text becomes a single assistant turn.

    Raises:
        BadRow: a part is missing or invalid, or there is no assistant turn.
    """
    text, answer = row.columns.get("text"), row.columns.get("answer")
    messages = as_messages(row, text, "assistant", True) if text else prompt_messages(row)
    if answer:
        messages += with_reasoning(as_messages(row, answer, "assistant"), row)
    if "assistant" not in [message.role for message in messages]:
        raise BadRow("no answer", Text("cells.no_answer"))
    return Chat(messages)


def with_reasoning(answer: tuple[Message, ...], row: RowCells) -> tuple[Message, ...]:
    """The answer, plus the reasoning column's text if there is one."""
    thought = row.part_cell("reasoning")
    if thought is None or answer[-1].role != "assistant":
        return answer
    return (*answer[:-1], replace(answer[-1], reasoning=cells.cell_text(row, row.columns["reasoning"])))


def to_pair(row: RowCells) -> Pair:
    """A row as a pair. Sides that are whole conversations share turns with which both begin: these are the prompt.

    Raises:
        BadRow: a part is missing or invalid, or the sides answer different prompts.
    """
    columns = row.columns
    if columns.get("scored"):
        return best_worst_pair(row)
    whole = "prompt" not in columns and "messages" not in columns
    chosen = as_messages(row, columns["chosen"], "assistant", whole)
    rejected = as_messages(row, columns["rejected"], "assistant", whole)
    if chosen[0].role == "assistant" and rejected[0].role == "assistant":
        return check_pair(Pair(prompt_messages(row), chosen, rejected))
    shared = common_turns(chosen, rejected)
    prompt = merge_prompt(row, chosen[:shared])
    return check_pair(Pair(prompt, chosen[shared:], rejected[shared:]))


def merge_prompt(row: RowCells, shared: tuple[Message, ...]) -> tuple[Message, ...]:
    """The prompt of sides that are whole conversations: the turns they share, plus what the prompt column adds.

    That column can hold the system prompt, or turns before those that the sides repeat. If it contradicts the sides, the sides
    win, with a remark.
    """
    if not shared or not any(row.part_cell(part) is not None for part in ("prompt", "messages")):
        return with_system(shared, row)
    own, column = prompt_messages(row), row.columns.get("prompt") or row.columns["messages"]
    said, wanted = without_system(shared), without_system(own)
    system = system_messages(shared) or system_messages(own)
    if system_messages(own) and not is_same_conversation(system, system_messages(own)):
        row.add_remark("system", column, own[0].content)
    if is_same_conversation(wanted[-len(said) :], said):
        return (*system, *wanted)
    if not is_same_conversation(said[: len(wanted)], wanted):
        row.add_remark("prompt", column, wanted[-1].content)
    return (*system, *said)


def system_messages(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return messages[:1] if messages and messages[0].role == "system" else ()


def without_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return messages[len(system_messages(messages)) :]


def is_same_conversation(one: tuple[Message, ...], other: tuple[Message, ...]) -> bool:
    """Do two conversations have the same text? Case and white space are ignored."""
    return [(turn.role, normalise_text(turn.content)) for turn in one] == [
        (turn.role, normalise_text(turn.content)) for turn in other
    ]


def common_turns(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> int:
    """Number of turns with which both sides begin; at least one turn remains for each answer."""
    most = min(len(chosen), len(rejected)) - 1
    return next((at for at in range(most) if chosen[at] != rejected[at]), most)


def check_pair(pair: Pair) -> Pair:
    """The pair, if both sides answer the same prompt.

    Raises:
        BadRow: a side does not start with the assistant, or the prompt has no user turn.
    """
    if pair.chosen[0].role != "assistant" or pair.rejected[0].role != "assistant":
        raise BadRow("different prompts", Text("cells.different_prompts"))
    if "user" not in [message.role for message in pair.prompt]:
        raise BadRow("no prompt", Text("cells.no_prompt"))
    return pair


def best_worst_pair(row: RowCells) -> Pair:
    """The answers with the highest and the lowest score.

    Raises:
        BadRow: there are no scored answers, or all have the same score.
    """
    column = row.columns["scored"]
    answers = row.values.get(column)
    if not isinstance(answers, list) or not all(
        isinstance(one, dict) and cells.is_scored_answer(one) for one in answers
    ):
        raise BadRow("not scored", Text("cells.not_scored", column=column))
    ranked = sorted(answers, key=cells.answer_score, reverse=True)
    if len(ranked) < 2 or cells.answer_score(ranked[0]) == cells.answer_score(ranked[-1]):
        raise BadRow("no preference", Text("cells.no_preference"))
    best, worst = ((Message("assistant", cells.answer_text(one)),) for one in (ranked[0], ranked[-1]))
    return check_pair(Pair(prompt_messages(row), best, worst))


def prompt_messages(row: RowCells) -> tuple[Message, ...]:
    """The messages before the answer: system, earlier rounds, the prompt with its input; or a whole conversation."""
    columns = row.columns
    if conversation := columns.get("messages"):
        return with_system(cell_messages(row, conversation), row)
    if "prompt" not in columns:
        return ()
    return with_system(history_messages(row) + question_messages(row), row)


def question_messages(row: RowCells) -> tuple[Message, ...]:
    """The prompt, then its input after an empty line; the input alone if the prompt is empty."""
    prompt, more = row.columns["prompt"], row.columns.get("input")
    if more is None or row.part_cell("input") is None:
        return as_messages(row, prompt, "user", whole=True)
    if row.part_cell("prompt") is None:
        return as_messages(row, more, "user", whole=True)
    messages = as_messages(row, prompt, "user", whole=True)
    whole = replace(messages[-1], content=f"{messages[-1].content}\n\n{cells.cell_text(row, more)}")
    return (*messages[:-1], whole)


def history_messages(row: RowCells) -> tuple[Message, ...]:
    """The turns of a history column: rounds of question and answer, or messages.

    Raises:
        BadRow: it is neither.
    """
    rounds = row.part_cell("history")
    if rounds is None:
        return ()
    if cells.cell_structure(rounds) not in ("rounds", "message", "messages"):
        raise BadRow("history", Text("cells.not_rounds", column=row.columns["history"]))
    return cell_messages(row, row.columns["history"])


def with_system(messages: tuple[Message, ...], row: RowCells) -> tuple[Message, ...]:
    """The messages with the system column's text in front. Their own system prompt takes precedence."""
    if row.part_cell("system") is None:
        return messages
    system = cells.cell_text(row, row.columns["system"])
    if own := system_messages(messages):
        if normalise_text(own[0].content) != normalise_text(system):
            row.add_remark("system", row.columns["system"], system)
        return messages
    return (Message("system", system), *messages)


def as_messages(row: RowCells, column: str, role: Role, whole: bool = False) -> tuple[Message, ...]:
    """A cell as messages: text is one turn of `role`; with `whole`, a transcript is split into its turns."""
    said = row.values.get(column)
    if not isinstance(said, str):
        if isinstance(said, list | dict):
            return cell_messages(row, column)
        said = cells.cell_text(row, column)
    dialect = transcripts.detect_transcript(said) if whole else None
    return transcripts.parse_transcript(said, dialect, role == "user") if dialect else (Message(role, said),)
