"""The folder in which an export grows, part by part. It appears under its name when it is whole; a killed export goes on.

.NAME.part/MANIFEST.json   each complete part with the size and hash of its files
.NAME.part/adapter/        a part: a folder or a file
.NAME.part/.building-…     a part that is being written
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer_core.config.jobs import require_free_name
from trainer_core.runs.checkpoints import MANIFEST, FileFingerprint, file_sha256
from trainer_core.schema import StrictModel
from trainer_core.system import durable


class ExportManifest(StrictModel):
    """Contents of MANIFEST.json: part → its files, by their paths in the folder."""

    version: int = 1
    made_from: str
    """Hash of what the parts are made from: those of another lane are never taken."""
    parts: Mapping[str, Mapping[str, FileFingerprint]]


class ExportStaging:
    """Grows beside `target`, on the same drive, so that it can be renamed."""

    def __init__(self, target: Path, made_from: str):
        self.target, self.made_from, self.folder = target, made_from, target.with_name(f".{target.name}.part")

    def begin(self) -> None:
        """Create the folder, or take the one of an export of the same lane that did not end.

        Raises:
            ConfigError: the target exists.
            DiskError: the folder cannot be written.
        """
        require_free_name(self.target)
        with durable.disk_errors(self.folder):
            durable.create_folders(self.folder)
            for left in self.folder.glob(".building-*" if self.parts() else "*"):
                durable.remove_path(left)

    def is_published(self) -> bool:
        """Is the target this export, whole? A worker may be killed between the renaming and its last event."""
        try:
            found = ExportManifest.model_validate_json((self.target / MANIFEST).read_bytes())
        except (OSError, ValidationError):
            return False
        held = {name: file for files in found.parts.values() for name, file in files.items()}
        there = {name: file for name, file in fingerprint_files(self.target, self.target).items() if name != MANIFEST}
        return found.made_from == self.made_from and held == there

    def path(self, part: str) -> Path:
        return self.folder / part

    def is_complete(self, part: str) -> bool:
        """Is the part there, byte for byte as it was written?"""
        files = self.parts().get(part)
        return files is not None and fingerprint_files(self.folder, self.path(part)) == files

    def parts(self) -> dict[str, Mapping[str, FileFingerprint]]:
        try:
            found = ExportManifest.model_validate_json((self.folder / MANIFEST).read_bytes())
        except (OSError, ValidationError):
            return {}
        return dict(found.parts) if found.made_from == self.made_from else {}

    def byte_count(self) -> int:
        """Bytes of the complete parts."""
        return sum(file.bytes for files in self.parts().values() for file in files.values())

    @contextmanager
    def build_part(self, part: str) -> Iterator[Path]:
        """Yield a path to write the part to; on success it is flushed, renamed and recorded.

        Raises:
            DiskError: a write failed; there is no such part.
        """
        draft = self.folder / f".building-{part}"
        durable.remove_path(draft)
        with durable.disk_errors(draft):
            try:
                yield draft
                durable.flush_tree(draft) if draft.is_dir() else durable.flush_to_disk(draft)
                durable.remove_path(self.path(part))
                durable.publish_staged(draft, self.path(part))
                self.record({**self.parts(), part: fingerprint_files(self.folder, self.path(part))})
            finally:
                durable.remove_path(draft)

    def record(self, parts: Mapping[str, Mapping[str, FileFingerprint]]) -> None:
        manifest = ExportManifest(made_from=self.made_from, parts=parts)
        durable.write_atomically(self.folder / MANIFEST, manifest.model_dump_json(indent=1))

    def publish(self, kept: Iterable[str]) -> None:
        """Remove every other part, and rename the folder.

        Raises:
            ConfigError: the target exists now.
            DiskError: a write failed; the export can go on.
        """
        names = set(kept)
        with durable.disk_errors(self.target):
            self.record({part: files for part, files in self.parts().items() if part in names})
            for path in self.folder.iterdir():
                if path.name not in names | {MANIFEST}:
                    durable.remove_path(path)
            durable.flush_tree(self.folder)
            require_free_name(self.target)
            durable.publish_staged(self.folder, self.target)


def fingerprint_files(root: Path, place: Path) -> dict[str, Any]:
    """Every file at a place, by its path below `root`. Empty if there is none."""
    found = sorted(place.rglob("*")) if place.is_dir() else [place]
    return {
        path.relative_to(root).as_posix(): FileFingerprint(bytes=path.stat().st_size, sha256=file_sha256(path))
        for path in found
        if path.is_file()
    }
