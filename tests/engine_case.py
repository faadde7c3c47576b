"""Runs training jobs in a process of its own: unsloth patches the process it is imported in, and must not meet pytest's.

`python -m tests.engine_case [fault:]RUN_DIR ...`, where a fault goes into the DPO reference of that run:
corrupt (before training), unfrozen (before training), drift (after the weights were checked, so that only the numbers tell).
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import TrainerCallback

from trainer_core import worker


def parts(fault: str, job):
    """The real engine, its DPO trainer built with the fault."""
    from trainer_core import engine
    from trainer_core.engine import dpo

    def trainer(*args, **kwargs):
        built = dpo.trainer(*args, **kwargs)
        if fault == "drift":
            built.add_callback(Drift())
        else:
            spoil(built.model, fault)
        return built

    return SimpleNamespace(train=partial(engine.train, dpo_trainer=trainer)) if fault else engine


class Drift(TrainerCallback):
    def on_train_begin(self, args, state, control, model=None, **_):
        spoil(model, "corrupt")


def spoil(model, fault: str) -> None:
    for name, weight in model.named_parameters():
        if ".ref." in name and "lora_B" in name:
            if fault == "unfrozen":
                weight.requires_grad_(True)
            else:
                weight.data.add_(torch.randn_like(weight), alpha=0.5)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        fault, _, folder = argument.rpartition(":")
        worker.main(Path(folder), partial(parts, fault))
