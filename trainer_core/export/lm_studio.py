"""LM Studio: the GGUF file in a folder as its library wants it, and a second name for it in that library."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from trainer_core.config.export_targets import EXPORT_TARGETS
from trainer_core.errors import ConfigError, DiskError, ModelError
from trainer_core.export.context import ExportContext
from trainer_core.export.ollama import link_file
from trainer_core.planning.export_cost import FREE_BYTES, free_bytes
from trainer_core.runs.checkpoints import file_sha256
from trainer_core.system import durable
from trainer_core.system.format import format_gb
from trainer_core.system.project import expand_home
from trainer_core.texts import Text

PUBLISHER = "tunebench"
"""LM Studio lists models by publisher. A file that lies directly in its folder of models is not found."""
HOME_POINTER = ".lmstudio-home-pointer"
"""A file in the user's folder that names LM Studio's own, if that was moved."""
MODEL_FOLDERS = (".lmstudio/models", ".cache/lm-studio/models")


def write_lm_studio(context: ExportContext, target: Path, key: str) -> None:
    """The file as PUBLISHER/NAME/FILE, to be copied into LM Studio's folder of models."""
    file = context.part_path(EXPORT_TARGETS[key].source)
    folder = target / PUBLISHER / context.job.name
    folder.mkdir(parents=True)
    link_file(file, folder / file.name)


def register_lm_studio(context: ExportContext, key: str, home: Path | None = None) -> Text:
    """Put the file into LM Studio's folder of models, as a second name where the drive allows it.

    Raises:
        ModelError: LM Studio is not here.
        ConfigError: its folder has another file of that name.
        DiskError: too little space, or the file cannot be written.
    """
    library = find_library(home or expand_home("~"))
    source = next((context.job.folder / key).rglob("*.gguf"))
    target = library / source.relative_to(context.job.folder / key)
    if target.exists():
        if not target.samefile(source) and file_sha256(target) != file_sha256(source):
            raise ConfigError("export.name_taken", folder=str(target))
    else:
        place_file(source, target)
    return Text("lm_studio.ready", model=f"{PUBLISHER}/{context.job.name}")


def find_library(home: Path) -> Path:
    """LM Studio's folder of models.

    Raises:
        ModelError: there is none.
    """
    pointer = home / HOME_POINTER
    named = Path(pointer.read_text(encoding="utf-8").strip()) / "models" if pointer.is_file() else None
    for folder in (named, *(home / one for one in MODEL_FOLDERS)):
        if folder and folder.is_dir():
            return folder
    raise ModelError("lm_studio.missing", folder=PUBLISHER)


def place_file(source: Path, target: Path) -> None:
    """A second name for the file, or a copy on another drive; whole or not at all."""
    durable.create_folders(target.parent)
    draft = target.with_name(f".{target.name}.part")
    with durable.disk_errors(target):
        draft.unlink(missing_ok=True)
        try:
            os.link(source, draft)
        except OSError:
            require_room(source, target)
            shutil.copyfile(source, draft)
            durable.flush_to_disk(draft)
        durable.publish_staged(draft, target)


def require_room(source: Path, target: Path) -> None:
    needed, free = source.stat().st_size + FREE_BYTES, free_bytes(target)
    if needed > free:
        raise DiskError("export.no_room", folder=str(target.parent), needed=format_gb(needed), free=format_gb(free))
