"""Where an imported adapter or model came from: ORIGIN.json, beside its files in the folder of its import.

imports/<id>/run.json, events.jsonl …   the import as a job
imports/<id>/adapter/ or model/         the checked copy, with ORIGIN.json
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from trainer_core.errors import ModelError
from trainer_core.runs import checkpoints
from trainer_core.runs.checkpoints import FileFingerprint
from trainer_core.schema import StrictModel
from trainer_core.system import untrusted_files

ORIGIN = "ORIGIN.json"
ImportKind = Literal["adapter", "model"]
"""What was imported, and the name of the folder that holds it."""


class Origin(StrictModel):
    """Contents of ORIGIN.json."""

    version: int = 1
    kind: ImportKind
    source: str
    """A Hub id, or the name of a folder without its path."""
    commit: str = ""
    """The commit on the Hub."""
    date: str
    """The day of the import, in ISO 8601."""
    named_base: str = ""
    """The base that the files name; a folder without its path."""
    base: str = ""
    """The base that the adapter is used with; empty for a whole model."""
    own_template: bool = False
    """The adapter came with another chat template than its base's; the base's is used."""
    files: Mapping[str, FileFingerprint]


def find_import(run_dir: Path) -> Path | None:
    """The folder with an import's files; None before it is complete."""
    return next((run_dir / kind for kind in get_args(ImportKind) if (run_dir / kind / ORIGIN).is_file()), None)


def read_origin(folder: Path) -> Origin:
    """The origin of imported files.

    Raises:
        ModelError: ORIGIN.json is missing or damaged.
    """
    try:
        origin, _ = untrusted_files.load_json_model(Origin, folder, ORIGIN)
        for name in origin.files:
            untrusted_files.check_relative_name(name)
    except (OSError, ValueError) as error:
        raise ModelError("imports.bad_origin", folder=folder.parent.name, reason=str(error)) from error
    return origin


def verify_files(folder: Path) -> Origin:
    """The origin of imported files, if they are as they were imported.

    Raises:
        ModelError: names the file that is missing or has changed.
    """
    origin = read_origin(folder)
    for name, file in origin.files.items():
        checkpoints.check_file_hash(folder, name, file)
    return origin
