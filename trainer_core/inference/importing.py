"""The import job: check what was trained elsewhere, copy it, check the copy, and give it its name."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import load_file

from trainer_core.config.jobs import ImportJob, Lane
from trainer_core.config.recipe import STARTER
from trainer_core.errors import ModelError
from trainer_core.inference import adapter_checks
from trainer_core.inference.load import check_adapter_files
from trainer_core.models import foreign_files, hub, resolve, template_sandbox
from trainer_core.runs import checkpoints, import_origin
from trainer_core.runs.checkpoints import FileFingerprint
from trainer_core.runs.control import StopRequests
from trainer_core.runs.events import Event, Phase, PhaseChanged
from trainer_core.runs.import_origin import ORIGIN, ImportKind, Origin
from trainer_core.runs.workspace import Workspace
from trainer_core.system import durable, untrusted_files
from trainer_core.texts import Text

TEMPLATE_FILE = "chat_template.jinja"
Emit = Callable[[Event], None]


@dataclass(frozen=True)
class ForeignFolder:
    """What is imported, and what it is used with.

    Attributes:
        commit: on the Hub; empty for a folder.
        base: the name of an adapter's base. base_folder: its configuration and tokenizer. Both empty for a whole model.
    """

    kind: ImportKind
    folder: Path
    commit: str = ""
    base: str = ""
    base_folder: str = ""

    def check(self, folder: Path) -> None:
        """Refuse a folder with such files.

        Raises:
            ModelError: names the file, the key or the layer.
        """
        if self.kind == "model":
            resolve.check_model_folder(folder)
        else:
            check_adapter_folder(folder, self.base_folder)

    @property
    def template(self) -> str:
        return template_sandbox.main_template(self.folder)

    @property
    def base_template(self) -> str:
        return template_sandbox.main_template(Path(self.base_folder)) if self.base_folder else ""


def import_model(job: ImportJob, run_dir: Path, emit: Emit, wants: StopRequests) -> Phase:
    """Import into `run_dir`: its folder `adapter` or `model` appears when it is whole.

    Raises:
        ModelError: the files are refused, change while they are copied, or name no base that can be found.
        DiskError: too little space.
    """
    if import_origin.find_import(run_dir):
        return Phase.DONE
    emit(PhaseChanged(Phase.LOADING, Text("imports.checking", name=job.name)))
    source = fetch_source(job, emit, wants)
    if source is None:
        return Phase.STOPPED
    foreign = describe_folder(job, source, Workspace.for_run(run_dir), emit)
    foreign.check(foreign.folder)
    files = list(foreign_files.files_to_copy(foreign.folder))
    target = run_dir / foreign.kind
    checkpoints.require_space(target, sum(path.stat().st_size for path in files))
    with staged_folder(target) as staging:
        copies = copy_files(files, staging, emit, wants)
        if copies is None:
            return Phase.STOPPED
        foreign.check(staging)
        write_origin(job, foreign, staging, copies)
        durable.flush_tree(staging)
        durable.publish_staged(staging, target)
    return Phase.DONE


def fetch_source(job: ImportJob, emit: Emit, wants: StopRequests) -> Path | None:
    """The folder to import, downloaded if it is on the Hub; None if a stop was asked for."""
    if not resolve.is_hub_id(job.source):
        return foreign_files.open_folder(job.source)
    found = hub.fetch_files(job.source, lambda text: emit(PhaseChanged(Phase.LOADING, text)), lambda: wants.should_stop)
    return found and foreign_files.open_folder(str(found))


def describe_folder(job: ImportJob, folder: Path, workspace: Workspace, emit: Emit) -> ForeignFolder:
    """The kind of a folder and, for an adapter, its base.

    Raises:
        ModelError: the base is unknown, or cannot be found.
    """
    on_hub = resolve.is_hub_id(job.source)
    commit, kind = folder.name if on_hub else "", foreign_files.folder_kind(folder)
    if kind == "model":
        return ForeignFolder(kind, folder, commit)
    named = foreign_files.named_base(folder)
    # An adapter of the Hub must not make this computer read a folder that it names.
    usable = named if not on_hub or resolve.is_hub_id(named) else ""
    base = job.base or usable
    if not base or (not job.base and not base_exists(base)):
        raise ModelError("imports.unknown_base", name=job.name, base=named)
    base = resolve.canonical_name(base, workspace)
    found = resolve.resolve_model(base, workspace)
    if resolve.is_hub_id(found):
        emit(PhaseChanged(Phase.LOADING, Text("imports.fetching_base", base=base)))
        found = str(hub.fetch_tokenizer(found))
    return ForeignFolder(kind, folder, commit, base, found)


def base_exists(name: str) -> bool:
    path = resolve.model_path(name)
    return name == STARTER or resolve.is_hub_id(name) or bool(path and path.is_dir())


def check_adapter_folder(folder: Path, base: str) -> None:
    """Check an adapter as Compare does, and that all of its weights are numbers.

    Raises:
        ModelError: names the setting, or the layer with both shapes.
    """
    adapter_checks.read_adapter_config(folder)
    try:
        check_adapter_files(base, {str(folder): Lane(name=folder.name)})
    except (OSError, ValueError) as error:
        raise ModelError("loaded_lanes.bad_model", model=base, reason=str(error)) from error
    for name, weight in load_file(folder / adapter_checks.WEIGHTS_FILE).items():
        if not weight.isfinite().all():
            layer, _, part = name.rpartition(".lora_")
            raise ModelError("adapter_checks.not_finite", folder=folder.name, layer=layer, part=f"lora_{part}")


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, which is gone afterwards unless it was published.

    Raises:
        DiskError: a write failed.
    """
    staging = target.with_name(f".staging-{target.name}")
    durable.remove_path(staging)
    with durable.disk_errors(target):
        try:
            durable.fault_point(staging)
            staging.mkdir()
            yield staging
        finally:
            durable.remove_path(staging)


