"""How near is the measure before the first step to the peak that the run then has?"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.harness import models
from bench.harness.result import BenchRow, Device, Target, row_against_peer, row_against_target
from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Recipe
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.models import starter
from trainer_core.planning import presets
from trainer_core.runs import heartbeat
from trainer_core.runs.events import Stage
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace, ensure_dir
from trainer_core.system.format import GIB

QUESTION = (
    "The starter model on rows of equal length: the peak as the probe told it before the first step, against the peak that the "
    "run then had (on a card: that a run without a probe had)."
)
DEVICES: tuple[Device, ...] = ("cpu", "cuda")
SOON = Target("ours", "≤", 20)
OPEN: tuple[BenchRow, ...] = (
    BenchRow("G9", "Peak told ÷ peak of the run", "GiB", target=Target("ratio", "±", 0.1)),
    BenchRow("G9", "Time of the probe", "s", target=SOON),
)
SHAPES: tuple[tuple[Stage, int, int], ...] = (("sft", 2, 256), ("sft", 4, 384), ("dpo", 2, 256))
"""Stage, rows of a micro-batch, tokens of a row."""
STEPS = 2
"""The second one has the optimiser's states beside all else; later ones are like it."""


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    return [row for one in (SHAPES[:1] if tiny else SHAPES) for row in probe_rows(*one, device)]


def probe_rows(stage: Stage, batch: int, length: int, device: Device) -> tuple[BenchRow, BenchRow]:
    """What was told against what the run took, and how long the telling took."""
    with starter_workspace() as place:
        asked = with_changes(probe_recipe(place, stage, batch, length), {"memory.probe": "on"})
        if device == "cpu":
            view, _, real = finish_run(place, asked, device)
            told = view.probed[stage].peak
        else:
            view, told, _ = finish_run(place, with_changes(asked, {f"{stage}.max_steps": 1}), device)
            _, _, real = finish_run(place, with_changes(asked, {"memory.probe": "off"}), device)
    what = f"{stage.upper()}, {batch} × {length} tokens"
    near = row_against_peer(
        "G9", f"{what}: told ÷ real", "GiB", [told / GIB], [real / GIB], target=Target("ratio", "±", 0.1)
    )
    return near, row_against_target("G9", f"{what}: the probe", "s", [view.probed[stage].seconds], target=SOON)


@contextmanager
def starter_workspace() -> Iterator[Workspace]:
    """An empty workspace that is gone at the end, with the starter model in it."""
    model = models.starter_model()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a worker may still be ending
        made = Workspace(Path(folder))
        place = made.models / starter.NAME
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(model)
        yield made


def probe_recipe(place: Workspace, stage: Stage, batch: int, length: int) -> Recipe:
    """A few steps of one stage over rows that are all cut at the same length."""
    file = ensure_dir(place.root) / "rows.jsonl"
    long = {"chosen": "one two three " * length, "rejected": "four five six " * length}
    file.write_text("\n".join(json.dumps({"prompt": f"Count to {at}.", **long}) for at in range(40)), encoding="utf-8")
    steps = {"max_steps": STEPS, "batch_size": batch, "accumulation": 2, "max_length": length, "evaluations": 0}
    base = presets.starter_recipe()
    changes = {f"{stage}.{name}": value for name, value in steps.items()}
    return with_changes(base, {"method": stage, "data.pairs": str(file), "sample_tokens": 0} | changes)


def finish_run(place: Workspace, asked: Recipe, device: Device) -> tuple[RunState, int, int]:
    """A run to its end, and the most memory of its worker after the loading: up to the first step, and in all.

    On a card the probe's peak is the former, as NVML saw it, with the CUDA context, as in the run without. On the processor what
    the probe itself took counts in neither.
    """
    supervisor = Supervisor(place, device=device)
    taken = bytes_in_use(supervisor)
    run_id, before, most, forgotten = supervisor.control.start(asked), 0, 0, False
    while (view := supervisor.registry.run_state(run_id)).phase.is_active:
        beat = heartbeat.read_heartbeat(supervisor.registry.run_dir(run_id))
        if beat and view.row_lengths:
            if view.probed and not supervisor.device.gpu and not forgotten:
                most, forgotten = 0, reset_rss_peak(beat.pid)
            most = max(most, worker_memory(supervisor, beat.pid, taken))
            before = before if view.points else most
        time.sleep(0.01)
        supervisor.registry.refresh()
    supervisor.close()
    if view.error or not most:
        raise RuntimeError(view.error or "the run was too short to be measured")
    return view, before, most


def worker_memory(supervisor: Supervisor, pid: int, taken: int) -> int:
    """Bytes that a worker holds now on its card, or the most main memory it held since its peak was last forgotten.

    A container may hide from NVML which process holds what; then it is what is in use beyond the `taken` bytes of before.
    """
    if supervisor.device.gpu:
        card = supervisor.device.read_machine().find_gpu(supervisor.device.gpu.uuid)
        return (card.bytes_used_by([pid]) if card else 0) or max(0, bytes_in_use(supervisor) - taken)
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def bytes_in_use(supervisor: Supervisor) -> int:
    """Bytes of the run's card that any program holds now; 0 without a card."""
    card = supervisor.device.read_machine().find_gpu(supervisor.device.gpu.uuid) if supervisor.device.gpu else None
    return card.total_bytes - card.free_bytes if card else 0


def reset_rss_peak(pid: int) -> bool:
    """Have the kernel count a process's peak from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    return True
