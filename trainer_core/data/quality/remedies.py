"""Repairs or removes rows, as steps recorded in the recipe. The user's file never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from trainer_core.data.quality.checks import (
    QUALITY_CHECKS,
    SeenRows,
    all_messages,
    check_row,
    codes_outside_loss,
    is_swapped,
    repeats_question,
    unusable_code,
)
from trainer_core.data.quality.text_patterns import MAIL_ADDRESS, MANGLED_TEXT, MEDIA_PLACEHOLDERS, SECRET_KEY
from trainer_core.data.read_events import UsableRow
from trainer_core.data.schema.messages import Chat, Item, Message, Pair
from trainer_core.data.schema.transcripts import MARKERS
from trainer_core.errors import DataError
from trainer_core.texts import NO_TEXT, Text

SKIP_DAMAGED = "skip_damaged"
"""The step that skips unreadable lines."""


MAX_MARKED_SHARE = 0.1
"""From this share of rows with template markers on, the whole data set was written for another template."""


def marker_problem(count: int, total: int, name: str) -> Text:
    """Why rows with another template's markers are refused; empty if there are few."""
    if not count or count < MAX_MARKED_SHARE * total:
        return NO_TEXT
    return Text("remedies.many_markers", rows=count, total=total, file=name)


class RemedyOutcome(NamedTuple):
    """A row after all steps; `left_out` is the code of the fault that excludes it from training.

    faults: all faults if checked; otherwise only those that training reports: unused content.
    """

    item: Item
    left_out: str | None = None
    faults: tuple[str, ...] = ()


class RemedyPipeline:
    """A recipe's steps, applied row by row in file order."""

    def __init__(self, steps: Iterable[str] = (), held_out: frozenset[int] = frozenset()) -> None:
        steps = tuple(dict.fromkeys(steps))
        unknown = next((step for step in steps if step not in STEP_NAMES), None)
        if unknown is not None:
            raise DataError("remedies.unknown_step", step=unknown[:60], steps=", ".join(STEP_NAMES))
        self.mends = [ROW_REMEDIES[step] for step in steps if step in ROW_REMEDIES]
        self.reverse = "reverse" in steps
        self.drops = {step.removeprefix("drop_") for step in steps if step.startswith("drop_")}
        self.skip_damaged = SKIP_DAMAGED in steps
        self.seen = SeenRows(held_out)

    def apply(self, example: UsableRow, look: bool = False) -> RemedyOutcome:
        """Repair and check one row. `look`: report faults even if no step needs them."""
        item, margin = example.item, example.margin
        if self.reverse and isinstance(item, Pair) and margin is not None and margin < 0:
            item, margin = Pair(item.prompt, item.rejected, item.chosen), -margin
        for mend in self.mends:
            item = mend(item)
        kept = trim_unanswered(item)
        if why := unusable_code(kept):
            return RemedyOutcome(kept, why)
        if not (look or self.drops):
            return RemedyOutcome(
                kept, None, (*example.marks, *codes_outside_loss(item), *(["unanswered"] if kept is not item else []))
            )
        found = list(dict.fromkeys((*check_row(item, margin), *example.marks)))
        if self.drops.isdisjoint(found):
            found += self.seen.check_repeats(kept)
        return RemedyOutcome(kept, next(filter(self.drops.__contains__, found), None), tuple(found))


def trim_unanswered(item: Item) -> Item:
    """A chat without the turns after its last answer, which have no answer."""
    if isinstance(item, Pair) or item.messages[-1].role == "assistant":
        return item
    last = max(at for at, message in enumerate(item.messages) if message.role == "assistant")
    return Chat(item.messages[: last + 1])


def swap_prompt_answer(item: Item) -> Item:
    """Exchanges prompt and answer of a swapped chat."""
    if isinstance(item, Chat) and is_swapped(item):
        asked, said = item.messages
        return Chat((replace(asked, content=said.content), replace(said, content=asked.content)))
    return item


def swap_sides(item: Item) -> Item:
    """Exchanges chosen and rejected of a pair."""
    return Pair(item.prompt, item.rejected, item.chosen) if isinstance(item, Pair) else item


def strip_markers(item: Item) -> Item:
    """Removes every template marker, and the white space left at the ends."""
    return map_texts(item, lambda text: remove_markers(text))


def remove_markers(text: str) -> str:
    bare = text
    for marker in MARKERS:
        bare = bare.replace(marker, "")
    return text if bare == text else bare.strip()


def join_turns(item: Item) -> Item:
    """Joins consecutive turns of one role, separated by an empty line."""
    if isinstance(item, Chat):
        return Chat(merge_same_roles(item.messages))
    return Pair(merge_same_roles(item.prompt), merge_same_roles(item.chosen), merge_same_roles(item.rejected))