def copy_files(
    files: Sequence[Path], staging: Path, emit: Emit, wants: StopRequests
) -> dict[str, FileFingerprint] | None:
    """The size and hash of each copy by its name; None if a stop was asked for.

    Raises:
        ModelError: a file changed after the first was read.
    """
    before = dict[str, FileFingerprint]()
    for path in files:
        if wants.should_stop:
            return None
        before[path.name] = read_fingerprint(path)
    for number, path in enumerate(files, 1):
        if wants.should_stop:
            return None
        emit(PhaseChanged(Phase.SAVING, Text("imports.copying", file=path.name, number=number, files=len(files))))
        copy_file(path, staging / path.name)
        if read_fingerprint(staging / path.name) != before[path.name]:
            raise ModelError("imports.changed", file=path.name)
    return before


def read_fingerprint(path: Path) -> FileFingerprint:
    with open_file(path) as content:
        size = os.fstat(content.fileno()).st_size
        return FileFingerprint(bytes=size, sha256=hashlib.file_digest(content, "sha256").hexdigest())


def copy_file(source: Path, target: Path) -> None:
    with open_file(source) as content:
        durable.fault_point(target)
        with target.open("xb") as copy:
            shutil.copyfileobj(content, copy, 1 << 20)


def open_file(path: Path) -> io.BufferedReader:
    """A file of a folder that was checked; in the Hub's cache it is a link."""
    real = path.resolve()
    return untrusted_files.open_regular_file(real.parent, real.name)


def write_origin(job: ImportJob, foreign: ForeignFolder, staging: Path, copies: Mapping[str, FileFingerprint]) -> None:
    """Write ORIGIN.json; and the template of an adapter whose base has none, because Compare then uses it."""
    files = dict(copies)
    if foreign.kind == "adapter" and foreign.template and not foreign.base_template:
        path = staging / TEMPLATE_FILE
        durable.write_atomically(path, foreign.template)
        files[TEMPLATE_FILE] = read_fingerprint(path)
    origin = Origin(
        kind=foreign.kind,
        source=public_name(job.source),
        commit=foreign.commit,
        date=datetime.now(UTC).date().isoformat(),
        named_base=public_name(foreign_files.named_base(foreign.folder)),
        base=foreign.base,
        own_template=bool(foreign.base_template) and foreign.template not in ("", foreign.base_template),
        files=files,
    )
    durable.write_atomically(staging / ORIGIN, origin.model_dump_json(indent=1))


def public_name(name: str) -> str:
    """A Hub id, or the last part of a path: nothing of this computer or of another."""
    return name if resolve.HUB_ID.match(name) and not name.startswith((".", "/", "~")) else Path(name).name
