"""A run's name, note and pin."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from trainer_core.schema import StrictModel
from trainer_core.system import durable, untrusted_files


class RunMetadata(StrictModel):
    """Contents of about.json."""

    name: str = Field(default="", max_length=64, title="Name")
    note: str = Field(default="", max_length=2000, title="Note")
    pinned: bool = Field(default=False, title="Pinned")


def read_metadata(run_dir: Path) -> RunMetadata:
    """Name, note and pin of a run; empty if about.json is missing or unreadable."""
    try:
        return untrusted_files.load_json_model(RunMetadata, run_dir, "about.json")[0]
    except (OSError, ValueError):
        return RunMetadata()


def write_metadata(run_dir: Path, about: RunMetadata) -> None:
    """Write about.json.

    Raises:
        DiskError: the folder cannot be written.
    """
    durable.write_atomically(run_dir / "about.json", about.model_dump_json())
