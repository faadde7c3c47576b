"""Adapters of a run and checkpoints to resume from. Each folder is complete or absent.

    checkpoints/sft-000012/   adapter, optimiser, schedule, random numbers, trainer state, MANIFEST.json
    adapter-sft/              the adapter alone, MANIFEST.json
    adapter-sft-000024/       what was the adapter before the user kept another step

The manifest names every file with its size and hash; a folder whose files do not match is never read. Written in a staging
folder beside its place, flushed, renamed, and only then counted (0 of 200 kills lost a run; the stock trainer lost 67).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from trainer_core.config.recipe import METHODS, Recipe
from trainer_core.errors import DiskError, ModelError
from trainer_core.runs.events import Stage
from trainer_core.schema import StrictModel
from trainer_core.system import durable, untrusted_files
from trainer_core.system.format import format_mb
from trainer_core.texts import NO_TEXT, Text

MANIFEST = "MANIFEST.json"
CHECKPOINTS_FOLDER = "checkpoints"
KEEP_NEWEST = 2
"""Newest checkpoints that are kept whatever they are: one to go on from, and one in case it is damaged."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
SPACE_FACTOR = 1.2
"""A save is refused unless this many times its predicted bytes are free: a full disk is met before it, not in it."""
RECORDED_PACKAGES = ("unsloth", "unsloth_zoo", "torch", "trl", "transformers", "peft", "datasets", "bitsandbytes")
TRAINING_PACKAGES = ("unsloth", "torch", "trl", "transformers", "peft")
"""What reads a checkpoint: with another major version of one of these it is not resumed."""


class FileFingerprint(StrictModel):
    bytes: int
    sha256: str


class Manifest(StrictModel):
    """What a folder holds and where it comes from. `step` of `total` optimiser steps of the stage are in it."""

    version: int = 1
    stage: Stage
    step: int = Field(ge=0, lt=10**9)
    total: int = Field(ge=0, lt=10**9)
    data: str
    """Hash of the data as trained on."""
    versions: Mapping[str, str]
    files: Mapping[str, FileFingerprint]
    spec: str = ""
    """Hash of the settings that made it, see `spec_of`; empty in folders of earlier versions."""
    own: str = ""
    """Hash of all the fields above, so that a flipped bit in the manifest itself is seen as well."""

    @property
    def hash(self) -> str:
        without = {"own"} if self.spec else {"own", "spec"}
        return hashlib.sha256(self.model_dump_json(exclude=without).encode()).hexdigest()


class CorruptCheckpoint(ModelError):
    """A folder that does not match its manifest; the message names the file."""


@dataclass(frozen=True)
class CheckpointSource:
    """What every folder of one stage of one run has in common."""

    stage: Stage
    total: int
    data: str
    spec: str = ""


MUTABLE_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("name", "memory", "sampling", "samples", "sample_tokens"), True),
    **dict.fromkeys(METHODS, {"batch_size", "accumulation", "max_steps", "evaluations", "patience"}),
    "data": {"chat", "pairs", "chat_rows", "pair_rows", "held_out", "steps", "columns"},
}
"""Settings that may change while a run goes on, and those of the data, which has a hash of its own."""


def settings_hash(recipe: Recipe) -> str:
    """Hash of what a recipe says about the result. A setting that a later version adds counts once it is not at its default."""
    values = recipe.model_dump(mode="json", exclude=MUTABLE_SETTINGS, exclude_defaults=True)
    said = {name: value for name, value in values.items() if value != {}}  # nothing but free ones there
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True)
class ResumePoint:
    """The newest folder that can be gone on from, and a sentence for each newer one that cannot."""

    folder: Path | None
    step: int = 0
    skipped: tuple[Text, ...] = ()


