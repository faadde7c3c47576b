"""Real training runs of a tiny model: its inputs, recipes with few steps, and the process that trains."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from tests.support import tiny
from tests.support.warm import run_module
from trainer_core.config.jobs import TrainJob
from trainer_core.config.recipe import Recipe
from trainer_core.runs import run_folder
from trainer_core.runs.event_log import Tail
from trainer_core.runs.run_state import RunState, apply
from trainer_core.schema import parse_values

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
CANARY = "hf_canary-of-a-real-run"
STEPS = {"batch_size": 2, "accumulation": 2, "max_length": 128}


def write_inputs(folder: Path) -> None:
    """A tiny model and its pairs."""
    tiny.model(folder / "model")
    write_data(folder)


def write_data(folder: Path) -> Path:
    """24 pairs, 16 of which can be learned from."""
    path = folder / "pairs.jsonl"
    rows = [
        {
            "prompt": f"Question number {n}, what is it?",
            "chosen": f"It is {n}.",
            "rejected": f"Well, there are many {n}s.",
        }
        for n in range(24)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def recipe(folder: Path, **changes) -> Recipe:
    values = {
        "model": str(folder / "model"),
        "precision": "fp32",
        "data": {"pairs": str(folder / "pairs.jsonl")},
        "lora": {"rank": 4, "alpha": 4},
        "sft": {**STEPS, "learning_rate": 1e-2, "epochs": 2},
        "dpo": {**STEPS, "learning_rate": 1e-3, "epochs": 2},
        "sample_tokens": 4,  # random weights never end an answer, and the default would take half of a run
    }
    return parse_values(Recipe, values | changes, "test")


def environment() -> dict[str, str]:
    ours = {
        "CUDA_VISIBLE_DEVICES": "",
        "UNSLOTH_FORCE_CPU": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": CANARY,
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "OMP_NUM_THREADS": "1",  # two layers: threads cost more than they give, most of all on a busy machine
    }
    return {
        **os.environ,
        **ours,
        "UNSLOTH_COMPILE_LOCATION": str(Path(tempfile.gettempdir()) / f"tunebench-test-compiled{WORKER}"),
    }


def run(folder: Path, *cases: tuple[str, Recipe]) -> list[RunState]:
    """Run recipes one after the other, each with a fault or none."""
    folders = [run_folder.create_run(folder / "runs", TrainJob(recipe=one), "t") for _, one in cases]
    arguments = [
        f"{fault}:{run_dir}" if fault else str(run_dir) for (fault, _), run_dir in zip(cases, folders, strict=True)
    ]
    start(folder, *arguments)
    return [view_of(run_dir) for run_dir in folders]


def start(folder: Path, *arguments: str) -> None:
    """One process of tests/support/engine_case.py, to its end."""
    run_module(environment(), "tests.support.engine_case", *arguments, log=folder / "log.txt")


def view_of(run_dir: Path) -> RunState:
    view = RunState(str(run_dir))
    for event in Tail(run_dir / "events.jsonl"):
        view = apply(view, event)
    return view
