"""An export that writes no model: the events of a real one. A job whose name has `red` in it fails as one that reads prompts
differently, one with `full` as on a full disk; one with `holds` waits in its first part until it is stopped."""

from __future__ import annotations

import time

from trainer_core.config.export_targets import EXPORT_TARGETS
from trainer_core.config.jobs import ExportJob
from trainer_core.errors import DiskError, ModelError
from trainer_core.runs.compare_events import ConfidenceInterval
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Phase, PhaseChanged
from trainer_core.runs.export_events import (
    AnswerComparison,
    CertificateRow,
    ExportFinished,
    ExportProgress,
    ExportRegistered,
)
from trainer_core.texts import Text, verbatim

KEPT = {"merged": ConfidenceInterval(0.988, 0.986, 0.989, 48), "gguf:q8_0": ConfidenceInterval(1.002, 1.0, 1.004, 48)}


def play_export(job: ExportJob, emit: EventLog, wants: StopRequests, pause: float) -> Phase:
    emit(PhaseChanged(Phase.SAVING, Text("export.writing")))
    for number, target in enumerate(job.targets, 1):
        for done in range(0, 101, 25):
            part = Text("export.part", part=target)
            emit(ExportProgress(part, number, len(job.targets), done, 100, 100.0 - done if done else None))
            time.sleep(pause)
            while "holds" in job.name and done == 50 and not wants.should_stop:
                time.sleep(0.01)
            if wants.should_stop:
                return Phase.STOPPED
    if "full" in job.name:
        raise DiskError(verbatim("There is no room."))
    if "red" in job.name:
        raise ModelError("export.other_tokens", form=job.targets[-1])
    refuses = "lost" in job.name and not job.folder.exists()  # the first time only
    job.folder.mkdir(parents=True, exist_ok=True)
    emit(ExportFinished(str(job.folder), tuple(certificate_row(target) for target in job.targets), 48))
    for target in job.targets:
        if EXPORT_TARGETS[target].register:
            said, problem = verbatim("In it."), verbatim("It is down.")
            emit(ExportRegistered(target, problem=problem) if refuses else ExportRegistered(target, said))
    return Phase.DONE


def certificate_row(target: str) -> CertificateRow:
    answers = AnswerComparison(14, 16, (0.01, 0.02))
    measured = {
        "template_equal": True,
        "tokens_equal": True,
        "special_equal": True,
        "answers": answers,
        "divergence": 0.0003,
    }
    return CertificateRow(target, 144_811_232, 8.5, **measured, kept=KEPT.get(target))  # type: ignore[arg-type]
