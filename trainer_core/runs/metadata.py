"""A run's name, note and pin."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from trainer_core.schema import Strict
from trainer_core.system import durable, untrusted_files


class About(Strict):
    """What about.json holds."""

    name: str = Field(default="", max_length=64, title="Name")
    note: str = Field(default="", max_length=2000, title="Note")
    pinned: bool = Field(default=False, title="Pinned")


def read_about(run_dir: Path) -> About:
    """What was written about a run; nothing yet, or nothing readable, is nothing."""
    try:
        return untrusted_files.load(About, run_dir, "about.json")[0]
    except (OSError, ValueError):
        return About()


def write_about(run_dir: Path, about: About) -> None:
    """Keep it.

    Raises:
        DiskError: the folder cannot be written.
    """
    durable.write_atomically(run_dir / "about.json", about.model_dump_json())