def merge_same_roles(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    done: list[Message] = []
    for message in messages:
        alike = done and (done[-1].role, done[-1].learned) == (message.role, message.learned) and message.role != "tool"
        if alike:
            thought = "\n\n".join(filter(None, (done[-1].reasoning, message.reasoning)))
            done[-1] = replace(done[-1], content=f"{done[-1].content}\n\n{message.content}", reasoning=thought)
        else:
            done.append(message)
    return tuple(done)


def repair_encoding(item: Item) -> Item:
    """Decodes UTF-8 again that was read as Windows-1252, if that succeeds; lost characters stay lost."""
    return map_texts(
        item, redecode_text if not all(message.content.isascii() for message in all_messages(item)) else str
    )


def redecode_text(text: str) -> str:
    try:
        return text.encode("cp1252").decode() if MANGLED_TEXT.search(text) else text
    except UnicodeError:
        return text


def mask_personal_data(item: Item) -> Item:
    """Replaces mail addresses and keys by [mail] and [key]."""
    return map_texts(item, lambda text: SECRET_KEY.sub("[key]", MAIL_ADDRESS.sub("[mail]", text)))


def drop_system_prompts(item: Item) -> Item:
    if isinstance(item, Chat):
        return Chat(tuple(message for message in item.messages if message.role != "system"))
    return replace(item, prompt=tuple(message for message in item.prompt if message.role != "system"))


def strip_questions(item: Item) -> Item:
    """Removes the question with which an answer begins, and the white space behind it."""
    if isinstance(item, Chat):
        return Chat(without_questions(item.messages))
    start = len(item.prompt)
    chosen, rejected = (without_questions(item.prompt + side)[start:] for side in (item.chosen, item.rejected))
    return Pair(item.prompt, chosen, rejected)


def without_questions(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    done = list(messages[:1])
    for asked, said in pairwise(messages):
        question, answer = asked.content.strip(), said.content.lstrip()
        begins = (asked.role, said.role) == ("user", "assistant") and answer.startswith(question)
        repeats = begins and repeats_question(question, answer)
        done.append(replace(said, content=answer.removeprefix(question).lstrip()) if repeats else said)
    return tuple(done)


def strip_pictures(item: Item) -> Item:
    """Removes placeholders of images, video and audio, and the white space left at the ends."""

    def without_placeholders(text: str) -> str:
        found = text
        for placeholder in MEDIA_PLACEHOLDERS:
            found = found.replace(placeholder, "")
        return text if found == text else found.strip()

    return map_texts(item, without_placeholders)


def learn_all(item: Item) -> Item:
    """Learns every answer, regardless of its weight in the file."""
    return map_messages(item, lambda one: one if one.learned else replace(one, learned=True))


def learn_reasoning(item: Item) -> Item:
    """Learns reasoning like the answer it leads to."""
    return map_messages(item, lambda one: replace(one, learn_reasoning=True) if one.reasoning else one)


def drop_reasoning(item: Item) -> Item:
    return map_messages(item, lambda one: replace(one, reasoning="") if one.reasoning else one)


def map_texts(item: Item, change: Callable[[str], str]) -> Item:
    """Changes every text of an item, including reasoning."""

    def change_message(message: Message) -> Message:
        thought = change(message.reasoning) if message.reasoning else ""
        return replace(message, content=change(message.content), reasoning=thought)

    return map_messages(item, change_message)


def map_messages(item: Item, change: Callable[[Message], Message]) -> Item:
    def all_of(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(map(change, messages))

    if isinstance(item, Chat):
        return Chat(all_of(item.messages))
    return Pair(all_of(item.prompt), all_of(item.chosen), all_of(item.rejected))


ROW_REMEDIES: dict[str, Callable[[Item], Item]] = {
    "swap": swap_prompt_answer,
    "swap_sides": swap_sides,
    "strip_markers": strip_markers,
    "join_turns": join_turns,
    "mend_encoding": repair_encoding,
    "mask": mask_personal_data,
    "no_system": drop_system_prompts,
    "strip_pictures": strip_pictures,
    "strip_question": strip_questions,
    "learn_all": learn_all,
    "learn_reasoning": learn_reasoning,
    "no_reasoning": drop_reasoning,
}

STEP_NAMES = (
    *ROW_REMEDIES,
    "reverse",
    *(f"drop_{code}" for code, fault in QUALITY_CHECKS.items() if fault.level != "error"),
    SKIP_DAMAGED,
)
"""Every step a recipe can contain."""


def remedy_labels(code: str, count: int) -> list[tuple[str, str]]:
    """The steps for a finding, each with its button label; empty if training excludes the rows anyway."""
    if code == "damaged":
        return [(SKIP_DAMAGED, f"Skip {count:,} bad line{'s' * (count != 1)}")]
    fault = QUALITY_CHECKS.get(code)
    if fault is None or fault.level == "error" or code == "unanswered":
        return []
    return [
        *((mend, REMEDY_LABELS[mend]) for mend in fault.mends),
        (f"drop_{code}", f"Leave out {'this row' if count == 1 else f'these {count:,} rows'}"),
    ]


REMEDY_LABELS = {
    "swap": "Exchange prompt and answer",
    "swap_sides": "Exchange chosen and rejected",
    "reverse": "Exchange the sides",
    "strip_markers": "Take the markers out",
    "join_turns": "Join neighbouring turns",
    "mend_encoding": "Mend the characters",
    "mask": "Replace them by [mail] and [key]",
    "no_system": "Take out all system prompts",
    "strip_question": "Take the question out of the answer",
    "strip_pictures": "Take the placeholders out",
    "learn_all": "Learn them all the same",
    "learn_reasoning": "Learn the reasoning too",
    "no_reasoning": "Take the reasoning out",
}
