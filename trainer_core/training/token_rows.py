"""A stage's rows as the token columns of its trainer: for training, for evaluation, and their lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from trainer_core.data import LoadedData, tokenize
from trainer_core.data.tokenize import MASKED, EncodedPair
from trainer_core.planning.eval_budget import MAX_EVAL_ROWS
from trainer_core.texts import Text

TokenRow = dict[str, Any]


@dataclass(frozen=True)
class TokenColumns:
    """One row layout, named by `Method.columns`.

    names: of the columns. encode: (tokenizer, data, length) → the training rows, and notes on truncated or dropped rows.
    encode_held_out: the held-out rows, truncated in the same way.
    sides: of a row; each lists its columns in order, separated by spaces.
    """

    names: tuple[str, ...]
    sides: tuple[str, ...]
    encode: Callable[[Any, LoadedData, int], tuple[list[TokenRow], list[Text]]]
    encode_held_out: Callable[[Any, LoadedData, int], list[TokenRow]]

    def count_tokens(self, rows: Dataset, limit: int) -> list[int]:
        """Tokens of every row after truncation; a pair counts with its longer side.

        Args:
            limit: the recipe's length. A trainer's own is None on CUDA, where Unsloth renames it.
        """
        columns = [zip(*(rows[name] for name in side.split()), strict=True) for side in self.sides]
        lengths = [[sum(map(len, parts)) for parts in side] for side in columns]
        return [min(max(row), limit) for row in zip(*lengths, strict=True)]


def encode_chats(tokenizer: Any, loaded: LoadedData, length: int) -> tuple[list[TokenRow], list[Text]]:
    encoded, notes = tokenize.sft_rows(tokenizer, loaded.chats, length)
    return [{"input_ids": row.input_ids, "labels": row.labels} for row in encoded], notes


def encode_held_out_chats(tokenizer: Any, loaded: LoadedData, length: int) -> list[TokenRow]:
    chats = loaded.held_out_chats[:MAX_EVAL_ROWS]
    encoded = [row.truncate(length) for _, row in tokenize.encode_chats(tokenizer, chats)]
    return [{"input_ids": row.input_ids, "labels": row.labels} for row in encoded if row.target_count]


def pair_columns(
    names: tuple[str, ...], sides: tuple[str, ...], as_row: Callable[[EncodedPair, int], TokenRow]
) -> TokenColumns:
    """The layout of a trainer of pairs; `as_row` gets a pair and where it is cut."""

    def encode(tokenizer: Any, loaded: LoadedData, length: int) -> tuple[list[TokenRow], list[Text]]:
        encoded, notes = tokenize.pair_rows(tokenizer, loaded.pairs, length)
        return [as_row(row, length) for row in encoded], notes

    def encode_held_out(tokenizer: Any, loaded: LoadedData, length: int) -> list[TokenRow]:
        """Held-out pairs that first differ beyond the length teach nothing and are dropped."""
        encoded = tokenize.encode_pairs(tokenizer, loaded.held_out[:MAX_EVAL_ROWS])
        return [as_row(row, length) for row in encoded if row.first_difference < length]

    return TokenColumns(names, sides, encode, encode_held_out)


def as_answer_columns(pair: EncodedPair, length: int) -> TokenRow:
    """For `trl.DPOTrainer`, whose collator truncates."""
    chosen, rejected = pair.chosen, pair.rejected
    answers = {"chosen_ids": chosen[pair.prompt :], "rejected_ids": rejected[pair.prompt :]}
    return {"prompt_ids": chosen[: pair.prompt]} | answers


def as_labelled_sides(pair: EncodedPair, length: int) -> TokenRow:
    """For trainers of trl.experimental that read both sides whole, each with mask and labels."""
    row: TokenRow = {}
    for name, ids in (("chosen", pair.chosen[:length]), ("rejected", pair.rejected[:length])):
        labels = [MASKED] * min(pair.prompt, len(ids)) + ids[pair.prompt :]
        row |= {f"{name}_input_ids": ids, f"{name}_attention_mask": [1] * len(ids), f"{name}_labels": labels}
    return row


LABELLED = ("input_ids", "attention_mask", "labels")
TOKEN_COLUMNS = {
    "labels": TokenColumns(("input_ids", "labels"), ("input_ids",), encode_chats, encode_held_out_chats),
    "answers": pair_columns(
        ("prompt_ids", "chosen_ids", "rejected_ids"),
        ("prompt_ids chosen_ids", "prompt_ids rejected_ids"),
        as_answer_columns,
    ),
    "labelled sides": pair_columns(
        tuple(f"{side}_{name}" for side in ("chosen", "rejected") for name in LABELLED),
        ("chosen_input_ids", "rejected_input_ids"),
        as_labelled_sides,
    ),
}
"""Layouts by name. Rows are tokenised before a trainer sees them, so that training sees what the preview shows."""


def whole_sides(row: TokenRow) -> tuple[tuple[list[int], int], tuple[list[int], int]]:
    """The chosen and the rejected side of a pair in any layout: tokens, and how many belong to the prompt."""
    if "prompt_ids" in row:
        prompt = list(row["prompt_ids"])
        return (prompt + list(row["chosen_ids"]), len(prompt)), (prompt + list(row["rejected_ids"]), len(prompt))
    sides = [(list(row[f"{side}_input_ids"]), list(row[f"{side}_labels"])) for side in ("chosen", "rejected")]
    (chosen, of_chosen), (rejected, of_rejected) = sides
    return (chosen, of_chosen.count(MASKED)), (rejected, of_rejected.count(MASKED))
