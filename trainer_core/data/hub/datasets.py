"""Data sets of the Hugging Face Hub: what parts one has, and a part of it as a Parquet file in the workspace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from trainer_core.errors import DataError
from trainer_core.runs.workspace import Workspace, ensure_dir
from trainer_core.system.project import PROJECT

NAME = re.compile(r"^[\w-][\w.-]*/[\w-][\w.-]*$")
COMMAND = (sys.executable, "-m", "trainer_core.data.hub.child")


@dataclass(frozen=True)
class HubSplit:
    """One split of one configuration."""

    config: str
    split: str


SPLITS_ADAPTER = TypeAdapter(tuple[HubSplit, ...])


def is_dataset_name(source: str) -> bool:
    """Whether this is a data set's name and not a path on this computer."""
    return bool(NAME.match(source)) and not os.path.exists(source)


def list_splits(name: str) -> tuple[HubSplit, ...]:
    """Every part of a data set, those to train on first.

    Raises:
        DataError: it is neither reachable nor cached, or it does not exist.
    """
    return SPLITS_ADAPTER.validate_json(run_hub_child("parts", name))


def ensure_split_file(workspace: Workspace, name: str, part: HubSplit) -> Path:
    """The file with that part; it is fetched the first time, and made anew only if it was deleted.

    Raises:
        DataError: see `parts`.
    """
    words = [re.sub(r"[^\w.-]", "_", word) for word in (*name.split("/"), part.config, part.split)]
    place = ensure_dir(workspace.data / "hub") / f"{'--'.join(words)}.parquet"
    if not place.exists():
        run_hub_child("fetch", name, part.config, part.split, str(place))
    return place


def run_hub_child(*asked: str) -> bytes:
    """What the child says, which imports `datasets` so that nobody else has to."""
    done = subprocess.run([*COMMAND, *asked], cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode == 1:
        raise DataError(done.stdout.decode().strip())
    if done.returncode:
        raise RuntimeError(f"Fetching {asked[1]} failed.\n{done.stderr.decode()[-4000:]}")
    return done.stdout
