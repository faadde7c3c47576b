"""Data sets of the Hugging Face Hub: lists their splits, and downloads one as a Parquet file in the workspace."""

from __future__ import annotations

import os
import re
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from pydantic import TypeAdapter

from trainer_core.errors import DataError
from trainer_core.runs.workspace import Workspace, ensure_dir
from trainer_core.system.child_process import ChildLimits, ChildProcess, Crashed, Rejected

NAME = re.compile(r"^[\w-][\w.-]*/[\w-][\w.-]*$")
COMMAND = (sys.executable, "-m", "trainer_core.data.hub.child")


@dataclass(frozen=True)
class HubSplit:
    """One split of one configuration."""

    config: str
    split: str


SPLITS_ADAPTER = TypeAdapter(tuple[HubSplit, ...])


def is_dataset_name(source: str) -> bool:
    """Is this a data set's name, and not a path on this computer?"""
    return bool(NAME.match(source)) and not os.path.exists(source)


def list_splits(name: str) -> tuple[HubSplit, ...]:
    """Every split of a data set, training splits first.

    Raises:
        DataError: it is neither reachable nor cached, or it does not exist.
    """
    return SPLITS_ADAPTER.validate_python(ask_hub_child("query_splits", name))


def ensure_split_file(workspace: Workspace, name: str, part: HubSplit) -> Path:
    """The Parquet file of a split, downloaded unless it already exists.

    Raises:
        DataError: see `list_splits`.
    """
    words = [re.sub(r"[^\w.-]", "_", word) for word in (*name.split("/"), part.config, part.split)]
    place = ensure_dir(workspace.data / "hub") / f"{'--'.join(words)}.parquet"
    if not place.exists():
        ask_hub_child("fetch_split", name, config=part.config, split=part.split, path=str(place))
    return place


def ask_hub_child(request: str, name: str, **fields: str) -> list[Any]:
    """The child's answers. The child imports `datasets`, so that no other process has to."""
    with TemporaryFile() as log, closing(ChildProcess(COMMAND, ChildLimits(), stderr=log)) as child:
        try:
            return [answer for _, answer in child.ask(request, {"name": name, **fields})]
        except Rejected as error:
            raise DataError(error.text) from error
        except Crashed as crash:
            log.seek(0)
            said = log.read().decode(errors="replace") + crash.traceback
            raise RuntimeError(f"Fetching {name} failed.\n{said[-4000:]}") from crash
