"""What the app adds to a training: a run under the app beside the same training as a bare Unsloth script."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import psutil

from bench import make, models
from bench.live import opened
from bench.measure import until
from bench.result import Device, Row, Target, two_sided
from bench.served import Served, served
from trainer_core import runs
from trainer_core.config import Data, Lora, Memory, Method, Recipe, Sft
from trainer_core.plan import PARTS
from trainer_core.supervisor import Supervisor

QUESTION = "What do the app, its events and its checkpoints cost a training, and how soon does it begin?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[Row, ...] = ()
LIMIT_SECONDS = 240.0
WARM_STEPS = 3
"""Steps before the measured ones: the first ones are slower."""
WAIT_SECONDS = 15.0
"""How long a user reads the Start tab before the click."""


STAGE_STEPS, STAGE_SECONDS = 1000, 600.0
"""The stage that is begun, and left after a few steps: no checkpoint falls into those. One of ten minutes is what counts."""


@dataclass(frozen=True)
class Course:
    """One training: seconds from the start to the first step, steps per CPU-second after the warm-up, a checkpoint's seconds."""

    first_step: float
    pace: float
    checkpoint: float = 0.0

    @property
    def whole_pace(self) -> float:
        """Over a stage of ten minutes with its checkpoints."""
        return self.pace * STAGE_SECONDS / (STAGE_SECONDS + PARTS * self.checkpoint)


def run(device: Device, tiny: bool) -> list[Row]:
    os.environ["OMP_NUM_THREADS"] = "1"  # one thread each, so that processor time says what was computed
    steps, turns = (5, 1) if tiny else (10, 3)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        model, chats = models.base(place, tiny), place / "chats.jsonl"
        make.chats(chats, 200, (60,))
        subprocess.run(
            [sys.executable, "-c", "import unsloth, trl"], check=True
        )  # brings the libraries into the disk's cache
        with served(place / "app") as app, opened(app):
            cold = ours(app, model, chats, steps, ahead=False)
            pairs = [(ours(app, model, chats, steps, ahead=True), bare(model, chats, steps)) for _ in range(turns)]
    warm, script = map(list, zip(*pairs, strict=True))
    return rows(warm, cold, script)


def rows(warm: list[Course], cold: Course, script: list[Course]) -> list[Row]:
    pace = [one.whole_pace for one in warm], [one.pace for one in script]
    before = [one.first_step for one in script]
    bare_ratio = median(one.pace / other.pace for one, other in zip(warm, script, strict=True))
    saved = median(one.checkpoint for one in warm)
    said = (
        "One thread, the page open; the app's process is counted with the worker. Held-out checks and samples are off: a script "
        f"has none. Between checkpoints {bare_ratio:.3f}; each of the {PARTS} a stage takes {saved:.2f} s."
    )
    return [
        two_sided(
            "G3",
            "SFT of ten minutes under the app ÷ bare script",
            "steps/CPU-s",
            *pace,
            target=Target("ratio", "≥", 0.99),
            note=said,
        ),
        two_sided(
            "G8",
            "Click to first step, a worker waiting ÷ cold script",
            "s",
            [one.first_step for one in warm],
            before,
            target=Target("ratio", "≤", 0.6),
            note=f"The user has been at Start for {WAIT_SECONDS:g} s.",
        ),
        two_sided("G8", "Click to first step, nothing warm ÷ cold script", "s", [cold.first_step], before[:1]),
    ]


def recipe(model: Path, chats: Path) -> Recipe:
    """The settings of `bare`."""
    sft = Sft(
        max_steps=STAGE_STEPS, batch_size=2, accumulation=1, max_length=128, evaluations=0, optimiser="adamw_torch"
    )
    return Recipe(
        name="bench",
        model=str(model),
        precision="fp32",
        method=Method.SFT,
        data=Data(pairs=None, chat=str(chats)),
        lora=Lora(rank=16, alpha=16),
        sft=sft,
        memory=Memory(probe="off"),
        sample_tokens=0,
    )


def ours(app: Served, model: Path, chats: Path, steps: int, ahead: bool) -> Course:
    """A run in the app's workspace, which the app watches; the app's processor time counts too."""
    supervisor = Supervisor(runs.Workspace(app.workspace), device="cpu", ahead=ahead).watch()
    if ahead:
        supervisor.expect(str(model))
        time.sleep(WAIT_SECONDS)
    began = time.monotonic()
    run_id = supervisor.start(recipe(model, chats))

    made = partial(steps_made, supervisor, run_id)

    def spent() -> float:
        beat = runs.read_heartbeat(supervisor.run_dir(run_id))
        return app.processor_seconds + (processor(beat.pid) if beat else 0.0)

    course = followed(made, spent, began, steps)
    supervisor.stop(run_id)
    until(lambda: made() and not supervisor.run(run_id).phase.active, LIMIT_SECONDS, "the end of the run")
    (saved,) = supervisor.run(run_id).checkpoints
    supervisor.close()
    return replace(course, checkpoint=saved.seconds)


def steps_made(supervisor: Supervisor, run_id: str) -> int:
    """How many steps a run has told of by now. A run that failed ends the bench with its reason."""
    supervisor.look()
    view = supervisor.run(run_id)
    assert view.phase.value != "failed", view.error
    return len(view.points)


def bare(model: Path, chats: Path, steps: int) -> Course:
    """The script in its own process; its lines are counted."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        began = time.monotonic()
        command = [sys.executable, "-m", "bench.bare", model, chats, STAGE_STEPS, 2, 128]
        process = subprocess.Popen([*map(str, command)], cwd=runs.PROJECT, stdout=log.file)

        def made() -> int:
            assert process.poll() in (None, 0), f"the script ended with code {process.poll()}"
            return sum(line.startswith("step ") for line in Path(log.name).read_text(encoding="utf-8").splitlines())

        course = followed(made, lambda: processor(process.pid), began, steps)
        process.kill()
        process.wait(LIMIT_SECONDS)
    return course


def processor(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def followed(made: Callable[[], int], spent: Callable[[], float], began: float, steps: int) -> Course:
    """Watch the steps come. Processor time is read when the last warm-up step and the last step but one are seen."""
    until(made, LIMIT_SECONDS, "the first step")
    first = time.monotonic() - began
    until(lambda: made() >= WARM_STEPS, LIMIT_SECONDS, "the warm-up")
    begun, before = made(), spent()
    until(lambda: made() >= steps - 1, LIMIT_SECONDS, "the steps")
    after, ended = spent(), made()
    return Course(first, (ended - begun) / (after - before))
