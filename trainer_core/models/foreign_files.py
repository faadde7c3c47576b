"""The files of an adapter or a model that was trained elsewhere: which there are, and the base that they name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer_core.errors import ModelError
from trainer_core.models import hub, resolve
from trainer_core.runs.checkpoints import ADAPTER_FILES
from trainer_core.runs.import_origin import ImportKind

LICENCE_FILES = ("LICENSE*", "NOTICE*")


def open_folder(source: str) -> Path:
    """The folder of this name, in which no file is a link out of it, a pipe or a device.

    Raises:
        ModelError: there is no such folder, or it holds such a file.
    """
    path = resolve.model_path(source)
    if path is None or not path.is_dir():
        raise ModelError("imports.not_found", source=source)
    folder = path.resolve()
    for one in folder.iterdir():
        resolve.check_file_location(one, folder)
    return folder


def folder_kind(folder: Path) -> ImportKind:
    return "adapter" if (folder / ADAPTER_FILES[0]).is_file() else "model"


def named_base(folder: Path) -> str:
    """The base that an adapter or a model names; empty if it names none.

    Raises:
        ModelError: its configuration cannot be read.
    """
    key, file = {
        "adapter": ("base_model_name_or_path", ADAPTER_FILES[0]),
        "model": ("_name_or_path", "config.json"),
    }[folder_kind(folder)]
    if not (folder / file).is_file():
        return ""
    config = resolve.read_json(folder / file)
    found = config.get(key) if isinstance(config, dict) else None
    return found if isinstance(found, str) else ""


def files_to_copy(folder: Path) -> Iterator[Path]:
    """What of the folder is imported: nothing that could run code.

    An adapter's tokenizer and template stay behind: in Compare and in an export, every lane reads prompts as its base does.
    """
    patterns = ADAPTER_FILES if folder_kind(folder) == "adapter" else tuple(hub.DOWNLOAD_PATTERNS)
    found = {path for pattern in (*patterns, *LICENCE_FILES) for path in folder.glob(pattern) if path.is_file()}
    yield from sorted(found)
