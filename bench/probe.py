"""How near is the measure before the first step to the peak that the run then has?"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import psutil

from bench import parts
from bench.result import Device, Row, ratio
from trainer_core import runs
from trainer_core.config import Recipe
from trainer_core.events import RunView, Stage
from trainer_core.hardware import GIB
from trainer_core.ladder import changed
from trainer_core.supervisor import WORKER, Supervisor

QUESTION = (
    "The starter model on rows of equal length: the peak as the probe told it before the first step, against the peak of a run "
    "without a probe. On a GPU also whether a run finishes by itself on a card of 8, 12, 16 and 24 GB, which are emulated by "
    "the share of memory that torch may use."
)
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
SHAPES: tuple[tuple[Stage, int, int], ...] = (("sft", 2, 256), ("sft", 4, 512), ("dpo", 2, 256))
"""Stage, rows of a micro-batch, tokens of a row."""
CAPPED = """
import sys
from functools import partial
from pathlib import Path
from trainer_core import keeper, worker
def work(share, folder):
    from trainer_core import engine
    import torch
    torch.cuda.set_per_process_memory_fraction(share)
    return worker.main(folder)
folder = Path(sys.argv[2])
sys.exit(keeper.kept(partial(work, float(sys.argv[1]), folder), partial(worker.killed, folder)))
"""


def run(device: Device, tiny: bool) -> Iterator[Row]:
    for stage, batch, length in SHAPES[:1] if tiny else SHAPES:
        with parts.workspace() as workspace:
            asked = recipe(workspace, stage, batch, length)
            told = probed(workspace, changed(asked, {"memory.probe": "on"}), stage, device) / GIB
            real = peak(workspace, changed(asked, {"memory.probe": "off"}), stage, device) / GIB
        what = f"{stage.upper()}, {batch} × {length} tokens"
        yield ratio(what, "within 10 %", "GB", [told], [real], "the run", lambda value: abs(value - 1) <= 0.1)
    if device == "cuda":
        for gib in (24,) if tiny else (8, 12, 16, 24):
            yield capped(gib)


def recipe(workspace: runs.Workspace, stage: Stage, batch: int, length: int) -> Recipe:
    """A few steps of one stage over rows that are all cut at the same length."""
    file = runs.made(workspace.root) / "rows.jsonl"
    long = {"chosen": "one two three " * length, "rejected": "four five six " * length}
    file.write_text("\n".join(json.dumps({"prompt": f"Count to {at}.", **long}) for at in range(80)), encoding="utf-8")
    steps = {"max_steps": 3, "batch_size": batch, "accumulation": 2, "max_length": length, "evaluations": 0}
    base = parts.recipe(True)
    changes = {f"{stage}.{name}": value for name, value in steps.items()}
    return changed(base, {"method": stage, "data.pairs": str(file), "sample_tokens": 0} | changes)


def probed(workspace: runs.Workspace, asked: Recipe, stage: Stage, device: Device) -> int:
    """The peak that the probe told, in bytes; on a card as NVML saw it, with the CUDA context, as in the run without."""
    view, before, _ = finished(workspace, asked, device)
    return view.probed[stage].peak if device == "cpu" else before


def peak(workspace: runs.Workspace, asked: Recipe, stage: Stage, device: Device) -> int:
    """The peak of the worker: resident memory, or what NVML says that it holds."""
    return finished(workspace, asked, device)[2]


def finished(workspace: runs.Workspace, asked: Recipe, device: Device) -> tuple[RunView, int, int]:
    """A run to its end, and the most memory of its worker after the loading: up to the first step, and in all."""
    supervisor = Supervisor(workspace, device=device)
    run_id, before, most = supervisor.start(asked), 0, 0
    while supervisor.run(run_id).phase.active:
        beat = runs.read_heartbeat(supervisor.run_dir(run_id))
        if beat and supervisor.run(run_id).row_lengths:
            most = max(most, held(supervisor, beat.pid))
            before = before if supervisor.run(run_id).points else most
        time.sleep(0.01)
        supervisor.look()
    view = supervisor.run(run_id)
    supervisor.close()
    if view.error or not most:
        raise RuntimeError(view.error or "the run was too short to be measured")
    return view, before, most


def held(supervisor: Supervisor, pid: int) -> int:
    """Bytes that a worker holds now, on the card that it uses or in main memory."""
    if supervisor.gpu:
        card = supervisor.read_machine().gpu(supervisor.gpu.uuid)
        return card.held_by([pid]) if card else 0
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def capped(gib: int) -> Row:
    """Does a run with too large a batch come to its end by itself, and with the same effective batch?"""
    with parts.workspace() as workspace:
        card = Supervisor(workspace, WORKER, device="cuda").gpu
        assert card
        asked = changed(recipe(workspace, "sft", 256, 1024), {"sft.accumulation": 1})
        share = gib * GIB / card.total_bytes
        supervisor = Supervisor(workspace, (sys.executable, "-c", CAPPED, str(share)), device="cuda")
        view = parts.finished(supervisor, supervisor.start(asked))
        supervisor.close()
    used = {one.what: int(one.used) for one in view.changes if one.what.startswith("sft.")}
    batch, accumulation = used.get("sft.batch_size", 256), used.get("sft.accumulation", 1)
    note = f"{len(view.out_of_memory)} smaller settings, batch {batch} × {accumulation}"
    return Row(f"256 × 1,024 tokens on {gib} GB", "finishes", met=batch * accumulation == 256, value=1.0, note=note)
