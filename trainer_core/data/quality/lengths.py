"""Row lengths in tokens (torch-free tokenizer) or in characters, in little memory for any number of rows."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from trainer_core.data.quality.report import LengthSummary
from trainer_core.data.schema.messages import Chat, Item, Message, Pair
from trainer_core.errors import DataError

MAX_MEASURED_ROWS = 5_000
"""Maximum rows to tokenise; larger data sets are sampled. Tokenizers process 1 to 3 MB/s, files are read at 50."""
TOKENS_PER_TURN = 4
"""Approximate tokens that a chat template adds per turn."""
FIRST_BIN = 16


class TokenCount:
    """Counts with a tokenizer.json.

    Raises:
        DataError: the file is missing or not a tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare exceptions for missing and damaged files
            raise DataError("lengths.no_tokenizer", path=path, error=str(error)) from error
        self.tokenizer.no_truncation()

    def __call__(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)


class CharacterCount:
    """Estimates tokens from text, rather too many: 3.5 bytes of UTF-8 each; English has about 4.3."""

    def __call__(self, text: str) -> int:
        return -(-2 * len(text.encode("utf-8", "replace")) // 7)


def row_lengths(rows: Sequence[Chat] | Sequence[Pair], tokenizer: Path | None) -> list[tuple[int, int]]:
    """(tokens up to the first learned one, all tokens) per row, or per row of an evenly spaced sample if there are many. A pair
    has the length of its longer answer, and needs its prompt, the common start of its sides, and one more.

    Raises:
        DataError: the tokenizer cannot be read.
    """
    measure = TokenCount(tokenizer) if tokenizer else CharacterCount()

    def long(messages: Iterable[Message], reading: bool = False) -> int:
        return sum(measure(message.content) + thought(message, reading) + TOKENS_PER_TURN for message in messages)

    def thought(message: Message, reading: bool) -> int:
        return measure(message.reasoning) if is_reasoning_read(message, reading) else 0

    def shortest(row: Chat | Pair) -> int:
        if isinstance(row, Pair):
            return long(row.prompt) + measure(common_text(row)) + 1
        first = next(at for at, one in enumerate(row.messages) if one.role == "assistant" and one.learned)
        return long(row.messages[:first], True) + 1

    def whole(row: Chat | Pair) -> int:
        if isinstance(row, Chat):
            return long(row.messages, True)
        return long(row.prompt) + max(long(row.chosen), long(row.rejected))

    return [(shortest(row), whole(row)) for row in rows[:: -(-len(rows) // MAX_MEASURED_ROWS) or 1]]


def common_text(pair: Pair) -> str:
    """The text both answers start with."""
    one, other = pair.chosen[0].content, pair.rejected[0].content
    return os.path.commonprefix((one, other))


def is_reasoning_read(message: Message, reading: bool) -> bool:
    """Does a message's reasoning count as tokens? SFT reads it, DPO only if it is learned."""
    return bool(message.reasoning) and (reading or message.learn_reasoning)


class CharacterStats:
    """The lengths of all rows so far in characters, by part."""

    def __init__(self) -> None:
        self.parts: dict[str, array[int]] = defaultdict(lambda: array("I"))
        self.ratios = array("f")

    def add(self, item: Item) -> None:
        if isinstance(item, Pair):
            prompt, chosen, rejected = map(character_count, (item.prompt, item.chosen, item.rejected))
            self.append_lengths(row=prompt + max(chosen, rejected), prompt=prompt, chosen=chosen, rejected=rejected)
            self.ratios.append(chosen / max(1, rejected))
        else:
            messages = item.messages
            first = next(at for at, one in enumerate(messages) if one.role == "assistant" and one.learned)
            prompt, row = character_count(messages[:first], True), character_count(messages, True)
            self.append_lengths(row=row, prompt=prompt, answers=row - prompt)

    def append_lengths(self, **lengths: int) -> None:
        for part, length in lengths.items():
            self.parts[part].append(length)

    def summarise_all(self) -> tuple[LengthSummary, ...]:
        return tuple(summarise_part(part, values) for part, values in self.parts.items())

    def chosen_over_rejected(self) -> tuple[float, float] | None:
        """Median length ratio of chosen ÷ rejected, and the share of pairs with a longer chosen answer."""
        if not self.ratios:
            return None
        ordered, middle = sorted(self.ratios), len(self.ratios) // 2
        median = (ordered[middle] + ordered[~middle]) / 2
        return median, (len(ordered) - bisect_right(ordered, 1)) / len(ordered)


def character_count(messages: Iterable[Message], reading: bool = False) -> int:
    return sum(len(one.content) + len(one.reasoning) * is_reasoning_read(one, reading) for one in messages)


def summarise_part(part: str, values: array[int]) -> LengthSummary:
    ordered = sorted(values)
    median, p95 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
    return LengthSummary(part, "characters", len(ordered), median, p95, ordered[-1], length_bins(ordered))


def length_bins(ordered: list[int]) -> tuple[tuple[int, int, int], ...]:
    """(from, to, count) with doubling width, from below 16 up to the longest; `to` is exclusive."""
    edges = [0, FIRST_BIN]
    while edges[-1] <= ordered[-1]:
        edges.append(2 * edges[-1])
    starts = [bisect_left(ordered, edge) for edge in edges]
    return tuple((edges[at], edges[at + 1], starts[at + 1] - starts[at]) for at in range(len(edges) - 1))
