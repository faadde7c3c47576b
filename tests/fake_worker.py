"""A worker that trains nothing: `python -m tests.fake_worker STEPS_PER_SECOND RUN_DIR` speaks the real protocol.

How it behaves is the run's name:
fails     a UserError in mid-DPO        bug       an exception in mid-SFT
killed    SIGKILL in mid-SFT            noload    trains, but Compare cannot load
hostile   its answers try to break the page
slow      4 steps a second              trivial   every pair is right from DPO's second step on
any other: SFT and DPO to the end
"""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from trainer_core import requests, runs, worker
from trainer_core.config import CompareJob, Job, Lane, TrainJob
from trainer_core.errors import ModelError, TrainingError
from trainer_core.events import (
    Answered,
    Asked,
    Changed,
    Evaluated,
    EventLog,
    LaneEnd,
    LaneProof,
    LanesLoaded,
    Phase,
    Plan,
    Prepared,
    Proof,
    Resumed,
    Saved,
    Stage,
    Status,
    Step,
    Text,
    read_view,
)

HOSTILE = (
    '<img src=x onerror="window.pwned=1"> ${window.pwned=1} {{window.pwned=1}} `back` </script>'
    "<script>window.pwned=1</script> **bold** " + "w" * 400 + " مرحبا"
)
ANSWERS = {
    "Base": (
        "Watering plants is an important task. There are many reasons why plants need water, and it is important to "
        "note that different plants need different amounts of water. In conclusion, you should water your plants."
    ),
    "SFT": "Pick one fixed moment, such as Sunday coffee, and water them then. A note on the kettle helps too.",
    "DPO": "Tie it to something you never skip! Water them with your Sunday coffee, and move the thirstiest one "
    "next to the kettle so you cannot miss it.",
}
STEPS = {"sft": 24, "dpo": 20}
BEHAVIOURS = ("fails", "bug", "killed", "noload", "hostile", "slow", "trivial")
SLOW = 4.0
EVALUATE_EVERY = 6


