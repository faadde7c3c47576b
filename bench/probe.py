"""How near is the measure before the first step to the peak that the run then has?"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.result import Device, Row, Target, one_sided, two_sided
from trainer_core import presets, runs, starter
from trainer_core.config import Recipe
from trainer_core.events import Stage
from trainer_core.hardware import GIB
from trainer_core.ladder import changed
from trainer_core.run_view import RunView
from trainer_core.supervisor import Supervisor

QUESTION = (
    "The starter model on rows of equal length: the peak as the probe told it before the first step, against the peak of a run "
    "without a probe."
)
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
SOON = Target("ours", "≤", 20)
OPEN: tuple[Row, ...] = (
    Row("G12", "Peak told ÷ peak of the run", "GiB", target=Target("ratio", "±", 0.1)),
    Row("G12", "Time of the probe", "s", target=SOON),
)
SHAPES: tuple[tuple[Stage, int, int], ...] = (("sft", 2, 256), ("sft", 4, 384), ("dpo", 2, 256))
"""Stage, rows of a micro-batch, tokens of a row."""


def run(device: Device, tiny: bool) -> list[Row]:
    return [row for one in (SHAPES[:1] if tiny else SHAPES) for row in shape(*one, device)]


def shape(stage: Stage, batch: int, length: int, device: Device) -> tuple[Row, Row]:
    """What was told against what the run took, and how long the telling took."""
    with workspace() as place:
        asked = recipe(place, stage, batch, length)
        view, before, _ = finished(place, changed(asked, {"memory.probe": "on", f"{stage}.max_steps": 1}), device)
        told = (view.probed[stage].peak if device == "cpu" else before) / GIB
        real = peak(place, changed(asked, {"memory.probe": "off"}), device) / GIB
    what = f"{stage.upper()}, {batch} × {length} tokens"
    near = two_sided("G12", f"{what}: told ÷ real", "GiB", [told], [real], target=Target("ratio", "±", 0.1))
    return near, one_sided("G12", f"{what}: the probe", "s", [view.probed[stage].seconds], target=SOON)


@contextmanager
def workspace() -> Iterator[runs.Workspace]:
    """An empty workspace that is gone at the end, with the starter model in it."""
    shared = runs.Workspace(runs.default_workspace())
    with tempfile.TemporaryDirectory() as folder:
        made, model = runs.Workspace(Path(folder)), starter.folder(shared)
        place = made.root / model.relative_to(shared.root)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(model)
        yield made


def recipe(place: runs.Workspace, stage: Stage, batch: int, length: int) -> Recipe:
    """A few steps of one stage over rows that are all cut at the same length."""
    file = runs.made(place.root) / "rows.jsonl"
    long = {"chosen": "one two three " * length, "rejected": "four five six " * length}
    file.write_text("\n".join(json.dumps({"prompt": f"Count to {at}.", **long}) for at in range(80)), encoding="utf-8")
    steps = {"max_steps": 2, "batch_size": batch, "accumulation": 2, "max_length": length, "evaluations": 0}
    base = presets.starter_recipe()
    changes = {f"{stage}.{name}": value for name, value in steps.items()}
    return changed(base, {"method": stage, "data.pairs": str(file), "sample_tokens": 0} | changes)


def peak(place: runs.Workspace, asked: Recipe, device: Device) -> int:
    """The peak of the worker: resident memory, or what NVML says that it holds."""
    return finished(place, asked, device)[2]


def finished(place: runs.Workspace, asked: Recipe, device: Device) -> tuple[RunView, int, int]:
    """A run to its end, and the most memory of its worker after the loading: up to the first step, and in all.

    On a card the probe's peak is the former, as NVML saw it, with the CUDA context, as in the run without.
    """
    supervisor = Supervisor(place, device=device)
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
