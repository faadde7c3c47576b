"""An import that copies no weights: its origin, as a real one leaves it. A source with `bad` in its name is refused."""

from __future__ import annotations

from pathlib import Path

from trainer_core.config.jobs import ImportJob
from trainer_core.config.recipe import STARTER
from trainer_core.errors import ModelError
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Phase, PhaseChanged
from trainer_core.runs.import_origin import ORIGIN, Origin
from trainer_core.texts import Text


def play_import(job: ImportJob, run_dir: Path, emit: EventLog) -> Phase:
    emit(PhaseChanged(Phase.SAVING, Text("imports.copying", file="adapter_model.safetensors", number=1, files=2)))
    if "bad" in job.source:
        raise ModelError("imports.changed", file="adapter_model.safetensors")
    base = job.base or STARTER
    origin = Origin(kind="adapter", source=job.source, date="2026-12-01", base=base, own_template=True, files={})
    (run_dir / "adapter").mkdir()
    (run_dir / "adapter" / ORIGIN).write_text(origin.model_dump_json(), encoding="utf-8")
    return Phase.DONE