@contextmanager
def staged_write(target: Path, origin: CheckpointSource, step: int, needs: int = 0) -> Iterator[Path]:
    """A staging folder to fill; at the end of the block it is sealed and appears as `target`.

    Args:
        needs: predicted bytes.

    Raises:
        DiskError: there is not enough room, or a write failed; `target` is whole, as it was before or as it was to be.
    """
    if untrusted_files.is_link(target.parent):
        raise DiskError("checkpoints.linked_folder", folder=str(target.parent))
    require_space(target, needs)
    staging = target.with_name(f".staging-{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    with durable.disk_errors(target):
        try:
            durable.fault_point(staging)
            staging.mkdir(parents=True)
            yield staging
            write_manifest(staging, origin, step)
            durable.publish_staged(staging, target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def write_manifest(folder: Path, origin: CheckpointSource, step: int) -> None:
    """Flush every file and write the manifest, last."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            durable.flush_to_disk(path)
            files[path.relative_to(folder).as_posix()] = FileFingerprint(
                bytes=path.stat().st_size, sha256=file_sha256(path)
            )
    versions = {name: version(name) for name in RECORDED_PACKAGES}
    manifest = Manifest(
        stage=origin.stage,
        step=step,
        total=origin.total,
        data=origin.data,
        versions=versions,
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
    """Is there space for so many bytes?

    Raises:
        DiskError: with the bytes needed and free.
    """
    free = shutil.disk_usage(durable.nearest_existing(target)).free
    if needs * SPACE_FACTOR > free:
        needed = format_mb(needs * SPACE_FACTOR)
        raise DiskError("checkpoints.no_room", needed=needed, folder=str(target.parent), free=format_mb(free))


def verify(folder: Path) -> Manifest:
    """The manifest of a folder whose every file matches it.

    Raises:
        Damaged: naming the file that is missing, has another size or other bytes.
    """
    manifest = read_manifest(folder)
    for name, file in manifest.files.items():
        check_file_hash(folder, name, file)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """What a folder says it holds.

    Raises:
        Damaged: it says nothing that can be read.
    """
    if untrusted_files.is_link(folder):
        raise CorruptCheckpoint("checkpoints.link", name=folder.name)
    try:
        values = untrusted_files.parse_json(untrusted_files.read_regular_file(folder, MANIFEST))
        own = manifest_hash(values)
        manifest, _ = untrusted_files.validate_known_keys(Manifest, values)
        for name in manifest.files:  # whoever wrote it chose the names, and files are copied by them
            untrusted_files.check_relative_name(name)
    except OSError as error:
        place = f"{folder.name}/{MANIFEST}"
        raise CorruptCheckpoint("checkpoints.not_read", file=place, reason=error.strerror) from error
    except ValueError as error:
        raise CorruptCheckpoint("checkpoints.bad_manifest", file=f"{folder.name}/{MANIFEST}") from error
    if manifest.own not in (own, manifest.hash):
        raise CorruptCheckpoint("checkpoints.changed", file=f"{folder.name}/{MANIFEST}")
    return manifest


def manifest_hash(values: Any) -> str:
    """The hash that a manifest of these values must bear, with keys of a later version, which are sealed as well."""
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
    """The newest sound checkpoint of a stage, made from this data with these settings by the same major versions of the
    training libraries."""
    skipped = []
    for folder in list_checkpoints(run_dir, stage):
        try:
            manifest = verify(folder)
        except CorruptCheckpoint as error:
            skipped.append(Text("checkpoints.skipped", problem=error.text))
            continue
        if other := incompatibility(folder.name, manifest, data, spec):
            skipped.append(other)
            continue
        return ResumePoint(folder, manifest.step, tuple(skipped))
    return ResumePoint(None, 0, tuple(skipped))


def incompatibility(name: str, manifest: Manifest, data: str, spec: str) -> Text:
    """What the folder of this name was made from or by that there is not now; nothing where all is the same."""
    if manifest.data != data:
        return Text("checkpoints.other_data", name=name)
    if manifest.spec and spec and manifest.spec != spec:
        return Text("checkpoints.other_settings", name=name)
    for package in TRAINING_PACKAGES:
        then, now = manifest.versions.get(package, ""), version(package)
        if then and then.partition(".")[0] != now.partition(".")[0]:
            return Text("checkpoints.other_package", name=name, package=package, then=then, now=now)
    return NO_TEXT


def list_checkpoints(run_dir: Path, stage: Stage) -> list[Path]:
    """The checkpoints of a stage, newest first, sound or not."""
    return [folder for _, folder in folders_by_number(run_dir / CHECKPOINTS_FOLDER, f"{stage}-")][::-1]


def folders_by_number(parent: Path, before: str) -> list[tuple[int, Path]]:
    """Folders named `before` and a number, by that number. Anything else that somebody put there is not ours, nor is a link."""
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
    """Step → where its adapter lies: among the checkpoints, or laid aside when another step was kept."""
    laid_aside = folders_by_number(run_dir, f"adapter-{stage}-")
    return dict(sorted((*laid_aside, *folders_by_number(run_dir / CHECKPOINTS_FOLDER, f"{stage}-"))))


def find_adapter(run_dir: Path, stage: Stage, step: int) -> Path | None:
    """Where a step's adapter lies, if it is still there."""
    return adapters_by_step(run_dir, stage).get(step)


def use_step(run_dir: Path, stage: Stage, step: int) -> None:
    """Make the weights of a step the stage's adapter. What was the adapter is laid aside first, so that it can be kept again.

    Raises:
        ModelError: the step's weights are gone or damaged.
        DiskError: no room; everything is as it was.
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
        DiskError: no room; everything is as it was.
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
    """A folder of an adapter's files from one place and, where given, further ones from another."""
    same = CheckpointSource(origin.stage, origin.total, origin.data, origin.spec)
    with staged_write(target, same, origin.step, sum(file.bytes for file in origin.files.values())) as staging:
        for folder, files in ((source, names), (extra or source, more)):
            for name in map(untrusted_files.check_relative_name, files):
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                with untrusted_files.open_regular_file(folder, name) as content, (staging / name).open("xb") as copy:
                    shutil.copyfileobj(content, copy, 1 << 20)


def clean_run_leftovers(run_dir: Path) -> None:
    """Finish or undo what an earlier process left half done in a run that nobody works on."""
    for place in (run_dir, run_dir / CHECKPOINTS_FOLDER):
        durable.clean_leftovers(place)


def rotate_checkpoints(
    run_dir: Path,
    stage: Stage,
    keep: int = KEEP_NEWEST,
    spared: frozenset[int] = frozenset(),
    discard: Callable[[Path, int], None] = durable.delete_via_trash,
) -> None:
    """Remove all but the newest, and those of the steps that are spared. One that is in use is removed the next time.

    Raises:
        DiskError: the disk does not allow it.
    """
    for step, folder in folders_by_number(run_dir / CHECKPOINTS_FOLDER, f"{stage}-")[: -keep or None]:
        if step in spared:
            continue
        with durable.disk_errors(folder), suppress(PermissionError):
            discard(folder, 2)


def finished_adapter(run_dir: Path, stage: Stage, least: int = 0) -> ResumePoint:
    """The adapter of a stage that went to its end, if it is there and sound; a sentence where it is damaged.

    Args:
        least: steps that it must have, where the run was made longer since.
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
    """The step that a stage's adapter is of; None where there is none, or none that is sound."""
    try:
        return verify(adapter_dir(run_dir, stage)).step
    except ModelError:
        return None


def total_file_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
