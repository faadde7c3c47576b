"""A run that is paused and resumed on a card, against the same run undisturbed: how far are its losses from those?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from reliability.experiments.worker_kill import tiny_recipe
from reliability.harness.claim import Figure, TrialCount
from tests.support.scripted import wait_for_run
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.run_state import RunState
from trainer_core.runs.workspace import Workspace
from trainer_core.system import hardware

QUESTION = (
    "SFT and DPO of a two-layer model on a graphics card, paused after some steps and resumed in a new process: are the steps "
    "the same, and the losses those of the undisturbed run within 0.01 nats? On the processor they are so bit for bit (kills); "
    "on a card sums may come in another order each time."
)
NATS = 0.01
SECONDS = 900.0


def run(folder: Path, quick: bool) -> Iterator[Figure]:
    """Nothing where there is no card."""
    if hardware.detect_machine().best_gpu:
        yield resume_figure(folder, 1 if quick else 10, "cuda")


def resume_figure(folder: Path, trials: int, device: Literal["cpu", "cuda"]) -> Figure:
    asked = tiny_recipe(folder, sample_tokens=0, precision="bf16" if device == "cuda" else "fp32")
    boss = Supervisor(Workspace(folder), device=device)
    try:
        whole = wait_until_over(boss, boss.control.start(asked))
        furthest = [
            largest_loss_difference(whole, pause_and_resume(boss, boss.control.start(asked), 1 + at % 8))
            for at in range(trials)
        ]
    finally:
        boss.close()
    failures = sum(one is None or one > NATS for one in furthest)
    known = [one for one in furthest if one is not None]
    return Figure(
        "Resumed, the same steps with losses within 0.01 nats",
        TrialCount(trials, failures, f"(at most {max(known):.1e} nats)" if known else "other steps"),
    )


def wait_until_over(boss: Supervisor, run_id: str, steps: float = math.inf) -> RunState:
    """A run at its end, whichever that is, or after so many steps."""
    if not wait_for_run(boss, run_id, lambda view: not view.phase.is_active or len(view.points) >= steps, SECONDS):
        raise RuntimeError(f"{run_id} is not at its end after {SECONDS:.0f} s.")
    return boss.registry.run_state(run_id)


def pause_and_resume(boss: Supervisor, run_id: str, steps: int) -> RunState:
    """A run that was paused after so many steps or a few more, and resumed."""
    wait_until_over(boss, run_id, steps)
    boss.control.pause(run_id)
    if not wait_until_over(boss, run_id).phase.is_resumable:
        raise RuntimeError(f"{run_id} was at its end before it could be paused, so nothing was measured.")
    boss.control.resume(run_id)
    return wait_until_over(boss, run_id)


def largest_loss_difference(whole: RunState, other: RunState) -> float | None:
    """The largest difference of two losses of the same step, in nats; None: the steps are not the same."""
    one, two = ({(point.stage, point.step): point.loss for point in view.points} for view in (whole, other))
    return max(abs(one[step] - two[step]) for step in one) if one and one.keys() == two.keys() else None
