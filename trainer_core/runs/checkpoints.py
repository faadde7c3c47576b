"""A run's adapters, and checkpoints to resume from. Each folder is complete or absent.

    checkpoints/sft-000012/   adapter, optimiser, schedule, random numbers, trainer state, MANIFEST.json
    adapter-sft/              the adapter alone, MANIFEST.json
    adapter-sft-000024/       backup of the adapter of step 24, made when the user chose another step

The manifest lists every file with its size and hash; a folder whose files do not match is never read. A folder is written to
a staging folder, flushed, then renamed (0 of 200 kills lost a run; the stock trainer lost 67).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.errors import DiskError, ModelError
from trainer_core.runs.events import Stage
from trainer_core.schema import StrictModel
from trainer_core.system import durable, packages, untrusted_files
from trainer_core.system.format import format_mb
from trainer_core.texts import NO_TEXT, Text

MANIFEST = "MANIFEST.json"
CHECKPOINTS_FOLDER = "checkpoints"
KEEP_NEWEST = 2
"""Newest checkpoints that are always kept: one to resume from, and one in case it is damaged."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
SPACE_FACTOR = 1.2
"""A save needs this multiple of its predicted bytes free, so that the disk does not fill up mid-write."""
TRAINING_PACKAGES = ("unsloth", "torch", "trl", "transformers", "peft")
"""Packages that read a checkpoint: it is not resumed with another major version of one of them."""


class FileFingerprint(StrictModel):
    bytes: int
    sha256: str


class Manifest(StrictModel):
    """Contents and origin of a folder, saved after `step` of the stage's `total` optimiser steps."""

    version: int = 1
    stage: Stage
    step: int = Field(ge=0, lt=10**9)
    total: int = Field(ge=0, lt=10**9)
    data: str
    """Hash of the training data."""
    versions: Mapping[str, str]
    files: Mapping[str, FileFingerprint]
    spec: str = ""
    """Hash of the training settings, see `settings_hash`; empty in folders of earlier versions."""
    own: str = ""
    """Hash of all fields above: detects a flipped bit in the manifest itself."""

    @property
    def hash(self) -> str:
        without = {"own"} if self.spec else {"own", "spec"}
        return hashlib.sha256(self.model_dump_json(exclude=without).encode()).hexdigest()


class CorruptCheckpoint(ModelError):
    """A folder that does not match its manifest; the message names the file."""


@dataclass(frozen=True)
class CheckpointSource:
    """Facts that all folders of one stage of a run share."""

    stage: Stage
    total: int
    data: str
    spec: str = ""


MUTABLE_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("name", "memory", "sampling", "samples", "sample_tokens"), True),
    **dict.fromkeys(METHODS, {"batch_size", "accumulation", "max_steps", "evaluations", "patience"}),
    "data": {"chat", "pairs", "chat_rows", "pair_rows", "held_out", "steps", "columns"},
}
"""Settings that may change between start and resume, and those of the data, which has its own hash."""


def settings_hash(recipe: Recipe) -> str:
    """Hash of the settings that determine the result. Defaults are left out, so a setting added later keeps old hashes."""
    values = recipe.model_dump(mode="json", exclude=MUTABLE_SETTINGS, exclude_defaults=True)
    said = {name: value for name, value in values.items() if value != {}}  # only mutable settings there
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True)
class ResumePoint:
    """The newest folder to resume from, and why each newer one was skipped."""

    folder: Path | None
    step: int = 0
    skipped: tuple[Text, ...] = ()


@contextmanager
def staged_write(target: Path, origin: CheckpointSource, step: int, needs: int = 0) -> Iterator[Path]:
    """Yield a staging folder to fill; on success, seal it and rename it to `target`.

    Args:
        needs: predicted bytes.

    Raises:
        DiskError: too little space, or a write failed; `target` is intact, either old or new.
    """
    if untrusted_files.is_link(target.parent):
        raise DiskError("checkpoints.linked_folder", folder=str(target.parent))
    require_space(target, needs)
    staging = target.with_name(f".staging-{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    with durable.disk_errors(target):
        try:
            durable.create_folders(target.parent)
            durable.fault_point(staging)
            staging.mkdir()
            yield staging
            write_manifest(staging, origin, step)
            durable.publish_staged(staging, target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def write_manifest(folder: Path, origin: CheckpointSource, step: int) -> None:
    """Flush everything, then write the manifest."""
    durable.flush_tree(folder)
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = FileFingerprint(
                bytes=path.stat().st_size, sha256=file_sha256(path)
            )
    manifest = Manifest(
        stage=origin.stage,
        step=step,
        total=origin.total,
        data=origin.data,
        versions=packages.recorded_versions(),
        files=files,
        spec=origin.spec,
    )
    manifest = manifest.model_copy(update={"own": manifest.hash})
    durable.write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=1))
    durable.flush_to_disk(folder)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(target: Path, needs: int) -> None:
    """Check the free space.

    Raises:
        DiskError: too little, with the bytes needed and free.
    """
    free = shutil.disk_usage(durable.nearest_existing(target)).free
    if needs * SPACE_FACTOR > free:
        needed = format_mb(needs * SPACE_FACTOR)
        raise DiskError("checkpoints.no_room", needed=needed, folder=str(target.parent), free=format_mb(free))


