"""What can be wrong with a row: every fault, how it is recognised, and which step mends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from trainer_core.data.quality import text_patterns
from trainer_core.data.quality.report import Level
from trainer_core.data.schema.messages import Chat, Item, Message, Pair, plain, prompt_key, prompts_of

NEAR = 0.95
"""Sides that share this much of their text, counted from both ends, differ too little to teach a preference."""
END = 16
"""Letters looked at first at either end: where both ends differ, two letters of 32 do, and that is more than a twentieth."""
ALLOWED = {"": ("user",), "user": ("assistant",), "assistant": ("user", "tool"), "tool": ("assistant", "tool")}
"""Role -> the roles whose turn may come next; the first is the user's."""


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong with a row. `mends`: names of the steps that repair it or choose otherwise."""

    code: str
    level: Level
    title: str
    meaning: str
    mends: tuple[str, ...] = ()


FAULTS = {
    fault.code: fault
    for fault in (
        Fault("empty_prompt", "error", "Empty prompt", "the prompt is empty"),
        Fault("empty_answer", "error", "Empty answer", "an answer is empty"),
        Fault("unlearned", "error", "No answer to learn", "every answer has weight 0, so there is nothing to learn"),
        Fault("identical", "error", "Identical sides", "chosen and rejected are the same text"),
        Fault("near_identical", "warning", "Nearly identical sides", "chosen and rejected share 95 % of their text"),
        Fault("duplicate_row", "warning", "Repeated rows", "the same row came before"),
        Fault("duplicate_prompt", "notice", "Repeated prompts", "the same prompt came before with another answer"),
        Fault("leaked", "warning", "Prompts in the held-out file", "the prompt is also in the held-out file"),
        Fault("swapped", "warning", "Prompt and answer swapped?", "a long prompt has a question as its answer", ("swap",)),
        Fault("reversed", "warning", "Sides reversed?", "the rejected answer has the higher score", ("reverse",)),
        Fault("markers", "warning", "Template markers", "a text holds a chat template's own markers", ("strip_markers",)),
        Fault("headings", "warning", "Role headings", "a text holds headings such as ### Response: or Human:"),
        Fault("placeholder", "warning", "Unfilled placeholders", "a text holds a placeholder such as {{name}}"),
        Fault("roles", "warning", "Turns out of order", "user and assistant do not take turns", ("join_turns",)),
        Fault("unanswered", "notice", "Last turn unanswered", "the chat ends with a turn nobody answers"),
        Fault(
            "tools", "warning", "Tool lists and calls",
            "there is a list of tools or a tool call; the model is not told of the list, and calls are learned as plain text",
        ),
        Fault(
            "pictures", "warning", "Pictures, sound or video",
            "there is a picture, sound or video, or a placeholder for one such as <image>; only the text is trained on, and "
            "the placeholder stays in it",
            ("strip_pictures",),
        ),
        Fault(
            "weight_zero", "notice", "Answers with weight 0",
            "an answer has weight 0: SFT reads it and does not learn it, DPO learns both sides whole",
            ("learn_all",),
        ),
        Fault(
            "reasoning", "notice", "Reasoning",
            "an answer has reasoning: SFT reads it and does not learn it, DPO leaves it out",
            ("learn_reasoning", "no_reasoning"),
        ),
        Fault("encoding", "warning", "Mangled characters", "a text was decoded wrongly somewhere", ("mend_encoding",)),
        Fault("personal", "notice", "Mail addresses or keys", "a text holds a mail address or a secret key", ("mask",)),
    )
}  # fmt: skip
"""Errors are never trained on and need no remedy; an unanswered last turn is always cut off."""


def unusable(item: Item) -> str | None:
    """The code of the fault that keeps a row from teaching anything, or None where it can be trained on."""
    if isinstance(item, Chat):
        if says_nothing(item.messages):
            return "empty_answer"
        if len(item.messages) > 1 and nothing_asked(item.messages):
            return "empty_prompt"
        return "unlearned" if nothing_learned(item.messages) else None
    if nothing_asked(item.prompt):
        return "empty_prompt"
    if says_nothing(item.chosen + item.rejected):
        return "empty_answer"
    if nothing_learned(item.chosen):
        return "unlearned"
    return "identical" if bare(item.chosen) == bare(item.rejected) else None


def bare(messages: tuple[Message, ...]) -> tuple[tuple[str, str, str], ...]:
    """What DPO reads of a side."""
    return tuple([(one.role, one.content, one.reasoning if one.learn_reasoning else "") for one in messages])


def says_nothing(messages: tuple[Message, ...]) -> bool:
    """Whether a turn of the assistant that is to be learned is empty."""
    return not all([turn.content.strip() for turn in messages if turn.role == "assistant" and turn.learned])


def nothing_learned(messages: tuple[Message, ...]) -> bool:
    """Whether every turn of the assistant is only to be read."""
    return not any([turn.learned for turn in messages if turn.role == "assistant"])


def nothing_asked(messages: tuple[Message, ...]) -> bool:
    return not any([message.content.strip() for message in messages if message.role == "user"])


def faults(item: Item, margin: float | None = None) -> Iterator[str]:
    """The codes of what is wrong with a usable row on its own. `margin`: score of chosen less score of rejected."""
    if isinstance(item, Pair):
        if near_identical(item):
            yield "near_identical"
        if margin is not None and margin < 0:
            yield "reversed"
    elif item.messages[-1].role != "assistant":
        yield "unanswered"
    if is_swapped(item):
        yield "swapped"
    if out_of_order(item):
        yield "roles"
    yield from choices(item)
    yield from text_patterns.faults(text_of(item))


def choices(item: Item) -> Iterator[str]:
    """The codes of what a row has that is not learned unless a step says so."""
    messages = turns(item)
    if any([one.reasoning and not one.learn_reasoning for one in messages]):
        yield "reasoning"
    if not all([one.learned for one in messages]):
        yield "weight_zero"


@dataclass
class Seen:
    """The rows so far, by their hashes: what repeats, and what is held out."""

    held_out: frozenset[int] = frozenset()
    rows: set[int] = field(default_factory=set)
    prompts: set[int] = field(default_factory=set)

    def faults(self, item: Item) -> Iterator[str]:
        """The codes of what is wrong with a row beside those before it."""
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
    """What the last answer answers; plain text is its own prompt."""
    if isinstance(item, Pair):
        return item.prompt
    return item.messages[:-1] or item.messages


def turns(item: Item) -> tuple[Message, ...]:
    return item.messages if isinstance(item, Chat) else item.prompt + item.chosen + item.rejected


def text_of(item: Item) -> str:
    """All words of a row as one text."""
    return "\n\n".join([message.content for message in turns(item)])


def near_identical(pair: Pair) -> bool:
    """Whether the sides share 95 % of the longer one, counted from both ends; case and white space do not count."""
    one, other = (" ".join([message.content for message in side]) for side in (pair.chosen, pair.rejected))
    shorter = min(len(one), len(other))
    if shorter < NEAR * max(len(one), len(other)) - 16 or (shorter >= 2 * END and ends_differ(one, other)):
        return False
    one, other = plain(one), plain(other)
    if one == other:
        return True
    start = shared_start(one, other)
    end = shared_start(one[start:][::-1], other[start:][::-1])
    return start + end >= NEAR * max(len(one), len(other))


def ends_differ(one: str, other: str) -> bool:
    """Whether two texts differ both in their first and in their last letters, told without a look at the rest.

    For ASCII alone: elsewhere the letter behind the first ones may change them.
    """
    if not (one.isascii() and other.isascii()):
        return False
    parts = (one[:END], other[:END], one[-END:], other[-END:])
    start, other_start, end, other_end = [" ".join(part.split()).casefold() for part in parts]
    starts_agree = start.startswith(other_start) or other_start.startswith(start)
    return not (starts_agree or end.endswith(other_end) or other_end.endswith(end))


def shared_start(one: str, other: str) -> int:
    """How many characters two texts begin with together, found by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def is_swapped(item: Item) -> bool:
    """Whether the answer reads like a question and the prompt like its answer."""
    asked, said = (item.prompt, item.chosen) if isinstance(item, Pair) else (item.messages[:-1], item.messages[-1:])
    if len(asked) != 1 or len(said) != 1:
        return False
    prompt, answer = asked[0].content, said[0].content
    return len(prompt) > 2 * len(answer) and answer.rstrip().endswith("?") and "?" not in prompt


def out_of_order(item: Item) -> bool:
    """Whether user and assistant fail to take turns, beginning with the user. A system message may come first."""
    if isinstance(item, Pair):
        return wrong_turns(item.prompt + item.chosen[:1]) or len(item.chosen) > 1 and wrong_turns(item.chosen, "user")
    return len(item.messages) > 1 and wrong_turns(item.messages)


def wrong_turns(messages: tuple[Message, ...], before: str = "") -> bool:
    first = bool(messages) and messages[0].role == "system"
    for message in messages[first:]:
        if message.role not in ALLOWED[before]:
            return True
        before = message.role
    return False
