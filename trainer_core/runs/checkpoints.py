"""Folders that are complete or not there: the adapters of a run and the checkpoints it can be continued from.

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

from trainer_core.config.recipe import Recipe
from trainer_core.errors import DiskError, ModelError
from trainer_core.runs.events import Stage
from trainer_core.schema import Strict
from trainer_core.system import durable, untrusted_files

MANIFEST = "MANIFEST.json"
FOLDER = "checkpoints"
KEEP = 2
"""Newest checkpoints that are kept whatever they are: one to go on from, and one in case it is damaged."""
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
RESERVE = 1.2
"""A save is refused unless this many times its predicted bytes are free: a full disk is met before it, not in it."""
PINNED = ("unsloth", "unsloth_zoo", "torch", "trl", "transformers", "peft", "datasets", "bitsandbytes")
TRAINERS = ("unsloth", "torch", "trl", "transformers", "peft")
"""What reads a checkpoint: with another major version of one of these it is not gone on with."""


class File(Strict):
    bytes: int
    sha256: str


class Manifest(Strict):
    """What a folder holds and where it comes from. `step` of `total` optimiser steps of the stage are in it."""

    version: int = 1
    stage: Stage
    step: int = Field(ge=0, lt=10**9)
    total: int = Field(ge=0, lt=10**9)
    data: str
    """Hash of the data as trained on."""
    versions: Mapping[str, str]
    files: Mapping[str, File]
    spec: str = ""
    """Hash of the settings that made it, see `spec_of`; empty in folders of earlier versions."""
    own: str = ""
    """Hash of all the fields above, so that a flipped bit in the manifest itself is seen as well."""

    @property
    def hash(self) -> str:
        without = {"own"} if self.spec else {"own", "spec"}
        return hashlib.sha256(self.model_dump_json(exclude=without).encode()).hexdigest()


class Damaged(ModelError):
    """A folder that does not match its manifest; the message names the file."""


@dataclass(frozen=True)
class Origin:
    """What every folder of one stage of one run has in common."""

    stage: Stage
    total: int
    data: str
    spec: str = ""


FREE: dict[str, Any] = {
    **dict.fromkeys(("name", "memory", "sampling", "samples", "sample_tokens"), True),
    **dict.fromkeys(("sft", "dpo"), {"batch_size", "accumulation", "max_steps", "evaluations", "patience"}),
    "data": {"chat", "pairs", "chat_rows", "pair_rows", "held_out", "steps", "columns"},
}
"""Settings that may change while a run goes on, and those of the data, which has a hash of its own."""


def spec_of(recipe: Recipe) -> str:
    """Hash of what a recipe says about the result. A setting that a later version adds counts once it is not at its default."""
    values = recipe.model_dump(mode="json", exclude=FREE, exclude_defaults=True)
    said = {name: value for name, value in values.items() if value != {}}  # nothing but free ones there
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True)
class Found:
    """The newest folder that can be gone on from, and a sentence for each newer one that cannot."""

    folder: Path | None
    step: int = 0
    skipped: tuple[str, ...] = ()


@contextmanager
def written(target: Path, origin: Origin, step: int, needs: int = 0) -> Iterator[Path]:
    """A staging folder to fill; at the end of the block it is sealed and appears as `target`.

    Args:
        needs: predicted bytes.

    Raises:
        DiskError: there is not enough room, or a write failed; `target` is whole, as it was before or as it was to be.
    """
    if untrusted_files.is_link(target.parent):
        raise DiskError(f"{target.parent} is a link, so nothing is written there. Put a folder in its place.")
    room(target, needs)
    staging = target.with_name(f".staging-{target.name}")
    shutil.rmtree(staging, ignore_errors=True)
    with durable.disk_errors(target):
        try:
            durable.point(staging)
            staging.mkdir(parents=True)
            yield staging
            seal(staging, origin, step)
            durable.publish(staging, target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def seal(folder: Path, origin: Origin, step: int) -> None:
    """Flush every file and write the manifest, last."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            durable.flush(path)
            files[path.relative_to(folder).as_posix()] = File(bytes=path.stat().st_size, sha256=sha256(path))
    versions = {name: version(name) for name in PINNED}
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
    durable.flush(folder)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def room(target: Path, needs: int) -> None:
    """Is there space for so many bytes?

    Raises:
        DiskError: with the bytes needed and free.
    """
    free = shutil.disk_usage(durable.existing(target)).free
    if needs * RESERVE > free:
        raise DiskError(
            f"The disk is nearly full: a checkpoint needs {needs * RESERVE / 2**20:,.0f} MB in {target.parent}, "
            f"{free / 2**20:,.0f} MB are free. Free some space."
        )


