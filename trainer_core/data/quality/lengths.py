"""How long rows are: in tokens by a torch-free tokenizer, or in characters; in little memory for any number of rows."""

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
"""Rows counted in tokens: all up to this many, then ever fewer. Tokenizers read 1 to 3 MB/s, files come at 50."""
TOKENS_PER_TURN = 4
"""Tokens a chat template spends on a turn besides its words, about."""
FIRST_BIN = 16


class TokenCount:
    """Counts with a tokenizer.json.

    Raises:
        DataError: the file is missing or no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare exceptions for missing and damaged files
            raise DataError(f"{path}: not a tokenizer that can be read ({error}).") from error
        self.tokenizer.no_truncation()

    def __call__(self, text: str) -> int:
        return len(self.token_ids(text))

    def token_ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


class CharacterCount:
    """Tokens guessed from letters, rather too many: 3.5 bytes of UTF-8 each; English has about 4.3."""

    def __call__(self, text: str) -> int:
        return -(-2 * len(text.encode("utf-8", "replace")) // 7)


def row_lengths(rows: Sequence[Chat] | Sequence[Pair], tokenizer: Path | None) -> list[tuple[int, int]]:
    """Of rows, evenly over all where there are many: the tokens a row needs before anything of it is learned, and all of its
    tokens. A pair counts with its longer answer, and needs its prompt, what its sides begin with together, and one more.

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
    """The words both answers begin with."""
    one, other = pair.chosen[0].content, pair.rejected[0].content
    return os.path.commonprefix((one, other))


def is_reasoning_read(message: Message, reading: bool) -> bool:
    """Whether a message's reasoning is among its tokens: SFT reads it, DPO only what it is to learn."""
    return bool(message.reasoning) and (reading or message.learn_reasoning)


class LengthStats:
    """The lengths of all rows so far, part by part, and what the training length would cut from each.

    Args:
        tokens: counts tokens; without it characters are counted, and nothing is known of what would be cut.
    """

    def __init__(self, tokens: TokenCount | None, length: int | None) -> None:
        self.tokens, self.length = tokens, length if tokens else None
        self.parts: dict[str, array[int]] = defaultdict(lambda: array("I"))
        self.rows = 0
        self.ratios = array("f")

    def add(self, item: Item) -> tuple[str, ...]:
        """Notes the lengths of a row. Returns the codes of what the training length would do to it."""
        self.rows += 1
        if self.tokens and self.rows % max(1, self.rows // MAX_MEASURED_ROWS):
            return ()
        return self.add_pair(item) if isinstance(item, Pair) else self.add_chat(item.messages)

    def add_chat(self, messages: tuple[Message, ...]) -> tuple[str, ...]:
        first = next(at for at, message in enumerate(messages) if message.role == "assistant" and message.learned)
        prompt, row = self.measure_messages(messages[:first], True), self.measure_messages(messages, True)
        self.append_lengths(row=row, prompt=prompt, answers=row - prompt)
        if self.length is None or row <= self.length:
            return ()
        return ("masked",) if prompt >= self.length else ("cut",)

    def add_pair(self, pair: Pair) -> tuple[str, ...]:
        prompt, chosen, rejected = (
            self.measure_messages(pair.prompt),
            self.measure_messages(pair.chosen),
            self.measure_messages(pair.rejected),
        )
        row = prompt + max(chosen, rejected)
        self.append_lengths(row=row, prompt=prompt, chosen=chosen, rejected=rejected)
        self.ratios.append(chosen / max(1, rejected))
        if self.length is None or row <= self.length:
            return ()
        if prompt >= self.length:
            return ("prompt_too_long",)
        return ("cut_equal",) if prompt + self.common_token_count(pair) >= self.length else ("cut",)

    def append_lengths(self, **lengths: int) -> None:
        for part, length in lengths.items():
            self.parts[part].append(length)

    def measure_messages(self, messages: Iterable[Message], reading: bool = False) -> int:
        length = 0
        for message in messages:
            texts = (message.content, message.reasoning) if is_reasoning_read(message, reading) else (message.content,)
            length += sum(map(self.tokens, texts)) + TOKENS_PER_TURN if self.tokens else sum(map(len, texts))
        return length

    def common_token_count(self, pair: Pair) -> int:
        """Tokens that both sides begin with."""
        assert self.tokens
        one, other = (self.tokens.token_ids(side[0].content) for side in (pair.chosen, pair.rejected))
        differ = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        return next(differ, min(len(one), len(other)))

    def summarise_all(self) -> tuple[LengthSummary, ...]:
        return tuple(self.summarise_part(part, values) for part, values in self.parts.items())

    def summarise_part(self, part: str, values: array[int]) -> LengthSummary:
        ordered = sorted(values)
        over = None
        if self.length is not None:
            over = len(ordered) - bisect_left(ordered, self.length + 1)
        median, p95 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
        return LengthSummary(
            part,
            "tokens" if self.tokens else "characters",
            len(ordered),
            median,
            p95,
            ordered[-1],
            over,
            length_bins(ordered),
        )

    def chosen_over_rejected(self) -> tuple[float, float] | None:
        """Median of length of chosen over rejected, and the share of pairs in which chosen is longer."""
        if not self.ratios:
            return None
        ordered, middle = sorted(self.ratios), len(self.ratios) // 2
        median = (ordered[middle] + ordered[~middle]) / 2
        return median, (len(ordered) - bisect_right(ordered, 1)) / len(ordered)


def length_bins(ordered: list[int]) -> tuple[tuple[int, int, int], ...]:
    """(from, to, count) with doubling width, from below 16 up to the longest; `to` is not included."""
    edges = [0, FIRST_BIN]
    while edges[-1] <= ordered[-1]:
        edges.append(2 * edges[-1])
    starts = [bisect_left(ordered, edge) for edge in edges]
    return tuple((edges[at], edges[at + 1], starts[at + 1] - starts[at]) for at in range(len(edges) - 1))
