"""The order of rows within an optimiser step: by length, so that a micro-batch is padded little.

Which rows make up a step is what the seed says, sorted or not; so are the sums that a step adds up, and what is learned. The
stock `group_by_length` sorts over many steps instead: it pads less, but each step then sees rows of one length only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler
from transformers import Trainer


def sort_within_steps(places: Sequence[int], lengths: Sequence[int], batch: int) -> list[int]:
    """The rows of one step, longest first. Rows that fill no batch stay last: in DPO each of them weighs more than others."""
    full = len(places) - len(places) % batch
    return sorted(places[:full], key=lambda place: -lengths[place]) + list(places[full:])


class StepSortedSampler(Sampler[int]):
    """A seeded order of rows, sorted step by step.

    Args:
        order: the order without sorting.
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
    """Mixed into a TRL trainer: sorts rows by length within steps where `sorts`.

    Attributes:
        row_lengths: tokens of every row of the training set, after the cut; see `row_lengths.py`.
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
