"""The export job: every part after what it is made from, then the certificate, then the folder under its name."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import cast

from trainer_core.config.export_targets import EXPORT_TARGETS, with_sources
from trainer_core.config.jobs import ExportJob
from trainer_core.config.recipe import STARTER
from trainer_core.export import certificate_page
from trainer_core.export.certify import certify_forms, count_measurements
from trainer_core.export.context import ExportContext, part_name
from trainer_core.export.merge import weight_files
from trainer_core.export.staging import ExportStaging
from trainer_core.export.tensor_file import count_weights
from trainer_core.models import hub, resolve
from trainer_core.planning import export_cost
from trainer_core.runs.checkpoints import ADAPTER_FILES, file_sha256
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Phase, PhaseChanged
from trainer_core.runs.export_events import CertificateRow, ExportFinished, ExportPart, ExportProgress
from trainer_core.runs.progress import Cancelled, ProgressTracker
from trainer_core.runs.run_state import read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text

STARTER_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The starter is that model, out of four bits."""
CERTIFICATE, PAGE = "export.json", "certificate.html"
CONVERTERS = ("gguf", "peft", "transformers")
WritePart = Callable[[ExportContext, Path], None]


def export_lane(job: ExportJob, run_dir: Path, emit: EventLog, wants: StopRequests) -> Phase:
    """Write the export, or go on with one that was interrupted.

    Raises:
        ModelError: a part cannot be made, or a file would read prompts differently; there is nothing under the final name.
        ConfigError: the name is taken.
        DiskError: too little space.
    """
    base = fetch_base(job, run_dir, emit)
    staging = ExportStaging(job.folder, hash_source(job, base))
    if read_run_state(run_dir).exported and staging.is_published():
        return Phase.DONE
    staging.begin()
    export_cost.require_space(estimate_cost(job, base), job.folder, staging.byte_count())
    parts = with_sources(job.targets)
    tracker = ProgressTracker(ExportProgress, emit, wants.stop, len(parts) + count_measurements(job.targets))
    context = ExportContext(job, base, public_name(job.model), staging, emit, tracker)
    emit(PhaseChanged(Phase.SAVING, Text("export.writing")))
    try:
        for target in parts:
            make_part(context, target)
        emit(write_certificate(context))
    except Cancelled:
        return Phase.STOPPED
    staging.publish([*(part_name(job, target) for target in job.targets), CERTIFICATE, PAGE])
    return Phase.DONE


def hash_source(job: ExportJob, base: Path) -> str:
    """Hash of what decides the bytes of a part: the base's files, the lane with its adapters' files, and the converters."""
    adapters = [file_sha256(Path(folder) / name) for folder in job.lane.adapter_folders for name in ADAPTER_FILES]
    held = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weight_files(base)]
    lane = job.lane.model_dump(exclude={"adapter", "other"})
    told = [job.model, held, job.precision, job.name, lane, adapters, {name: version(name) for name in CONVERTERS}]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def fetch_base(job: ExportJob, run_dir: Path, emit: EventLog) -> Path:
    """The folder of the base, downloaded from the Hub if it is missing."""
    model = resolve.resolve_model(job.model, Workspace.for_run(run_dir))
    if not resolve.is_hub_id(model):
        return Path(model)
    found = hub.fetch_model(model, lambda text: emit(PhaseChanged(Phase.LOADING, text)))
    assert found  # nothing cancels this download
    return found


def estimate_cost(job: ExportJob, base: Path) -> export_cost.ExportCost:
    adapters = sum(export_cost.folder_bytes(Path(folder)) for folder in job.lane.adapter_folders)
    files = weight_files(base)
    size = sum(path.stat().st_size for path in files)
    bits = 8 * size / sum(map(count_weights, files))
    return export_cost.export_cost(job.targets, size, bits, adapters)


def public_name(model: str) -> str:
    """The base's name on the Hub; empty for a folder of this computer."""
    if model == STARTER:
        return STARTER_BASE
    return model if resolve.is_hub_id(model) else ""


def make_part(context: ExportContext, target: str) -> None:
    name = part_name(context.job, target)
    context.tracker.begin(Text("export.part", part=target))
    if not context.staging.is_complete(name):
        with context.staging.build_part(name) as path:
            find_writer(target)(context, path)
    files = context.staging.parts()[name].values()
    context.emit(ExportPart(name, sum(file.bytes for file in files)))


def find_writer(target: str) -> WritePart:
    module, name = EXPORT_TARGETS[target].write.split(":")
    found = getattr(importlib.import_module(module), name)
    return cast(WritePart, partial(found, key=target) if EXPORT_TARGETS[target].file_type else found)


def write_certificate(context: ExportContext) -> ExportFinished:
    """Measure every form, and write the certificate as JSON and as a page.

    Raises:
        ModelError: a form reads prompts differently from training.
    """
    rows, pairs = certify_forms(context)
    finished = ExportFinished(str(context.staging.target), tuple(rows), pairs)
    told = {
        "lane": context.job.lane.name,
        "base": context.base_name,
        "pairs": pairs,
        "rows": list(map(row_values, rows)),
    }
    with context.staging.build_part(CERTIFICATE) as path:
        path.write_text(json.dumps(told, indent=1), encoding="utf-8")
    with context.staging.build_part(PAGE) as path:
        path.write_text(certificate_page.render_page(context.job, rows, pairs), encoding="utf-8")
    return finished


def row_values(row: CertificateRow) -> dict[str, object]:
    return asdict(row) | {"verdict": row.verdict, "problem": str(row.problem)}
