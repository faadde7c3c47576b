"""Loads a run's data: rows to train on, held-out rows, and notes on everything left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.data.stream import CountRequest, RowCounts

if TYPE_CHECKING:
    from trainer_core.config import recipe
from trainer_core.data.select import LoadedData, RowReader, RowSource, select_rows


def load_data(data: recipe.Data, method: recipe.MethodChain, reader: RowReader | None = None) -> LoadedData:
    """The rows of a run by its recipe.

    Examples for SFT come from `data.chat`, else they are the chosen answers of the pairs. Held-out pairs come from
    `data.held_out`, from the bundled file for the sample data, else they are split off (see `split`). No held-out prompt
    is trained on.

    Args:
        reader: reads the files; by default a new limited child process.

    Raises:
        DataError: a file cannot be read, has the wrong columns or damaged lines, or leaves no row to train on.
    """
    if reader is None:
        from trainer_core.data.sandbox.client import SandboxReader

        with SandboxReader() as child:
            return load_data(data, method, child)
    return select_rows(data, method, RowSource(reader, data))


def count_rows(data: recipe.Data, method: recipe.MethodChain, tokenizer: Path | None = None) -> RowCounts:
    """Row counts of a run, computed in the limited child, so that no row enters this process.

    Args:
        tokenizer: the model's tokenizer.json, if it is on this computer.

    Raises:
        DataError: see `load_data`.
    """
    from trainer_core.data.sandbox.client import SandboxReader

    with SandboxReader() as reader:
        return next(one for one in reader.ask(CountRequest(data, method, tokenizer)) if isinstance(one, RowCounts))