def verify(folder: Path) -> Manifest:
    """The manifest of a folder, once every file matches it.

    Raises:
        CorruptCheckpoint: a file is missing or has another size or hash; the message names it.
    """
    manifest = read_manifest(folder)
    for name, file in manifest.files.items():
        check_file_hash(folder, name, file)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder, its files unchecked.

    Raises:
        CorruptCheckpoint: missing, unreadable or changed.
    """
    if untrusted_files.is_link(folder):
        raise CorruptCheckpoint("checkpoints.link", name=folder.name)
    try:
        values = untrusted_files.parse_json(untrusted_files.read_regular_file(folder, MANIFEST))
        own = manifest_hash(values)
        manifest, unknown = untrusted_files.validate_known_keys(Manifest, values)
        for name in manifest.files:  # untrusted: files are copied by these names
            untrusted_files.check_relative_name(name)
    except OSError as error:
        place = f"{folder.name}/{MANIFEST}"
        raise CorruptCheckpoint("checkpoints.not_read", file=place, reason=error.strerror) from error
    except ValueError as error:
        raise CorruptCheckpoint("checkpoints.bad_manifest", file=f"{folder.name}/{MANIFEST}") from error
    if manifest.own != own and (unknown or manifest.own != manifest.hash):  # that hash knows no other keys
        raise CorruptCheckpoint("checkpoints.changed", file=f"{folder.name}/{MANIFEST}")
    return manifest


def manifest_hash(values: Any) -> str:
    """The expected `own` hash, which also covers keys of a later version."""
    facts = {key: value for key, value in values.items() if key != "own"} if isinstance(values, dict) else values
    return hashlib.sha256(
        json.dumps(facts, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    ).hexdigest()


def check_file_hash(folder: Path, name: str, file: FileFingerprint) -> None:
    place = f"{folder.name}/{name}"
    try:
        with untrusted_files.open_regular_file(folder, name) as content:
            size = os.fstat(content.fileno()).st_size
            same = size == file.bytes and hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
    except FileNotFoundError as error:
        raise CorruptCheckpoint("checkpoints.missing", file=place) from error
    except OSError as error:
        raise CorruptCheckpoint("checkpoints.not_read", file=place, reason=error.strerror) from error
    if size != file.bytes:
        raise CorruptCheckpoint("checkpoints.other_size", file=place, size=size, written=file.bytes)
    if not same:
        raise CorruptCheckpoint("checkpoints.changed", file=place)


def latest_valid(run_dir: Path, stage: Stage, data: str, spec: str = "") -> ResumePoint:
    """The newest valid checkpoint of a stage with the same data, settings and major versions of the training libraries."""
    skipped = []
    for folder in list_checkpoints(run_dir, stage):
        try:
            manifest = verify(folder)
        except CorruptCheckpoint as error:
            skipped.append(Text("checkpoints.skipped", problem=error.text))
            continue
        if other := incompatibility_reason(folder.name, manifest, data, spec):
            skipped.append(other)
            continue
        return ResumePoint(folder, manifest.step, tuple(skipped))
    return ResumePoint(None, 0, tuple(skipped))


def incompatibility_reason(name: str, manifest: Manifest, data: str, spec: str) -> Text:
    """Why this folder cannot be resumed (other data, settings or versions); empty if it can."""
    if manifest.data != data:
        return Text("checkpoints.other_data", name=name)
    if manifest.spec and spec and manifest.spec != spec:
        return Text("checkpoints.other_settings", name=name)
    for package in TRAINING_PACKAGES:
        then, now = manifest.versions.get(package, ""), packages.recorded_versions()[package]
        if then and then.partition(".")[0] != now.partition(".")[0]:
            return Text("checkpoints.other_package", name=name, package=package, then=then, now=now)
    return NO_TEXT


def list_checkpoints(run_dir: Path, stage: Stage) -> list[Path]:
    """The checkpoints of a stage, newest first, unverified."""
    return [folder for _, folder in folders_by_number(run_dir / CHECKPOINTS_FOLDER, f"{stage}-")][::-1]


def folders_by_number(parent: Path, before: str) -> list[tuple[int, Path]]:
    """Folders named `before` plus a number, by number. Links and other names are skipped."""
    if untrusted_files.is_link(parent):
        return []
    found = ((untrusted_files.parse_numbered_name(folder.name, before), folder) for folder in parent.glob(f"{before}*"))
    return sorted(
        (step, folder)
        for step, folder in found
        if step is not None and folder.is_dir() and not untrusted_files.is_link(folder)
    )


def checkpoint_dir(run_dir: Path, stage: Stage, step: int) -> Path:
    return run_dir / CHECKPOINTS_FOLDER / f"{stage}-{step:06d}"


def adapter_dir(run_dir: Path, stage: Stage) -> Path:
    return run_dir / f"adapter-{stage}"


def adapters_by_step(run_dir: Path, stage: Stage) -> dict[int, Path]:
    """Step → folder of its adapter: a checkpoint or a backup."""
    laid_aside = folders_by_number(run_dir, f"adapter-{stage}-")
    return dict(sorted((*laid_aside, *folders_by_number(run_dir / CHECKPOINTS_FOLDER, f"{stage}-"))))


def find_adapter(run_dir: Path, stage: Stage, step: int) -> Path | None:
    return adapters_by_step(run_dir, stage).get(step)


def use_step(run_dir: Path, stage: Stage, step: int) -> None:
    """Make a step's weights the stage's adapter, and back up the previous adapter.

    Raises:
        ModelError: the step's weights are gone or damaged.
        DiskError: too little space; nothing has changed.
    """
    source, target = find_adapter(run_dir, stage, step), adapter_dir(run_dir, stage)
    before = verify(target)
    if before.step == step:
        return
    if source is None:
        raise ModelError("checkpoints.gone", stage=stage.upper(), step=step)
    chosen = verify(source)
    if find_adapter(run_dir, stage, before.step) is None:
        back_up_adapter(run_dir, stage)
    others = [name for name in before.files if name not in ADAPTER_FILES]
    copy_adapter(source, ADAPTER_FILES, target, chosen, target, others)


def back_up_adapter(run_dir: Path, stage: Stage) -> None:
    """Back up a stage's adapter as adapter-<stage>-<step>, unless the backup exists.

    Raises:
        ModelError: the adapter is damaged.
        DiskError: too little space; nothing has changed.
    """
    adapter = adapter_dir(run_dir, stage)
    manifest = verify(adapter)
    aside = adapter.with_name(f"{adapter.name}-{manifest.step:06d}")
    if not aside.exists():
        copy_adapter(adapter, tuple(manifest.files), aside, manifest)


def copy_adapter(
    source: Path,
    names: Sequence[str],
    target: Path,
    origin: Manifest,
    extra: Path | None = None,
    more: Sequence[str] = (),
) -> None:
    """Copy files of an adapter from `source` to `target`, and optionally more files from `extra`."""
    same = CheckpointSource(origin.stage, origin.total, origin.data, origin.spec)
    with staged_write(target, same, origin.step, sum(file.bytes for file in origin.files.values())) as staging:
        for folder, files in ((source, names), (extra or source, more)):
            for name in map(untrusted_files.check_relative_name, files):
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                with untrusted_files.open_regular_file(folder, name) as content, (staging / name).open("xb") as copy:
                    shutil.copyfileobj(content, copy, 1 << 20)


def clean_run_leftovers(run_dir: Path) -> None:
    """Finish or undo half-done writes of a crashed process. The run must have no worker."""
    for place in (run_dir, run_dir / CHECKPOINTS_FOLDER):
        durable.clean_leftovers(place)


def rotate_checkpoints(
    run_dir: Path,
    stage: Stage,
    keep: int = KEEP_NEWEST,
    spared: frozenset[int] = frozenset(),
    discard: Callable[[Path, int], None] = durable.delete_via_trash,
) -> None:
    """Remove all but the newest checkpoints and the spared steps. A folder in use is removed next time.

    Raises:
        DiskError: a folder cannot be removed.
    """
    for step, folder in folders_by_number(run_dir / CHECKPOINTS_FOLDER, f"{stage}-")[: -keep or None]:
        if step in spared:
            continue
        with durable.disk_errors(folder), suppress(PermissionError):
            discard(folder, 2)


def finished_adapter(run_dir: Path, stage: Stage, least: int = 0) -> ResumePoint:
    """The adapter of a finished stage, if valid; otherwise none, with a reason if it is damaged.

    Args:
        least: steps the adapter must have; more than it was made with once the run was extended.
    """
    folder = adapter_dir(run_dir, stage)
    if not folder.exists():
        return ResumePoint(None)
    try:
        manifest = verify(folder)
    except CorruptCheckpoint as error:
        return ResumePoint(None, 0, (Text("checkpoints.remade", problem=error.text),))
    return ResumePoint(folder, manifest.step) if manifest.step >= max(manifest.total, least) else ResumePoint(None)


def adapter_step(run_dir: Path, stage: Stage) -> int | None:
    """Step of a stage's adapter; None if it is missing or damaged."""
    try:
        return verify(adapter_dir(run_dir, stage)).step
    except ModelError:
        return None


def total_file_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