def verified(folder: Path) -> Manifest:
    """The manifest of a folder whose every file matches it.

    Raises:
        Damaged: naming the file that is missing, has another size or other bytes.
    """
    manifest = manifest_of(folder)
    for name, file in manifest.files.items():
        check_file(folder, name, file)
    return manifest


def manifest_of(folder: Path) -> Manifest:
    """What a folder says it holds.

    Raises:
        Damaged: it says nothing that can be read.
    """
    if untrusted_files.is_link(folder):
        raise Damaged(f"{folder.name} is a link, and links in a run are not followed.")
    try:
        values = untrusted_files.parsed(untrusted_files.read(folder, MANIFEST))
        own = sealed(values)
        manifest, _ = untrusted_files.known(Manifest, values)
        for name in manifest.files:  # whoever wrote it chose the names, and files are copied by them
            untrusted_files.check_name(name)
    except OSError as error:
        raise Damaged(f"{folder.name} has no readable {MANIFEST}: {error.strerror}.") from error
    except ValueError as error:
        raise Damaged(f"{folder.name}/{MANIFEST} is damaged or of another version of Tunebench.") from error
    if manifest.own not in (own, manifest.hash):
        raise Damaged(f"{folder.name}/{MANIFEST} has changed since it was written.")
    return manifest


