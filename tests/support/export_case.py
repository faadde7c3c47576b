"""A lane to export: two layers with the starter's tokenizer and template, an adapter, and held-out pairs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support import tiny
from trainer_core.config.jobs import ExportJob, Lane
from trainer_core.export import pipeline
from trainer_core.export.context import ExportContext
from trainer_core.export.staging import ExportStaging
from trainer_core.models import starter
from trainer_core.runs import run_folder
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import Event, Phase
from trainer_core.runs.export_events import ExportProgress
from trainer_core.runs.progress import ProgressTracker
from trainer_core.runs.workspace import Workspace

WORDS = ("river", "stone", "cloud", "bread", "lamp", "field", "glass", "wheel", "paper", "salt")


def write_base(folder: Path) -> Path:
    """llama.cpp knows tokenizers by name, so this one is the starter's, with a body of two layers."""
    import torch

    tokenizer = starter.build_tokenizer(GGUFReader(starter.find_gguf()))
    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.1,
        **ids,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lane(folder: Path) -> Lane:
    base = write_base(folder / "models" / "base")
    return Lane(name="DPO", adapter=str(tiny.adapter(folder / "adapter-dpo", base, scale=0.2)))


def write_pairs(path: Path, count: int = 24) -> Path:
    rows = []
    for number in range(count):
        one, other = WORDS[number % len(WORDS)], WORDS[(3 * number + 1) % len(WORDS)]
        answers = {"chosen": f"The {one} is {number}.", "rejected": f"A {other}, and no {one}."}
        says = {part: [{"role": "assistant", "content": text}] for part, text in answers.items()}
        rows.append({"prompt": [{"role": "user", "content": f"Say {one} {number}"}], **says})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def export_job(folder: Path, lane: Lane, targets: Sequence[str], **changes: Any) -> ExportJob:
    values = {
        "model": str(folder / "models" / "base"),
        "lane": lane,
        "targets": tuple(targets),
        "out": str(folder / "out"),
        "name": "it",
        "held_out": str(write_pairs(folder / "held-out.jsonl")),
    }
    return ExportJob.model_validate(values | changes)


def make_run(folder: Path, job: ExportJob) -> Path:
    return run_folder.create_run(Workspace(folder).export_jobs, job, job.name)


def run_export(
    folder: Path, job: ExportJob, say: Callable[[Event], None] = lambda event: None, run_dir: Path | None = None
) -> Phase:
    """The job in this process, in a new run folder or once more in one; `say` hears its events and may raise."""
    run_dir = run_dir or make_run(folder, job)
    with EventLog(run_dir / "events.jsonl") as log:

        def emit(event: Event) -> None:
            log(event)
            say(event)

        return pipeline.export_lane(job, run_dir, emit, StopRequests())  # type: ignore[arg-type]


def open_context(job: ExportJob, begin: bool = True, run_dir: Path | None = None) -> ExportContext:
    """The parts of a job, to be made one by one. begin: not for a finished one."""
    base = Path(job.model)
    staging = ExportStaging(job.folder, pipeline.hash_source(job, base))
    if begin:
        staging.begin()
    tracker = ProgressTracker(ExportProgress, lambda event: None, threading.Event())
    return ExportContext(job, base, "", staging, run_dir or Path(job.out) / "jobs" / "x", lambda event: None, tracker)
