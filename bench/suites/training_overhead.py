"""What the app adds to a training: a run under the app beside the same training as a bare Unsloth script."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import psutil

from bench.harness import fixtures, models
from bench.harness.measure import process_seconds, wait_until
from bench.harness.result import BenchRow, Device, Target, row_against_peer
from bench.harness.served_app import ServedApp
from bench.suites.live_page import open_browser_page
from trainer_core.config.recipe import Data, Lora, MemoryOptions, MethodChain, Recipe
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.sft import Sft
from trainer_core.methods.steps import SAVES_PER_STAGE
from trainer_core.runs import heartbeat
from trainer_core.runs.workspace import Workspace
from trainer_core.system import project

QUESTION = "What do the app, its events and its checkpoints cost a training, and how soon does it begin?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[BenchRow, ...] = ()
LIMIT_SECONDS = 240.0
WARM_STEPS = 3
"""Steps before the measured ones: the first ones are slower."""
STRIDE = 2
"""Steps that one training makes while the other is halted: both meet the same machine, whose pace drifts by 7 % in a minute."""
WAIT_SECONDS = 15.0
"""How long a user reads the Start tab before the click."""
STAGE_STEPS, STAGE_SECONDS = 1000, 600.0
"""The stage that is begun, and left after a few steps: no checkpoint falls into those. One of ten minutes is what counts."""


@dataclass
class TimedTraining:
    """A training at work, from its start on.

    Args:
        made: how many steps it has told of.
        spent: processor seconds that it has cost, the app's with it.
        process: the one that trains.
    """

    made: Callable[[], int]
    spent: Callable[[], float]
    process: Callable[[], psutil.Process]
    began: float = field(default_factory=time.monotonic)
    first_step: float = 0.0
    """Seconds from the start."""
    steps: int = 0
    cost: float = 0.0
    """Of all strides: the steps made, and processor seconds."""
    checkpoint: float = 0.0
    """Seconds of the one that it wrote at its end."""

    def warm_up(self) -> None:
        wait_until(self.made, LIMIT_SECONDS, "the first step")
        self.first_step = time.monotonic() - self.began
        wait_until(lambda: self.made() >= WARM_STEPS, LIMIT_SECONDS, "the warm-up")
        self.process().suspend()

    def run_stride(self) -> None:
        """A few steps, and halted again."""
        begun, before = self.made(), self.spent()
        self.process().resume()
        wait_until(lambda: self.made() >= begun + STRIDE, LIMIT_SECONDS, "the next steps")
        self.process().suspend()
        self.steps += self.made() - begun
        self.cost += self.spent() - before

    @property
    def steps_per_second(self) -> float:
        """Steps per processor second, between checkpoints."""
        return self.steps / self.cost

    @property
    def whole_pace(self) -> float:
        """The same over a stage of ten minutes with its checkpoints."""
        return self.steps_per_second * STAGE_SECONDS / (STAGE_SECONDS + SAVES_PER_STAGE * self.checkpoint)


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    os.environ["OMP_NUM_THREADS"] = "1"  # one thread each, so that processor time says what was computed
    strides, turns = (2, 1) if tiny else (4, 2)
    model, chats = models.base_model(place, tiny), place / "chats.jsonl"
    fixtures.write_chats(chats, 200, (60,))
    subprocess.run(
        [sys.executable, "-c", "import unsloth, trl"], check=True
    )  # brings the libraries into the disk's cache
    with ServedApp(place / "app") as app, open_browser_page(app):
        with train_in_app(app, model, chats, ahead=False) as cold:
            cold.warm_up()
        pairs = [side_by_side(app, model, chats, strides) for _ in range(turns)]
    warm, script = map(list, zip(*pairs, strict=True))
    return overhead_rows(warm, cold, script)


def side_by_side(app: ServedApp, model: Path, chats: Path, strides: int) -> tuple[TimedTraining, TimedTraining]:
    """The app's and the script's, each started with nothing else at work, then in turns."""
    with train_in_app(app, model, chats, ahead=True) as warm:
        warm.warm_up()
        with train_in_script(model, chats) as script:
            script.warm_up()
            for _ in range(strides):
                warm.run_stride()
                script.run_stride()
    return warm, script


def overhead_rows(warm: list[TimedTraining], cold: TimedTraining, script: list[TimedTraining]) -> list[BenchRow]:
    saved = median(one.checkpoint for one in warm)
    before = [one.first_step for one in script]
    bare_ratio = median(one.steps_per_second / other.steps_per_second for one, other in zip(warm, script, strict=True))
    said = (
        f"One thread, the page open, {warm[0].steps} steps of each in strides of {STRIDE}; the app's process is counted with the "
        f"worker. Held-out checks and samples are off: a script has none. Between checkpoints {bare_ratio:.3f}; each of the "
        f"{SAVES_PER_STAGE} a stage takes {saved:.2f} s."
    )
    return [
        row_against_peer(
            "G3",
            "SFT of ten minutes under the app ÷ bare script",
            "steps/CPU-s",
            [one.whole_pace for one in warm],
            [one.steps_per_second for one in script],
            target=Target("ratio", "≥", 0.99),
            note=said,
        ),
        row_against_peer(
            "G8",
            "Click to first step, a worker waiting ÷ cold script",
            "s",
            [one.first_step for one in warm],
            before,
            target=Target("ratio", "≤", 0.6),
            note=f"The user has been at Start for {WAIT_SECONDS:g} s.",
        ),
        row_against_peer("G8", "Click to first step, nothing warm ÷ cold script", "s", [cold.first_step], before[:1]),
    ]


def overhead_recipe(model: Path, chats: Path) -> Recipe:
    """The settings of `bare`."""
    sft = Sft(
        max_steps=STAGE_STEPS, batch_size=2, accumulation=1, max_length=128, evaluations=0, optimiser="adamw_torch"
    )
    return Recipe(
        name="bench",
        model=str(model),
        precision="fp32",
        method=MethodChain("sft"),
        data=Data(pairs=None, chat=str(chats)),
        lora=Lora(rank=16, alpha=16),
        sft=sft,
        memory=MemoryOptions(probe="off"),
        sample_tokens=0,
    )


@contextmanager
def train_in_app(app: ServedApp, model: Path, chats: Path, ahead: bool) -> Iterator[TimedTraining]:
    """A run in the app's workspace, which the app watches; the app's processor time counts too."""
    supervisor = Supervisor(Workspace(app.workspace), device="cpu", ahead=ahead).watch()
    if ahead:
        supervisor.spawner.preload_for(str(model))
        time.sleep(WAIT_SECONDS)

    def worker() -> psutil.Process:
        return worker_process(supervisor, run_id)

    began = time.monotonic()
    run_id = supervisor.control.start(overhead_recipe(model, chats))
    training = TimedTraining(
        made=partial(count_train_steps, supervisor, run_id),
        spent=lambda: app.processor_seconds + process_seconds(worker()),
        process=worker,
        began=began,
    )
    yield training
    worker().resume()
    supervisor.control.stop(run_id)
    wait_until(
        lambda: count_train_steps(supervisor, run_id) and not supervisor.registry.run_state(run_id).phase.is_active,
        LIMIT_SECONDS,
        "the end",
    )
    (saved,) = supervisor.registry.run_state(run_id).checkpoints
    training.checkpoint = saved.seconds
    supervisor.close()


def worker_process(supervisor: Supervisor, run_id: str) -> psutil.Process:
    beat = heartbeat.read_heartbeat(supervisor.registry.run_dir(run_id))
    assert beat, "no worker yet"
    return psutil.Process(beat.pid)


def count_train_steps(supervisor: Supervisor, run_id: str) -> int:
    """How many steps a run has told of by now. A run that failed ends the bench with its reason."""
    supervisor.registry.refresh()
    view = supervisor.registry.run_state(run_id)
    assert view.phase.value != "failed", view.error
    return len(view.points)


@contextmanager
def train_in_script(model: Path, chats: Path) -> Iterator[TimedTraining]:
    """The script in its own process; its lines are counted."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        began = time.monotonic()
        command = [sys.executable, "-m", "bench.harness.bare_unsloth", model, chats, STAGE_STEPS, 2, 128]
        process = subprocess.Popen([*map(str, command)], cwd=project.PROJECT, stdout=log.file)
        script = psutil.Process(process.pid)

        def made() -> int:
            assert process.poll() in (None, 0), f"the script ended with code {process.poll()}"
            return sum(line.startswith("step ") for line in Path(log.name).read_text(encoding="utf-8").splitlines())

        try:
            yield TimedTraining(made, lambda: process_seconds(script), lambda: script, began)
        finally:
            process.kill()
            process.wait(LIMIT_SECONDS)
