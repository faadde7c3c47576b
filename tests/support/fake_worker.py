"""A worker that trains nothing: `python -m tests.support.fake_worker STEPS_PER_SECOND RUN_DIR` speaks the real protocol.

How it behaves is the run's name:
fails     a UserError in mid-DPO        bug       an exception in mid-SFT
killed    SIGKILL in mid-SFT            noload    trains, but Compare cannot load
unplugged its card is lost in mid-SFT
crashes   SIGSEGV in mid-SFT            hangs     makes no step after SFT's fifth, whatever is asked
hostile   its answers try to break the page      twins     all lanes answer the same
leaks     prints its environment and fails with it      crams     has no memory for SFT's sixth step, whatever is tried
slow      4 steps a second              trivial   every pair is right from DPO's second step on
any other: SFT and DPO to the end
With "kept" in its name it has a keeper, as real workers have, and a Compare worker has not; with "spawned" as on Windows.
With "slowly" in its name it makes 4 steps a second, whatever else it does.
With "waits" in its name it begins when a file named `go` lies in its folder, with "holds" it takes its first step then.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tests.support.fake_export import play_export
from tests.support.fake_import import play_import
from trainer_core.config.jobs import CompareJob, ExportJob, ImportJob, Job, Lane, TrainJob
from trainer_core.errors import ModelError, TrainingError
from trainer_core.methods.steps import is_spaced_step
from trainer_core.runs import checkpoints, compare_requests
from trainer_core.runs.compare_events import (
    AdapterCheck,
    AnswersFinished,
    AnswerStats,
    ConfidenceInterval,
    ForgettingCheck,
    LaneAdjusted,
    LaneScore,
    LanesLoaded,
    PromptStarted,
    ScoresReady,
    ScoringFailed,
    ScoringProgress,
    TextChunk,
    TokenHeatmap,
    TokenLogprobs,
)
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import (
    AdapterSaved,
    CheckpointSaved,
    DataPrepared,
    Evaluation,
    Phase,
    PhaseChanged,
    ReferenceCheck,
    SampleAnswer,
    SampleAnswers,
    SettingChanged,
    Stage,
    StageResumed,
    StepsPlanned,
    TrainStep,
)
from trainer_core.runs.run_state import read_run_state
from trainer_core.system.durable import write_atomically
from trainer_core.texts import verbatim
from trainer_core.worker import runner

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
PARTS = 5
STEPS = {"sft": 24, "dpo": 20}
BEHAVIOURS = (
    "crams",
    "leaks",
    "fails",
    "bug",
    "unplugged",
    "killed",
    "crashes",
    "hangs",
    "noload",
    "hostile",
    "slow",
    "trivial",
    "twins",
)
SLOW = 4.0
EVALUATE_EVERY = 6


def held_out_metrics(step: TrainStep) -> dict[str, float]:
    return {name: value for name, value in step.metrics.items() if name in ("accuracy", "margin")}


class Script:
    """The heavy half of a worker, played."""

    def __init__(self, job: Job, speed: float):
        self.behaviour = behaviour(job)
        slowly = self.behaviour == "slow" or (isinstance(job, TrainJob) and "slowly" in job.recipe.name)
        self.pause = 1 / (SLOW if slowly else speed)
        self.random = random.Random(7)
        self.scored = False

    def train(self, job: TrainJob, run_dir: Path, emit: EventLog, wants: StopRequests) -> Phase:
        stages = job.recipe.method.stages
        print("fake worker: loading", flush=True)
        notes = (
            "2 of 352 pairs in sample_pairs.jsonl left out (line 3, line 17): chosen and rejected are the same text.",
        )
        emit(DataPrepared(339, 335, 17, "0" * 64, notes))
        emit(StepsPlanned({stage: STEPS[stage] for stage in stages}))
        wait_for_go("waits", run_dir, wants)
        before = read_run_state(run_dir)
        done = {point.stage: point.step for point in before.points}
        for stage in stages:
            if done.get(stage, 0) == STEPS[stage]:
                continue
            emit(PhaseChanged(Phase.LOADING, verbatim(f"Loading the base model for {stage.upper()}")))
            if stage == stages[0]:
                emit(SettingChanged("precision", "auto", "fp32", verbatim("The processor computes in 32 bit.")))
            time.sleep(2 * self.pause)
            emit(PhaseChanged(Phase.TRAINING, stage=stage))
            if left := self.steps(run_dir, stage, emit, wants, done.get(stage, 0)):
                return left
        return Phase.DONE

    def checkpoint(self, run_dir: Path, stage: Stage, step: int, emit: EventLog) -> None:
        """Files as a real checkpoint's, small ones, and the answers at that step."""
        emit(self.sampled(stage, step))
        if step < STEPS[stage]:
            folder = checkpoints.checkpoint_dir(run_dir, stage, step)
            write_adapter(folder, stage, step)
            emit(CheckpointSaved(stage, step, folder.relative_to(run_dir).as_posix(), 1_000, 0.1))

    def sampled(self, stage: Stage, step: int) -> SampleAnswers:
        """Answers that grow with the steps, so that each point has its own."""
        words = (HOSTILE if self.behaviour == "hostile" else ANSWERS[stage.upper() if step else "Base"]).split(" ")
        said = [f"{stage} {step}: {' '.join(words[: 3 + step])}" if step else " ".join(words) for _ in range(2)]
        prompts = ("What about plants?", "<b>Why</b> is it so?")
        samples = (SampleAnswer(prompt, text, 20, step > 0) for prompt, text in zip(prompts, said, strict=True))
        return SampleAnswers(stage, step, tuple(samples), 0.2)

    def steps(self, run_dir: Path, stage: Stage, emit: EventLog, wants: StopRequests, before: int) -> Phase | None:
        """Every step of a stage after those made before. How it was left early, or None. Stopped, the adapter is saved."""
        total = done = STEPS[stage]
        if not read_run_state(run_dir).sampled:
            emit(self.sampled(stage, 0))
            wait_for_go("holds", run_dir, wants)
        if before:
            emit(StageResumed(stage, before))
        for step in range(before + 1, total + 1):
            time.sleep(self.pause)
            if not before or self.behaviour == "crams":
                self.misbehave(stage, step)
            if stage == "dpo" and step == 1:
                copy = "frozen copy of the SFT adapter"
                emit(ReferenceCheck("dpo", math.log(2), math.log(2), 0.0, 0.0, 1e-3, "the SFT adapter", copy, True))
            emit(made := self.step(stage, step, total))
            if step % EVALUATE_EVERY == 0:
                emit(Evaluation(stage, step, made.loss + 0.04, held_out_metrics(made), 17, 0.1))
            if is_spaced_step(step, total, PARTS):
                self.checkpoint(run_dir, stage, step, emit)
            if wants.pause.is_set() and step < total:
                return Phase.PAUSED
            if wants.stop.is_set():
                done = step
                break
        emit(PhaseChanged(Phase.SAVING, verbatim(f"Saving the {stage.upper()} adapter")))
        write_adapter(run_dir / f"adapter-{stage}", stage, done)
        emit(AdapterSaved(stage, f"adapter-{stage}", 5_000_000, done))
        return Phase.STOPPED if done < total else None

    def misbehave(self, stage: Stage, step: int) -> None:
        match self.behaviour, stage, step:
            case "fails", "dpo", 8:
                raise TrainingError(
                    verbatim("The loss became NaN at DPO step 8. Halve the learning rate (now 5e-6) and start again.")
                )
            case "crams", "sft", 6:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            case "leaks", "sft", 6:
                print(f"the environment is {dict(os.environ)}", flush=True)
                raise ValueError(f"401 for the token {os.environ['HF_TOKEN']} {os.environ.get('TUNEBENCH_JUDGE_KEY')}")
            case "bug", "sft", 6:
                raise ValueError("<b>something</b> nobody thought of")
            case "unplugged", "sft", 6:
                lost = "CUDA error: unspecified launch failure\nCompile with `TORCH_USE_CUDA_DSA` to enable assertions."
                raise RuntimeError("a hook failed") from RuntimeError(lost)
            case "killed", "sft", 6:
                os.kill(os.getpid(), signal.SIGKILL)
            case "crashes", "sft", 6:
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hangs", "sft", 6:
                time.sleep(600)

    def step(self, stage: Stage, step: int, total: int) -> TrainStep:
        noise, way = self.random.gauss(0, 1) * (step > 1), (step - 1) / total
        loss = 1.1 + 1.6 * math.exp(-4 * way) if stage == "sft" else math.log(2) * math.exp(-1.1 * way)
        common = TrainStep(
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
        return replace(common, metrics={"margin": 1.6 * way + 0.08 * noise, "accuracy": accuracy, **sides})

    def run(self, job: Job, run_dir: Path, emit: EventLog, wants: StopRequests) -> Phase:
        if isinstance(job, TrainJob):
            return self.train(job, run_dir, emit, wants)
        if isinstance(job, ExportJob):
            return play_export(job, emit, wants, self.pause)
        if isinstance(job, ImportJob):
            return play_import(job, run_dir, emit)
        return self.serve(job, run_dir, emit, compare_requests.RequestQueue(sys.stdin))

    def serve(self, job: CompareJob, run_dir: Path, emit: EventLog, inbox: compare_requests.RequestQueue) -> Phase:
        emit(PhaseChanged(Phase.LOADING, verbatim("Loading the base and its adapters")))
        time.sleep(4 * self.pause)
        if self.behaviour == "noload":
            raise ModelError(verbatim("The adapter in adapter-dpo has no adapter_model.safetensors. Train again."))
        emit(LanesLoaded(tuple(proof(lane) for lane in job.lanes)))
        emit(PhaseChanged(Phase.READY, verbatim(f"{len(job.lanes)} lanes on one base")))
        while (request := inbox.next_request()) is not None:
            match request:
                case compare_requests.GenerateRequest():
                    self.answer(job, request, emit, inbox)
                case compare_requests.AdjustLaneRequest():
                    lane = next(lane for lane in job.lanes if lane.name == request.lane)
                    emit(LaneAdjusted(request.id, replace(proof(lane), strength=request.strength, share=request.share)))
                case compare_requests.HeatmapRequest():
                    words = [word + " " for word in request.answer.split(" ")]
                    pieces = tuple(TokenLogprobs(word, -1.0, -1.0 - (at % 5 - 2)) for at, word in enumerate(words))
                    emit(TokenHeatmap(request.id, request.lanes, pieces))
                case compare_requests.ScoreRequest():
                    self.score(job, request, emit, inbox)
        return Phase.STOPPED

    def score(
        self,
        job: CompareJob,
        request: compare_requests.ScoreRequest,
        emit: EventLog,
        inbox: compare_requests.RequestQueue,
    ) -> None:
        for done in range(20):
            emit(ScoringProgress(verbatim("held-out pairs"), 1, 2, done, 20, 20.0 - done))
            # The first one waits for a stop: on a busy machine a page needs seconds to send it.
            wait = 20.0 if done == 10 and not self.scored else 10 * self.pause
            if inbox.cancelled.wait(wait):
                self.scored = True
                emit(ScoringFailed(verbatim("Scoring was stopped.")))
                return
        found = ScoresReady(tuple(lane_score(lane.name, at) for at, lane in enumerate(job.lanes)))
        if request.into:
            write_atomically(Path(request.into), json.dumps(asdict(found)))
        emit(found)

    def answer(
        self,
        job: CompareJob,
        ask: compare_requests.GenerateRequest,
        emit: EventLog,
        inbox: compare_requests.RequestQueue,
    ) -> None:
        names = list(ask.lanes or (lane.name for lane in job.lanes))
        emit(PromptStarted(ask.id, ask.messages[-1].content, tuple(names)))
        texts = {name: self.text(name, ask) for name in names}
        words = {name: [word + " " for word in text.split(" ")] for name, text in texts.items()}
        for at in range(max(map(len, words.values()))):
            if inbox.cancelled.is_set():
                break
            emit(TextChunk(ask.id, {name: said[at] for name, said in words.items() if at < len(said)}))
            time.sleep(self.pause)
        ends = {name: AnswerStats(len(said), 0.02 * len(said), name != "Base") for name, said in words.items()}
        emit(AnswersFinished(ask.id, ends, inbox.cancelled.is_set()))

    def text(self, lane: str, ask: compare_requests.GenerateRequest) -> str:
        """Adapters answer by their names, so that a turned or a second one is told apart; twins all say the same."""
        known = ANSWERS.get(lane[:3] if lane not in ANSWERS else lane, ANSWERS["Base"])
        before = len(ask.own.get(lane, ask.messages)) // 2
        later = f" This is turn {before + 1}." if before else ""
        return {"hostile": HOSTILE, "twins": ANSWERS["SFT"]}.get(self.behaviour, known + later)


def lane_score(name: str, at: int) -> LaneScore:
    """Each lane better than the one before on the pairs, and the last one forgetful."""
    share = ConfidenceInterval(0.5 + 0.1 * at, 0.4 + 0.1 * at, 0.6 + 0.1 * at, 40)
    lost = ForgettingCheck(9, 0, ConfidenceInterval(-0.225, -0.3, -0.1, 40), 0.0039) if at == 2 else None
    return LaneScore(name, share, share, share, share, general=share, forgetting=lost)


def wait_for_go(mark: str, run_dir: Path, wants: StopRequests) -> None:
    """A run with that mark in its name waits for a file named `go`."""
    while mark in run_dir.name and not (run_dir / "go").exists() and not wants.should_stop:
        time.sleep(0.01)


def write_adapter(folder: Path, stage: Stage, step: int) -> None:
    """A sealed folder whose weights are its name."""
    with checkpoints.staged_write(folder, checkpoints.CheckpointSource(stage, STEPS[stage], "0" * 64), step) as staging:
        for name in checkpoints.ADAPTER_FILES:
            (staging / name).write_text(f"{stage} {step}")


def proof(lane: Lane) -> AdapterCheck:
    return AdapterCheck(lane.name, "3f9a12cd" * 8 if lane.adapter else "", 4.2 if lane.adapter else 0.0, lane.strength)


def behaviour(job: Job) -> str:
    """By the name of the run, which a comparison finds in the adapters' folder."""
    if isinstance(job, ExportJob | ImportJob):
        return "ok"
    name = job.recipe.name if isinstance(job, TrainJob) else Path(job.lanes[-1].adapter or "").parent.name
    return next((one for one in BEHAVIOURS if one in name), "ok")


def main() -> int:
    speed, run_dir = float(sys.argv[1]), Path(sys.argv[2]).resolve()
    work = partial(runner.main, find_work=lambda job: Script(job, speed).run)
    if "kept" in run_dir.name:
        return runner.run_with_forks(run_dir, work)
    if "spawned" in run_dir.name:
        return runner.run_worker(run_dir, work, forks=False)
    while (code := work(run_dir)) == runner.EXIT_RESTART:
        pass
    return code


if __name__ == "__main__":
    sys.exit(main())
