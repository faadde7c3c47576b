"""The export job: every part after what it is made from, then the certificate, then the folder under its name."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from trainer_core.config.export_targets import EXPORT_TARGETS, measured_targets, with_sources
from trainer_core.config.jobs import ExportJob
from trainer_core.config.recipe import STARTER
from trainer_core.errors import UserError
from trainer_core.export import certificate_page
from trainer_core.export.base_choice import BASE_STEPS, choose_base
from trainer_core.export.certify import certify_forms, count_measurements, held_out_pairs, measure_lane
from trainer_core.export.context import ExportContext, WritePart, part_name
from trainer_core.export.four_bit import count_packed_weights, is_four_bit
from trainer_core.export.merge import weight_files
from trainer_core.export.staging import ExportStaging
from trainer_core.models import hub, resolve, starter
from trainer_core.planning import export_cost
from trainer_core.runs.checkpoints import ADAPTER_FILES, file_sha256
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Phase, PhaseChanged
from trainer_core.runs.export_events import (
    CertificateRow,
    ExportFinished,
    ExportPart,
    ExportProgress,
    ExportRegistered,
)
from trainer_core.runs.progress import Cancelled, ProgressTracker
from trainer_core.runs.run_state import read_run_state
from trainer_core.runs.workspace import Workspace
from trainer_core.texts import Text

CERTIFICATE, PAGE = "export.json", "certificate.html"
CONVERTERS = ("gguf", "peft", "transformers")


def export_lane(job: ExportJob, run_dir: Path, emit: EventLog, wants: StopRequests) -> Phase:
    """Write the export, or go on with one that was interrupted, and give it to the programs that were asked for.

    Raises:
        ModelError: a part cannot be made, or a file would read prompts differently; there is nothing under the final name.
        ConfigError: the name is taken.
        DiskError: too little space.
    """
    base = fetch_base(job, run_dir, emit)
    staging = ExportStaging(job.folder, hash_source(job, base))
    programs = [target for target in job.targets if EXPORT_TARGETS[target].register]
    tracker = ProgressTracker(ExportProgress, emit, wants.stop, count_steps(job, base))
    context = ExportContext(job, base, public_name(job.model), staging, run_dir, emit, tracker)
    try:
        if not (read_run_state(run_dir).exported and staging.is_published()):
            write_export(context)
        state = read_run_state(run_dir)
        register_forms(
            context, [one for one in programs if one not in state.registered or one in state.refused_programs]
        )
    except Cancelled:
        return Phase.STOPPED
    return Phase.DONE


def count_steps(job: ExportJob, base: Path) -> int:
    """Steps of the progress."""
    forms = measured_targets(job.targets)
    rounded = BASE_STEPS if forms and is_four_bit(base, job.precision) else 0
    programs = sum(bool(EXPORT_TARGETS[target].register) for target in job.targets)
    return len(with_sources(job.targets)) + count_measurements(job.targets) + rounded + programs


def write_export(context: ExportContext) -> None:
    """Make and measure every part, then give the folder its name.

    Raises:
        ModelError, ConfigError, DiskError, Cancelled: as `export_lane`.
    """
    job, staging = context.job, context.staging
    staging.begin()
    export_cost.require_space(estimate_cost(job, context.base), job.folder, staging.byte_count())
    for target in job.targets:
        if check := EXPORT_TARGETS[target].check:
            find_function(check)(context)
    context.emit(PhaseChanged(Phase.SAVING, Text("export.writing")))
    context.emit(make_parts(context))
    staging.publish([*(part_name(job, target) for target in job.targets), CERTIFICATE, PAGE])


def register_forms(context: ExportContext, targets: Sequence[str]) -> None:
    """Give each program its form. A program that does not take it leaves the export whole."""
    for target in targets:
        context.tracker.begin(Text("export.registering", program=EXPORT_TARGETS[target].label))
        try:
            said = find_function(EXPORT_TARGETS[target].register)(context, target)
            context.emit(ExportRegistered(target, said))
        except UserError as error:
            context.emit(ExportRegistered(target, problem=error.text))


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
    weights = sum(map(count_packed_weights, files))
    rounded = 2 * weights if is_four_bit(base, job.precision) else 0
    return export_cost.export_cost(job.targets, size, 8 * size / weights, adapters, rounded)


def public_name(model: str) -> str:
    """The base's name on the Hub; empty for a folder of this computer."""
    if model == STARTER:
        return starter.HUB_NAME
    return model if resolve.is_hub_id(model) else ""


def make_parts(context: ExportContext) -> ExportFinished:
    """Measure the lane, make every form, and hold it against the lane.

    Raises:
        ModelError, DiskError, Cancelled: as `export_lane`.
    """
    finished = ExportFinished(str(context.staging.target), (), 0)
    if measured_targets(context.job.targets):
        finished = make_measured_parts(context, finished)
    else:
        make_all(context)
    write_certificate(context, finished)
    return finished


def make_measured_parts(context: ExportContext, finished: ExportFinished) -> ExportFinished:
    """The parts, with what was measured on them."""
    pairs = held_out_pairs(context)
    reference = measure_lane(context, pairs)
    base, bases = choose_base(context, reference, pairs)
    context = replace(context, base=base)
    make_all(context)
    rows = certify_forms(context, reference, pairs)
    return replace(finished, forms=tuple(rows), pairs=len(pairs), bases=bases)


def make_all(context: ExportContext) -> None:
    for target in with_sources(context.job.targets):
        make_part(context, target)


def make_part(context: ExportContext, target: str) -> None:
    name = part_name(context.job, target)
    context.tracker.begin(Text("export.part", part=target))
    context.make_part(name, find_writer(target))
    files = context.staging.parts()[name].values()
    context.emit(ExportPart(name, sum(file.bytes for file in files)))


def find_writer(target: str) -> WritePart:
    found = find_function(EXPORT_TARGETS[target].write)
    kind = EXPORT_TARGETS[target]
    return cast(WritePart, partial(found, key=target) if kind.file_type or kind.register else found)


def find_function(name: str) -> Callable[..., Any]:
    """The function that "module:function" names."""
    module, function = name.split(":")
    return cast(Callable[..., Any], getattr(importlib.import_module(module), function))


def write_certificate(context: ExportContext, finished: ExportFinished) -> None:
    """Write the certificate as JSON and as a page."""
    told = {
        "lane": context.job.lane.name,
        "base": context.base_name,
        "pairs": finished.pairs,
        "bases": [asdict(one) | {"problem": str(one.problem)} for one in finished.bases],
        "rows": list(map(row_values, finished.forms)),
    }
    with context.staging.build_part(CERTIFICATE) as path:
        path.write_text(json.dumps(told, indent=1), encoding="utf-8")
    with context.staging.build_part(PAGE) as path:
        path.write_text(certificate_page.render_page(context.job, finished), encoding="utf-8")


def row_values(row: CertificateRow) -> dict[str, object]:
    return asdict(row) | {"verdict": row.verdict, "problem": str(row.problem)}
