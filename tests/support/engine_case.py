"""Runs training jobs in a process of its own: unsloth patches the process it is imported in, and must not meet pytest's.

`python -m tests.support.engine_case [fault:]RUN_DIR ...`. A fault goes into the DPO reference of that run: corrupt (before
training), unfrozen (before training), drift (after the weights were checked, so that only the numbers tell). other-default and
other-ref put other weights into that adapter each time DPO is resumed. nan8 makes the loss of DPO's step 8 and of all later
ones NaN; weighed changes nothing and writes down what checkpoints take. Or it happens once,
where an event says that a point is reached: kill@dpo.3, oomkill@sft.3 (the kernel counts it as its own), pause@sft.2,
cuda@dpo.1, damage@dpo.3 (of the SFT adapter, and a kill); or each time: cap300@sft.start leaves the process 300 MB more memory
than it has then. One of each kind: nan5,stop@dpo.5.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path

import psutil
import torch
from transformers import TrainerCallback

from trainer_core.runs import checkpoints
from trainer_core.runs.control import StopRequests
from trainer_core.runs.event_log import EventLog
from trainer_core.runs.events import AdapterSaved, CheckpointSaved, Evaluation, Phase, PhaseChanged, TrainStep
from trainer_core.worker import restart, runner


def parts(fault: str, job):
    """The real engine, its DPO trainer built with the fault."""
    from trainer_core import training
    from trainer_core.training.trainers import build_trainer

    def trainer(stage, *args):
        built = build_trainer(stage, *args)
        if stage == "orpo" and lasting == "weights":
            built.beta *= 2  # what TRL computes is no longer what the recipe says
        if stage != "dpo":
            return built
        if lasting == "drift":
            built.add_callback(Drift())
        elif lasting == "weighed":
            built.add_callback(Weighed(built))
        elif lasting.startswith("other-"):
            built.add_callback(OtherWeights(lasting.removeprefix("other-")))
        elif lasting.startswith("nan"):
            built.add_callback(Spoilt(int(lasting.removeprefix("nan"))))
        else:
            spoil(built.model, lasting)
        return built

    lasting, passing = (",".join(one for one in fault.split(",") if ("@" in one) == once) for once in (False, True))
    train = partial(training.train, build=trainer) if lasting else training.train
    return partial(interrupted, train, passing) if passing else train


def interrupted(train, fault: str, job, run_dir: Path, emit: EventLog, wants: StopRequests):
    """The real training with something that happens at one step, once in the life of the run."""
    what, _, where = fault.partition("@")
    stage, _, step = where.partition(".")
    happened = run_dir / "happened"

    def say(event) -> None:
        emit(event)
        if step == "start" and isinstance(event, PhaseChanged) and event.stage == stage:
            cap(int(what.removeprefix("cap")))
        if reached(event, step) and (getattr(event, "stage", stage) == stage) and not happened.exists():
            happened.touch()
            happen(what, wants, run_dir)

    return train(job, run_dir, say, wants)


def reached(event, step: str) -> bool:
    """Is this the word that a point is reached: a step by its number, or a kind of event by its name?"""
    if step == "saving":
        return isinstance(event, PhaseChanged) and event.phase is Phase.SAVING
    kinds = {"saved": AdapterSaved, "evaluated": Evaluation, "checkpointed": CheckpointSaved}
    return isinstance(event, kinds[step]) if step in kinds else isinstance(event, TrainStep) and str(event.step) == step


def cap(megabytes: int) -> None:
    """A limit that the allocator really meets."""
    size = psutil.Process().memory_info().vms + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def happen(what: str, wants: StopRequests, run_dir: Path) -> None:
    match what:
        case "damage":
            file = run_dir / "adapter-sft/adapter_model.safetensors"
            file.write_bytes(file.read_bytes()[:-1] + b"!")
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill" | "oomkill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "pause":
            wants.pause.set()
        case "stop":
            wants.stop.set()
        case _:
            raise RuntimeError(WORDINGS[what])


WORDINGS = {
    "torch": "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.65 GiB",
    "cuda": "CUDA error: out of memory",
    "cublas": "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cudnn": "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cpu": "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes.",
    "bnb": "Error out of memory at line 380 in file /src/csrc/pythonInterface.cpp",
}


class Spoilt(TrainerCallback):
    """The loss of one step and of all after it is NaN, as after an overflow."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **_):
        if state.global_step == self.step - 1:
            for weight in filter(lambda one: one.requires_grad, model.parameters()):
                weight.data.fill_(torch.nan)


class Weighed(TrainerCallback):
    """Writes down the bytes that were asked for before a checkpoint, and those that its adapter and optimiser took."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_save(self, args, state, control, **_):
        from trainer_core.training.checkpointing import adapter_bytes, optimiser_bytes

        shelf = self.trainer.shelf
        folder = checkpoints.checkpoint_dir(shelf.run_dir, shelf.stage, state.global_step)
        took = [(folder / name).stat().st_size for name in ("adapter_model.safetensors", "optimizer.pt")]
        asked = [adapter_bytes(self.trainer), optimiser_bytes(self.trainer)]
        (shelf.run_dir / "weighed").write_text(json.dumps([asked, took]))


class Drift(TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **_):
        spoil(model, "corrupt")


class OtherWeights(TrainerCallback):
    """An adapter that is not what the checkpoint holds, once that was loaded."""

    def __init__(self, adapter: str):
        self.adapter = adapter

    def on_train_begin(self, args, state, control, model=None, **_):
        if state.global_step:
            spoil(model, "corrupt", self.adapter)


def spoil(model, fault: str, adapter: str = "ref") -> None:
    for name, weight in model.named_parameters():
        if f".{adapter}." in name and "lora_B" in name:
            if fault == "unfrozen":
                weight.requires_grad_(True)
            else:
                weight.data.add_(torch.randn_like(weight), alpha=0.5)


def lived(fault: str, folder: Path) -> None:
    """A run from first to last. Its workers are forks of this process, which has imported the libraries and computed nothing."""
    rising = itertools.count().__next__
    restart.run_with_restarts(
        partial(runner.main, folder, partial(parts, fault)),
        partial(runner.on_oom_kill, folder),
        rising if fault.startswith("oomkill") else lambda: 0,
    )


if __name__ == "__main__":
    from trainer_core import training  # noqa: F401

    for argument in sys.argv[1:]:
        fault, _, folder = argument.rpartition(":")
        lived(fault, Path(folder))
