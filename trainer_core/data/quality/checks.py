"""Faults of a row: how each is detected, and which step repairs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from trainer_core.data.quality import text_patterns
from trainer_core.data.quality.report import Level
from trainer_core.data.schema.messages import Chat, Item, Message, Pair, normalise_text, prompt_key, prompts_of
from trainer_core.texts import Text

IDENTICAL_SHARE = 0.95
"""Sides that share this much of their text, counted from both ends, differ too little to teach a preference."""
END_LETTERS = 16
"""Letters compared first at either end. If both ends differ, at most 30 of 32 letters are shared: less than 95 %."""
MIN_REPEATED_BYTES = 20
"""Of a question, to count wherever an answer repeats it; a shorter one, such as a greeting, can come back by chance."""
NEXT_ROLES = {"": ("user",), "user": ("assistant",), "assistant": ("user", "tool"), "tool": ("assistant", "tool")}
"""Role → roles allowed next; the user starts."""


@dataclass(frozen=True)
class QualityCheck:
    """One possible fault of a row. `mends`: names of steps that repair it or handle it differently.

    Its meaning is in the sections `quality` and `quality_titles` of the texts.
    """

    code: str
    level: Level
    mends: tuple[str, ...] = ()

    @property
    def title(self) -> Text:
        return Text(f"quality_titles.{self.code}")

    @property
    def meaning(self) -> Text:
        return Text(f"quality.{self.code}")


QUALITY_CHECKS = {
    fault.code: fault
    for fault in (
        QualityCheck("empty_prompt", "error"),
        QualityCheck("empty_answer", "error"),
        QualityCheck("unlearned", "error"),
        QualityCheck("identical", "error"),
        QualityCheck("near_identical", "warning"),
        QualityCheck("duplicate_row", "warning"),
        QualityCheck("duplicate_prompt", "notice"),
        QualityCheck("leaked", "warning"),
        QualityCheck("swapped", "warning", ("swap",)),
        QualityCheck("repeated_question", "warning", ("strip_question",)),
        QualityCheck("reversed", "warning", ("reverse",)),
        QualityCheck("markers", "warning", ("strip_markers",)),
        QualityCheck("headings", "warning"),
        QualityCheck("placeholder", "warning"),
        QualityCheck("roles", "warning", ("join_turns",)),
        QualityCheck("unanswered", "notice"),
        QualityCheck("tools", "warning"),
        QualityCheck("pictures", "warning", ("strip_pictures",)),
        QualityCheck("weight_zero", "notice", ("learn_all",)),
        QualityCheck("reasoning", "notice", ("learn_reasoning", "no_reasoning")),
        QualityCheck("encoding", "warning", ("mend_encoding",)),
        QualityCheck("personal", "notice", ("mask",)),
    )
}
"""Errors are never trained on and need no remedy; an unanswered last turn is always removed."""


def unusable_code(item: Item) -> str | None:
    """The code of the fault that makes a row useless for training, or None."""
    if isinstance(item, Chat):
        if has_empty_answer(item.messages):
            return "empty_answer"
        if len(item.messages) > 1 and has_empty_question(item.messages):
            return "empty_prompt"
        return "unlearned" if has_no_target(item.messages) else None
    if has_empty_question(item.prompt):
        return "empty_prompt"
    if has_empty_answer(item.chosen + item.rejected):
        return "empty_answer"
    if has_no_target(item.chosen):
        return "unlearned"
    return "identical" if dpo_content(item.chosen) == dpo_content(item.rejected) else None


def dpo_content(messages: tuple[Message, ...]) -> tuple[tuple[str, str, str], ...]:
    """The part of a side that DPO reads."""
    return tuple([(one.role, one.content, one.reasoning if one.learn_reasoning else "") for one in messages])


def has_empty_answer(messages: tuple[Message, ...]) -> bool:
    """Is a learned assistant turn empty?"""
    return not all([turn.content.strip() for turn in messages if turn.role == "assistant" and turn.learned])


def has_no_target(messages: tuple[Message, ...]) -> bool:
    """Is no assistant turn learned?"""
    return not any([turn.learned for turn in messages if turn.role == "assistant"])


def has_empty_question(messages: tuple[Message, ...]) -> bool:
    return not any([message.content.strip() for message in messages if message.role == "user"])


def check_row(item: Item, margin: float | None = None) -> Iterator[str]:
    """The codes of a usable row's own faults. `margin`: score of chosen minus score of rejected."""
    if isinstance(item, Pair):
        if is_near_identical(item):
            yield "near_identical"
        if margin is not None and margin < 0:
            yield "reversed"
    elif item.messages[-1].role != "assistant":
        yield "unanswered"
    if is_swapped(item):
        yield "swapped"
    if any(repeats_question(asked, said) for asked, said in answered_questions(item)):
        yield "repeated_question"
    if is_out_of_order(item):
        yield "roles"
    yield from codes_outside_loss(item)
    yield from text_patterns.matching_codes(row_text(item))