def sealed(values: Any) -> str:
    """The hash that a manifest of these values must bear, with keys of a later version, which are sealed as well."""
    facts = {key: value for key, value in values.items() if key != "own"} if isinstance(values, dict) else values
    return hashlib.sha256(
        json.dumps(facts, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    ).hexdigest()


def check_file(folder: Path, name: str, file: File) -> None:
    try:
        with untrusted_files.opened(folder, name) as content:
            size = os.fstat(content.fileno()).st_size
            same = size == file.bytes and hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
    except FileNotFoundError as error:
        raise Damaged(f"{folder.name}/{name} is missing.") from error
    except OSError as error:
        raise Damaged(f"{folder.name}/{name} cannot be read: {error.strerror}.") from error
    if size != file.bytes:
        raise Damaged(f"{folder.name}/{name} has {size:,} bytes, and was written with {file.bytes:,}.")
    if not same:
        raise Damaged(f"{folder.name}/{name} has changed since it was written.")


def newest(run_dir: Path, stage: Stage, data: str, spec: str = "") -> Found:
    """The newest sound checkpoint of a stage, made from this data with these settings by the same major versions of the
    training libraries."""
    skipped = []
    for folder in shelf(run_dir, stage):
        try:
            manifest = verified(folder)
        except Damaged as error:
            skipped.append(f"{error} An older checkpoint was used.")
            continue
        if other := foreign(manifest, data, spec):
            skipped.append(f"{folder.name} was made {other}, so it was not continued.")
            continue
        return Found(folder, manifest.step, tuple(skipped))
    return Found(None, 0, tuple(skipped))


def foreign(manifest: Manifest, data: str, spec: str) -> str:
    """What a folder was made from or by that there is not now; nothing where all is the same."""
    if manifest.data != data:
        return "from other data than there is now"
    if manifest.spec and spec and manifest.spec != spec:
        return "with other settings than the run has now"
    for name in TRAINERS:
        then, now = manifest.versions.get(name, ""), version(name)
        if then and then.partition(".")[0] != now.partition(".")[0]:
            return f"by {name} {then}, and {now} is installed"
    return ""


def shelf(run_dir: Path, stage: Stage) -> list[Path]:
    """The checkpoints of a stage, newest first, sound or not."""
    return [folder for _, folder in numbered(run_dir / FOLDER, f"{stage}-")][::-1]


def numbered(parent: Path, before: str) -> list[tuple[int, Path]]:
    """Folders named `before` and a number, by that number. Anything else that somebody put there is not ours, nor is a link."""
    if untrusted_files.is_link(parent):
        return []
    found = ((untrusted_files.number_in(folder.name, before), folder) for folder in parent.glob(f"{before}*"))
    return sorted(
        (step, folder)
        for step, folder in found
        if step is not None and folder.is_dir() and not untrusted_files.is_link(folder)
    )


def place(run_dir: Path, stage: Stage, step: int) -> Path:
    return run_dir / FOLDER / f"{stage}-{step:06d}"


def adapter_place(run_dir: Path, stage: Stage) -> Path:
    return run_dir / f"adapter-{stage}"


def stored(run_dir: Path, stage: Stage) -> dict[int, Path]:
    """Step → where its adapter lies: among the checkpoints, or laid aside when another step was kept."""
    return dict(sorted((*numbered(run_dir, f"adapter-{stage}-"), *numbered(run_dir / FOLDER, f"{stage}-"))))


def weights(run_dir: Path, stage: Stage, step: int) -> Path | None:
    """Where a step's adapter lies, if it is still there."""
    return stored(run_dir, stage).get(step)


def keep(run_dir: Path, stage: Stage, step: int) -> None:
    """Make the weights of a step the stage's adapter. What was the adapter is laid aside first, so that it can be kept again.

    Raises:
        ModelError: the step's weights are gone or damaged.
        DiskError: no room; everything is as it was.
    """
    source, target = weights(run_dir, stage, step), adapter_place(run_dir, stage)
    before = verified(target)
    if before.step == step:
        return
    if source is None:
        raise ModelError(f"The weights of {stage.upper()} step {step} are not on the disk any more.")
    chosen = verified(source)
    if weights(run_dir, stage, before.step) is None:
        lay_aside(run_dir, stage)
    others = [name for name in before.files if name not in ADAPTER]
    copied(source, ADAPTER, target, chosen, target, others)


def lay_aside(run_dir: Path, stage: Stage) -> None:
    """Copy a stage's adapter beside itself, under a name with the step it is of; nothing to do where that is there already.

    Raises:
        ModelError: the adapter is damaged.
        DiskError: no room; everything is as it was.
    """
    adapter = adapter_place(run_dir, stage)
    manifest = verified(adapter)
    aside = adapter.with_name(f"{adapter.name}-{manifest.step:06d}")
    if not aside.exists():
        copied(adapter, tuple(manifest.files), aside, manifest)


def copied(
    source: Path,
    names: Sequence[str],
    target: Path,
    origin: Manifest,
    extra: Path | None = None,
    more: Sequence[str] = (),
) -> None:
    """A folder of an adapter's files from one place and, where given, further ones from another."""
    same = Origin(origin.stage, origin.total, origin.data, origin.spec)
    with written(target, same, origin.step, sum(file.bytes for file in origin.files.values())) as staging:
        for folder, files in ((source, names), (extra or source, more)):
            for name in map(untrusted_files.check_name, files):
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                with untrusted_files.opened(folder, name) as content, (staging / name).open("xb") as copy:
                    shutil.copyfileobj(content, copy, 1 << 20)


def sweep(run_dir: Path) -> None:
    """Finish or undo what an earlier process left half done in a run that nobody works on."""
    for place in (run_dir, run_dir / FOLDER):
        durable.sweep(place)


def rotate(
    run_dir: Path,
    stage: Stage,
    keep: int = KEEP,
    spared: frozenset[int] = frozenset(),
    discard: Callable[[Path, int], None] = durable.discard,
) -> None:
    """Remove all but the newest, and those of the steps that are spared. One that is in use is removed the next time.

    Raises:
        DiskError: the disk does not allow it.
    """
    for step, folder in numbered(run_dir / FOLDER, f"{stage}-")[: -keep or None]:
        if step in spared:
            continue
        with durable.disk_errors(folder), suppress(PermissionError):
            discard(folder, 2)


def finished(run_dir: Path, stage: Stage, least: int = 0) -> Found:
    """The adapter of a stage that went to its end, if it is there and sound; a sentence where it is damaged.

    Args:
        least: steps that it must have, where the run was made longer since.
    """
    folder = adapter_place(run_dir, stage)
    if not folder.exists():
        return Found(None)
    try:
        manifest = verified(folder)
    except Damaged as error:
        return Found(None, 0, (f"{error} The adapter is made again.",))
    return Found(folder, manifest.step) if manifest.step >= max(manifest.total, least) else Found(None)


def kept(run_dir: Path, stage: Stage) -> int | None:
    """The step that a stage's adapter is of; None where there is none, or none that is sound."""
    try:
        return verified(adapter_place(run_dir, stage)).step
    except ModelError:
        return None


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