class Script:
    """The heavy half of a worker, played."""

    def __init__(self, job: Job, speed: float):
        self.behaviour = behaviour(job)
        self.pause = 1 / (SLOW if self.behaviour == "slow" else speed)
        self.random = random.Random(7)

    def train(self, job: TrainJob, run_dir: Path, emit: EventLog, wants: runs.Wants) -> Phase:
        stages = job.recipe.method.stages
        print("fake worker: loading", flush=True)
        notes = (
            "2 of 352 pairs in sample_pairs.jsonl left out (line 3, line 17): chosen and rejected are the same text.",
        )
        emit(Prepared(339, 335, 17, "0" * 64, notes))
        emit(Plan({stage: STEPS[stage] for stage in stages}))
        before = read_view(run_dir)
        done = {point.stage: point.step for point in before.points}
        for stage in stages:
            if done.get(stage, 0) == STEPS[stage]:
                continue
            emit(Status(Phase.LOADING, f"Loading the base model for {stage.upper()}"))
            if stage == stages[0]:
                emit(Changed("precision", "auto", "fp32", "The processor computes in 32 bit."))
            time.sleep(2 * self.pause)
            emit(Status(Phase(stage), ""))
            if left := self.steps(stage, emit, wants, done.get(stage, 0)):
                return left
        return Phase.DONE

    def steps(self, stage: Stage, emit: EventLog, wants: runs.Wants, before: int) -> Phase | None:
        """Every step of a stage after those made before. How it was left early, or None. Stopped, the adapter is saved."""
        total = done = STEPS[stage]
        if before:
            emit(Resumed(stage, before))
        for step in range(before + 1, total + 1):
            time.sleep(self.pause)
            if not before:
                self.misbehave(stage, step)
            if stage == "dpo" and step == 1:
                copy = "frozen copy of the SFT adapter"
                emit(Proof("dpo", math.log(2), math.log(2), 0.0, 0.0, 1e-3, "the SFT adapter", copy, True))
            emit(made := self.step(stage, step, total))
            if step % EVALUATE_EVERY == 0:
                emit(Evaluated(stage, step, made.loss + 0.04, made.accuracy, made.margin))
            if wants.pause.is_set() and step < total:
                return Phase.PAUSED
            if wants.stop.is_set():
                done = step
                break
        emit(Status(Phase.SAVING, f"Saving the {stage.upper()} adapter"))
        emit(Saved(stage, f"adapter-{stage}", 5_000_000, done))
        return Phase.STOPPED if done < total else None

    def misbehave(self, stage: Stage, step: int) -> None:
        match self.behaviour, stage, step:
            case "fails", "dpo", 8:
                raise TrainingError(
                    "The loss became NaN at DPO step 8. Halve the learning rate (now 5e-6) and start again."
                )
            case "bug", "sft", 6:
                raise ValueError("<b>something</b> nobody thought of")
            case "killed", "sft", 6:
                os.kill(os.getpid(), signal.SIGKILL)

    def step(self, stage: Stage, step: int, total: int) -> Step:
        noise, way = self.random.gauss(0, 1) * (step > 1), (step - 1) / total
        loss = 1.1 + 1.6 * math.exp(-4 * way) if stage == "sft" else math.log(2) * math.exp(-1.1 * way)
        common = Step(
            stage=stage,
            step=step,
            total=total,
            loss=loss + 0.03 * noise,
            learning_rate=2e-4 * (1 - way),
            grad_norm=1.2,
            seconds=self.pause,
            tokens_per_second=1800 + 60 * noise,
            seconds_left=(total - step) * self.pause,
        )
        if stage == "sft":
            return common
        accuracy = min(1.0, 0.5 + 0.45 * way + 0.06 * noise)
        if self.behaviour == "trivial" and step > 1:
            accuracy = 1.0
        sides = {"chosen": -80.0 - 2 * way + noise, "rejected": -95.0 - 14 * way + noise}
        return replace(common, margin=1.6 * way + 0.08 * noise, accuracy=accuracy, **sides)

    def serve(self, job: CompareJob, run_dir: Path, emit: EventLog, inbox: requests.Inbox) -> Phase:
        emit(Status(Phase.LOADING, "Loading the base and its adapters"))
        time.sleep(4 * self.pause)
        if self.behaviour == "noload":
            raise ModelError("The adapter in adapter-dpo has no adapter_model.safetensors. Train again.")
        emit(LanesLoaded(tuple(proof(lane) for lane in job.lanes)))
        emit(Status(Phase.READY, f"{len(job.lanes)} lanes on one base"))
        while (request := inbox.next()) is not None:
            assert isinstance(request, requests.Ask)
            self.answer(job, request, emit, inbox)
        return Phase.STOPPED

    def answer(self, job: CompareJob, ask: requests.Ask, emit: EventLog, inbox: requests.Inbox) -> None:
        names = [lane.name for lane in job.lanes]
        emit(Asked(ask.id, ask.messages[-1].content, tuple(names)))
        texts = {name: HOSTILE if self.behaviour == "hostile" else ANSWERS[name] for name in names}
        words = {name: [word + " " for word in text.split(" ")] for name, text in texts.items()}
        for at in range(max(map(len, words.values()))):
            if inbox.cancelled.is_set():
                break
            emit(Text(ask.id, {name: said[at] for name, said in words.items() if at < len(said)}))
            time.sleep(self.pause)
        ends = {name: LaneEnd(len(said), 0.02 * len(said), name != "Base") for name, said in words.items()}
        emit(Answered(ask.id, ends, inbox.cancelled.is_set()))


def proof(lane: Lane) -> LaneProof:
    return LaneProof(lane.name, "3f9a12cd" * 8 if lane.adapter else "", 4.2 if lane.adapter else 0.0)


def behaviour(job: Job) -> str:
    """By the name of the run, which a comparison finds in the adapters' folder."""
    name = job.recipe.name if isinstance(job, TrainJob) else Path(job.lanes[-1].adapter or "").parent.name
    return next((one for one in BEHAVIOURS if one in name), "ok")


def main() -> int:
    speed, run_dir = float(sys.argv[1]), Path(sys.argv[2]).resolve()
    return worker.main(run_dir, parts=lambda job: Script(job, speed))


if __name__ == "__main__":
    sys.exit(main())
