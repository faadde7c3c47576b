"""What a run trains on: which rows are used, which are held out, and a sentence about everything left out."""

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
    `data.held_out`, from the bundled file for the sample data, else they are split off (see `split`). No prompt that is
    held out is trained on.

    Args:
        reader: who reads the files; a limited child of its own unless given.

    Raises:
        DataError: a file cannot be read, has the wrong columns or damaged lines, or leaves no row to train on.
    """
    if reader is None:
        from trainer_core.data.sandbox.client import SandboxReader

        with SandboxReader() as child:
            return load_data(data, method, child)
    return select_rows(data, method, RowSource(reader, data))


def count_rows(data: recipe.Data, method: recipe.MethodChain, tokenizer: Path | None = None) -> RowCounts:
    """What a run would train on, in numbers, read in the limited child, so that no row comes into this process.

    Args:
        tokenizer: the model's tokenizer.json, where it is on this computer.

    Raises:
        DataError: see `load`.
    """
    from trainer_core.data.sandbox.client import SandboxReader

    with SandboxReader() as reader:
        return next(one for one in reader.ask(CountRequest(data, method, tokenizer)) if isinstance(one, RowCounts))
