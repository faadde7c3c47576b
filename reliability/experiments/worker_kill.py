"""Workers killed at random moments of a real run, and resumed, against what the stock trainer leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from reliability.experiments.checkpoint_damage import is_loadable
from reliability.harness.claim import Proof, TrialCount, count_trials
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.methods.steps import SAVES_PER_STAGE, is_spaced_step
from trainer_core.runs import run_folder
from trainer_core.runs.events import Phase
from trainer_core.runs.run_state import RunState, read_run_state
from trainer_core.system import project

QUESTION = (
    "SFT and DPO of a two-layer model, its worker killed (SIGKILL) at a random moment and started again; the end must be that "
    "of the undisturbed run bit for bit, and the steps done twice at most those since the last save."
)
MODEL = "import sys; from pathlib import Path; from tests.support import tiny; tiny.model(Path(sys.argv[1]))"


def run(folder: Path, quick: bool) -> Iterator[Proof]:
    yield kill_proof(folder, 6 if quick else 300)


def tiny_recipe(folder: Path, **changes: Any) -> Recipe:
    """A recipe with its model and its data. The model is made in a process of its own: nothing may be computed in this one, whose
    forks could otherwise wait for threads that they do not have."""
    subprocess.run([sys.executable, "-c", MODEL, str(folder / "model")], cwd=project.PROJECT, check=True)
    from tests.support.training_runs import recipe, write_data

    write_data(folder)
    return recipe(folder, **changes)


def kill_proof(folder: Path, trials: int) -> Proof:
    from trainer_core import training  # noqa: F401  (unsloth before all that it patches)

    asked, random = tiny_recipe(folder), Random(11)
    whole = run_folder.create_run(folder / "runs", TrainJob(recipe=asked), "whole")
    began = time.monotonic()
    finish_run_in_worker(whole)
    seconds, wanted = time.monotonic() - began, read_run_state(whole)
    if wanted.phase is not Phase.DONE:
        raise RuntimeError(wanted.error)
    failures, worst = list[str](), 0
    for trial in range(trials):
        place = run_folder.create_run(folder / "runs", TrainJob(recipe=asked), f"t{trial}")
        lost = interrupt_run(place, random.uniform(0, seconds))
        worst = max(worst, lost)
        failures.append(run_error(read_run_state(place), wanted, lost))
    ours = count_trials(failures)
    ours = TrialCount(ours.n, ours.failures, ours.worst or f"(at most {worst} steps made twice)")
    return Proof(
        "No run is lost, and its end is the undisturbed one", ours, "stock saving", stock_saves(folder, trials)
    )


def interrupt_run(run_dir: Path, after: float) -> int:
    """Kill the worker after so many seconds, go on to the end, and say how many steps were made twice."""
    child = fork_worker(run_dir)
    end = time.monotonic() + after
    while time.monotonic() < end and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.002)
    if time.monotonic() >= end:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    before = len(read_run_state(run_dir).points)
    if read_run_state(run_dir).phase is not Phase.DONE:
        finish_run_in_worker(run_dir)
    lines = (run_dir / "events.jsonl").read_text(encoding="utf-8").count('"kind": "TrainStep"')
    return lines - len(read_run_state(run_dir).points) if before else 0


def run_error(view: RunState, wanted: RunState, lost: int) -> str:
    """What is wrong with a run at its end, or nothing."""
    if view.phase is not Phase.DONE:
        return f"{view.phase}: {view.error}"
    one, other = ([(point.stage, point.step, point.loss) for point in run.points] for run in (view, wanted))
    if one != other:
        return "other losses than undisturbed"
    return "" if lost <= save_interval(wanted) else f"{lost} steps made twice"


def save_interval(view: RunState) -> int:
    """The most steps between two planned saves. New bests are saved too, but how many are found depends on time."""
    stages = {point.stage: point.total for point in view.points}
    saves = (
        [0, *(step for step in range(1, total + 1) if is_spaced_step(step, total, SAVES_PER_STAGE))]
        for total in stages.values()
    )
    return max(b - a for steps in saves for a, b in pairwise(steps))


def fork_worker(run_dir: Path) -> int:
    """A worker in a fork of this process, which has imported the libraries and computed nothing yet. Its process id."""
    from trainer_core.worker import restart, runner, warm

    def work() -> int:
        warm.redirect_output(run_dir)
        return runner.main(run_dir, runner.load_entry_point)

    return restart.fork_child(work)


def finish_run_in_worker(run_dir: Path) -> None:
    os.waitpid(fork_worker(run_dir), 0)


def stock_saves(folder: Path, trials: int) -> TrialCount:
    """Saving as the stock trainer does it, files written in place one after the other, killed at a random moment in it."""
    import torch
    from safetensors.torch import save_file

    random, place = Random(5), folder / "stock"
    weights = {"weight": torch.randn(1000, 1000)}

    def write(step: int) -> None:
        target = place / f"checkpoint-{step}"
        target.mkdir(parents=True)
        save_file(weights, target / "adapter_model.safetensors")
        torch.save({"state": torch.randn(2, 1000, 1000)}, target / "optimizer.pt")

    began = time.monotonic()
    write(0)
    seconds, lost = time.monotonic() - began, 0
    for trial in range(1, trials + 1):
        child = os.fork()
        if child == 0:
            write(trial)
            os._exit(0)
        time.sleep(random.uniform(0, 1.2 * seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        newest = place / f"checkpoint-{trial}"
        lost += newest.exists() and not is_loadable(newest)
    return TrialCount(trials, lost)
