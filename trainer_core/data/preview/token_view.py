"""A row as tokens, and the extent of each row, from the same functions as in training (`tokenize.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from trainer_core.data import Chat, DataFinding, Pair, tokenize
from trainer_core.data.preview.protocol import TokenSide
from trainer_core.data.quality.report import MAX_EXAMPLES, FindingExample, Level
from trainer_core.data.read_events import UsableRow
from trainer_core.data.tokenizer import special_token_ids
from trainer_core.texts import NO_TEXT, Text

if TYPE_CHECKING:
    from trainer_core.data.tokenize import PreTrainedTokenizerBase

END_TOKENS = 3
"""An answer's end token is among its last tokens; a template may write a line end after it."""


@dataclass(frozen=True)
class RowTokens:
    sides: tuple[TokenSide, ...]
    differ: int | None
    left_out: str


def view_row(tokenizer: PreTrainedTokenizerBase, item: Chat | Pair, length: int) -> RowTokens:
    """A row as the model reads it, and why training would skip it at this length, if so.

    Raises:
        DataError, ModelError: see `data/tokenize.py`.
    """
    specials = special_token_ids(tokenizer)
    if isinstance(item, Chat):
        whole, row = next(tokenize.encode_chats(tokenizer, [item]))
        trained = [label != tokenize.MASKED for label in row.labels]
        side = TokenSide(
            "row",
            whole.ids,
            token_texts(whole),
            trained,
            token_positions(whole.ids, specials),
            min(length, len(whole.ids)),
        )
        left_out = NO_TEXT if any(trained[:length]) else Text("preview.masked", length=length)
        return RowTokens((side,), None, str(left_out))
    pair = tokenize.encode_pair(tokenizer, item)
    sides = tuple(
        view_side(tokenizer, name, (*item.prompt, *answer), pair.prompt, length, specials)
        for name, answer in (("chosen", item.chosen), ("rejected", item.rejected))
    )
    return RowTokens(sides, pair.first_difference, str(exclusion_reason(pair, length)))


def view_side(tokenizer, name, messages, prompt: int, length: int, specials: frozenset[int]) -> TokenSide:  # type: ignore[no-untyped-def]
    whole = tokenize.tokenize_chat(tokenizer, messages)
    trained = [place >= prompt for place in range(len(whole.ids))]
    return TokenSide(
        name, whole.ids, token_texts(whole), trained, token_positions(whole.ids, specials), min(length, len(whole.ids))
    )


def exclusion_reason(pair: tokenize.EncodedPair, length: int) -> Text:
    if pair.prompt >= length:
        return Text("preview.prompt_too_long", length=length)
    return Text("preview.sides_equal", length=length) if pair.first_difference >= length else NO_TEXT


def token_texts(whole: tokenize.TokenizedText) -> list[str]:
    """The text of each token. A character made of several tokens belongs to the first; joined, they are the whole text."""
    found, at = list[str](), 0
    for _, end in whole.offsets:
        found.append(whole.text[at : max(at, end)])
        at = max(at, end)
    if found:
        found[-1] += whole.text[at:]
    return found


def token_positions(ids: Sequence[int], wanted: frozenset[int]) -> list[int]:
    return [place for place, token in enumerate(ids) if token in wanted]


@dataclass(frozen=True)
class RowExtent:
    """Positions in a row, in tokens: its end, the first answer, the first difference of its sides; and if it ends properly.

    unwritten: learned answers that the template leaves out.
    """

    end: int
    answer: int
    differ: int | None
    ends: bool
    unwritten: int = 0


def row_extents(tokenizer: PreTrainedTokenizerBase, items: Sequence[Chat | Pair]) -> Iterator[RowExtent]:
    specials = special_token_ids(tokenizer)
    for _, alike in groupby(items, type):
        rows = list(alike)
        pairs, chats = [one for one in rows if isinstance(one, Pair)], [one for one in rows if isinstance(one, Chat)]
        yield from (pair_extent(pair, specials) for pair in tokenize.encode_pairs(tokenizer, pairs))
        yield from (chat_extent(row, specials) for _, row in tokenize.encode_chats(tokenizer, chats))


def pair_extent(pair: tokenize.EncodedPair, specials: frozenset[int]) -> RowExtent:
    closed = not specials.isdisjoint(pair.chosen[-END_TOKENS:]) and not specials.isdisjoint(pair.rejected[-END_TOKENS:])
    return RowExtent(pair.longest_length, pair.prompt, pair.first_difference, closed)


def chat_extent(row: tokenize.EncodedChat, specials: frozenset[int]) -> RowExtent:
    trained = [place for place, label in enumerate(row.labels) if label != tokenize.MASKED]
    answer = trained[0] if trained else len(row.labels)
    closed = not specials.isdisjoint(row.labels[place] for place in trained[-END_TOKENS:])
    return RowExtent(len(row.labels), answer, None, closed, row.unwritten)


LENGTH_FINDINGS: dict[str, Level] = {
    "masked": "error",
    "prompt_too_long": "error",
    "cut_equal": "error",
    "cut": "notice",
    "no_end": "warning",
    "unwritten": "warning",
}
"""Code → level. The sections `length` and `length_titles` of the texts describe each."""


def length_effects(row: RowExtent, length: int) -> Iterator[str]:
    """The codes of what this length does to a row, and of what its template does."""
    if row.answer >= length:
        yield "masked" if row.differ is None else "prompt_too_long"
    elif row.differ is not None and row.differ >= length:
        yield "cut_equal"
    elif row.end > length:
        yield "cut"
    if not row.ends:
        yield "no_end"
    if row.unwritten:
        yield "unwritten"


def length_findings(rows: Sequence[tuple[UsableRow, RowExtent]], length: int) -> Iterator[DataFinding]:
    """Effects of the length on the measured rows, answers without an end token, and answers that the template leaves out."""
    for code, level in LENGTH_FINDINGS.items():
        hit = [(one, row) for one, row in rows if code in length_effects(row, length)]
        if hit:
            answers = sum(row.unwritten for _, row in hit)
            counts = {"rows": len(hit), "total": len(rows), "length": length, "answers": answers}
            title, text = Text(f"length_titles.{code}"), Text(f"length.{code}", **counts)
            where = tuple(FindingExample(one.file, one.row, one.line, "") for one, _ in hit[:MAX_EXAMPLES])
            yield DataFinding(code, level, str(title), len(hit), len(rows), str(text), where)