def codes_outside_loss(item: Item) -> Iterator[str]:
    """The codes of content that is not learned without a step."""
    messages = all_messages(item)
    if any([one.reasoning and not one.learn_reasoning for one in messages]):
        yield "reasoning"
    if not all([one.learned for one in messages]):
        yield "weight_zero"


@dataclass
class SeenRows:
    """Hashes of all rows so far, to find repeats, and of the held-out prompts."""

    held_out: frozenset[int] = frozenset()
    rows: set[int] = field(default_factory=set)
    prompts: set[int] = field(default_factory=set)

    def check_repeats(self, item: Item) -> Iterator[str]:
        """The codes of faults relative to earlier rows and held-out prompts."""
        prompt, row = prompt_key(last_prompt(item)), hash(item)
        if row in self.rows:
            yield "duplicate_row"
        elif prompt in self.prompts:
            yield "duplicate_prompt"
        if self.held_out and any(prompt_key(one) in self.held_out for one in prompts_of(item)):
            yield "leaked"
        self.rows.add(row)
        self.prompts.add(prompt)


def last_prompt(item: Item) -> tuple[Message, ...]:
    """The prompt of the last answer; plain text is its own prompt."""
    if isinstance(item, Pair):
        return item.prompt
    return item.messages[:-1] or item.messages


def all_messages(item: Item) -> tuple[Message, ...]:
    return item.messages if isinstance(item, Chat) else item.prompt + item.chosen + item.rejected


def row_text(item: Item) -> str:
    """All text of a row."""
    return "\n\n".join([message.content for message in all_messages(item)])


def is_near_identical(pair: Pair) -> bool:
    """Do the sides share 95 % of the longer one, counted from both ends? Case and white space are ignored."""
    one, other = (" ".join([message.content for message in side]) for side in (pair.chosen, pair.rejected))
    shorter = min(len(one), len(other))
    if shorter < IDENTICAL_SHARE * max(len(one), len(other)) - 16 or (
        shorter >= 2 * END_LETTERS and ends_differ(one, other)
    ):
        return False
    one, other = normalise_text(one), normalise_text(other)
    if one == other:
        return True
    start = common_prefix_length(one, other)
    end = common_prefix_length(one[start:][::-1], other[start:][::-1])
    return start + end >= IDENTICAL_SHARE * max(len(one), len(other))


def ends_differ(one: str, other: str) -> bool:
    """Do two texts differ in both their first and their last letters? Does not read the rest.

    ASCII only: elsewhere the following letter can change the first ones.
    """
    if not (one.isascii() and other.isascii()):
        return False
    parts = (one[:END_LETTERS], other[:END_LETTERS], one[-END_LETTERS:], other[-END_LETTERS:])
    start, other_start, end, other_end = [" ".join(part.split()).casefold() for part in parts]
    starts_agree = start.startswith(other_start) or other_start.startswith(start)
    return not (starts_agree or end.endswith(other_end) or other_end.endswith(end))


def common_prefix_length(one: str, other: str) -> int:
    """Length of the common prefix, by binary search."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def is_swapped(item: Item) -> bool:
    """Does the answer read like a question, and the prompt like its answer?"""
    asked, said = (item.prompt, item.chosen) if isinstance(item, Pair) else (item.messages[:-1], item.messages[-1:])
    if len(asked) != 1 or len(said) != 1:
        return False
    prompt, answer = asked[0].content, said[0].content
    return len(prompt) > 2 * len(answer) and answer.rstrip().endswith("?") and "?" not in prompt


def answered_questions(item: Item) -> Iterator[tuple[str, str]]:
    """The text of each user turn with that of the answer to it; of a pair, with both answers."""
    whole = [item.messages] if isinstance(item, Chat) else [item.prompt + item.chosen, item.prompt + item.rejected]
    for messages in whole:
        for asked, said in pairwise(messages):
            if (asked.role, said.role) == ("user", "assistant"):
                yield asked.content, said.content


def repeats_question(asked: str, said: str) -> bool:
    """Does an answer hold the whole question? A short one must be its beginning, and end with a question mark."""
    question = asked.strip()
    if len(question.encode(errors="replace")) >= MIN_REPEATED_BYTES:
        return question in said
    return question.endswith(("?", "\uff1f")) and len(question) > 1 and said.lstrip().startswith(question)


def is_out_of_order(item: Item) -> bool:
    """Do user and assistant fail to alternate, starting with the user? A leading system message is allowed."""
    if isinstance(item, Pair):
        return (
            has_wrong_turns(item.prompt + item.chosen[:1])
            or len(item.chosen) > 1
            and has_wrong_turns(item.chosen, "user")
        )
    return len(item.messages) > 1 and has_wrong_turns(item.messages)


def has_wrong_turns(messages: tuple[Message, ...], before: str = "") -> bool:
    first = bool(messages) and messages[0].role == "system"
    for message in messages[first:]:
        if message.role not in NEXT_ROLES[before]:
            return True
        before = message.role
    return False
