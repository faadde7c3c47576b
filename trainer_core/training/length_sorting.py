"""Sorts the rows of an optimiser step by length, to reduce padding in micro-batches.

The seed decides which rows form a step, sorted or not, so the step's sums and the result are the same. The stock
`group_by_length` sorts over many steps instead: it pads less, but each step then has rows of one length only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler
from transformers import Trainer


def sort_within_steps(places: Sequence[int], lengths: Sequence[int], batch: int) -> list[int]:
    """The rows of one step, longest first. An incomplete last batch stays last: in DPO its rows weigh more than others."""
    full = len(places) - len(places) % batch
    return sorted(places[:full], key=lambda place: -lengths[place]) + list(places[full:])


class StepSortedSampler(Sampler[int]):
    """A seeded order of rows, sorted step by step.

    Args:
        order: the unsorted order.
        lengths: tokens of every row.
        batch: rows in a micro-batch.
        step: rows in an optimiser step.
    """

    def __init__(self, order: SeedableRandomSampler, lengths: Sequence[int], batch: int, step: int):
        self.order, self.lengths, self.batch, self.step = order, lengths, batch, step

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        places = list(self.order)
        for first in range(0, len(places), self.step):
            yield from sort_within_steps(places[first : first + self.step], self.lengths, self.batch)

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)


class LengthSorted(Trainer):
    """Mixin for TRL trainers: sorts rows by length within steps if `sorts` is set.

    Attributes:
        row_lengths: tokens of every training row after truncation; see `row_lengths.py`.
    """

    sorts = False
    row_lengths: Sequence[int] = ()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.sorts:
            return super()._get_train_sampler(train_dataset)
        args = self.args
        order = SeedableRandomSampler(self.train_dataset, data_seed=args.data_seed)
        batch = args.per_device_train_batch_size
        return StepSortedSampler(order, self.row_lengths, batch, batch * args.gradient_accumulation_steps)
