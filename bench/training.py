"""What does the app add to a bare Unsloth script with the same settings, and how long from the click to the first step?"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench import parts
from bench.result import Device, Row, figure, ratio
from trainer_core import models, runs
from trainer_core.config import Method, Recipe
from trainer_core.events import RunView
from trainer_core.supervisor import Supervisor

QUESTION = (
    "SFT of the starter model, the app's worker (events, checkpoints, held-out checks, samples) against a bare Unsloth + TRL "
    "script with the same rows, batch and length: steps per second of processor time, and seconds to the first step."
)
DEVICES = ("cpu",)
SCRIPT = """
import json, sys, time
from unsloth import FastLanguageModel
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer
model, folder, steps, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.load(open(sys.argv[4]))
base, tokenizer = FastLanguageModel.from_pretrained(model, max_seq_length=256, dtype=torch.DTYPE, load_in_4bit=False)
names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
lora = FastLanguageModel.get_peft_model(base, r=16, lora_alpha=16, lora_dropout=0, target_modules=names, bias="none",
                                        use_gradient_checkpointing=False, random_state=0)
config = SFTConfig(output_dir=folder, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=steps,
                   learning_rate=1e-3, logging_steps=1, save_strategy="no", report_to="none", max_length=256, seed=0,
                   use_cpu=True, bf16=False, fp16=False, optim="adamw_torch", disable_tqdm=True)
trainer = SFTTrainer(model=lora, processing_class=tokenizer, args=config, train_dataset=Dataset.from_list(rows))
from transformers import TrainerCallback
import psutil
me = psutil.Process()
class Clock(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step in (1, steps):
            times = me.cpu_times()
            print("STEP", state.global_step, time.time(), times.user + times.system, flush=True)
trainer.add_callback(Clock())
trainer.train()
"""


def run(device: Device, tiny: bool) -> Iterator[Row]:
    steps, turns = (3, 1) if tiny else (12, 3)
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    speed: dict[str, list[float]] = {"ours": [], "bare": []}
    shares = []
    for _ in range(turns):
        with parts.workspace() as workspace:
            view, first, speed_ours = by_the_app(workspace, steps)
            seconds["ours"].append(first)
            speed["ours"].append(speed_ours)
            shares.append(checks_share(view))
            first, speed_bare = bare(workspace, view, steps)
            seconds["bare"].append(first)
            speed["bare"].append(speed_bare)
    peer = "bare script"
    yield ratio(
        "Steps per CPU second", "≥ 0.99 ×", "/s", speed["ours"], speed["bare"], peer, lambda value: value >= 0.99
    )
    yield ratio(
        "Start → first step", "≤ 0.6 ×", "s", seconds["ours"], seconds["bare"], peer, lambda value: value <= 0.6
    )
    yield figure("Held-out checks, share of the stage", "≤ 5 %", "%", shares, lambda value: value <= 5)


def recipe(steps: int) -> Recipe:
    made = parts.recipe(False, method=Method.SFT)
    return made.model_copy(update={"sft": made.sft.model_copy(update={"max_steps": steps, "learning_rate": 1e-3})})


def by_the_app(workspace: runs.Workspace, steps: int) -> tuple[RunView, float, float]:
    """The run, seconds from the click to its first step, and steps per second of its worker's processor time after it."""
    supervisor = Supervisor(workspace, device="cpu")
    began = time.time()
    run_id = supervisor.start(recipe(steps))
    first = used = spent = None
    process = None
    while True:
        supervisor.look()
        view = supervisor.run(run_id)
        beat = runs.read_heartbeat(supervisor.run_dir(run_id))
        if beat and process is None:
            process = psutil.Process(beat.pid)
        if view.points and process and (first is None or len(view.points) >= steps) and view.phase.active:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                break
            if first is None:
                first, used = time.time() - began, times.user + times.system
            elif spent is None:
                spent = times.user + times.system - (used or 0.0)
        if not view.phase.active:
            break
        time.sleep(0.02)
    supervisor.close()
    if view.error or first is None or spent is None:
        raise RuntimeError(view.error or "the run was too short to be measured")
    return view, first, (steps - 1) / spent


def bare(workspace: runs.Workspace, view: RunView, steps: int) -> tuple[float, float]:
    """The same for the script, on the rows that the app trained on."""
    from trainer_core import data

    wanted = recipe(steps)
    chats = data.load(wanted.data, wanted.method).chats
    rows = [{"messages": [{"role": one.role, "content": one.content} for one in chat.messages]} for chat in chats]
    precision = {"bf16": "bfloat16", "fp32": "float32"}[view.used("precision", "fp32")]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "rows.json"
        place.write_text(json.dumps(rows), encoding="utf-8")
        began = time.time()
        command = parts.python(
            SCRIPT.replace("DTYPE", precision), models.resolve("starter", workspace), folder, str(steps)
        )
        done = subprocess.run([*command, str(place)], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    marks = [tuple(map(float, found)) for found in re.findall(r"^STEP (\S+) (\S+) (\S+)$", done.stdout, re.MULTILINE)]
    (_, at, used), (last, _, spent) = marks[0], marks[-1]
    return at - began, (last - 1) / (spent - used)


def checks_share(view: RunView) -> float:
    """Percent of the time of all steps that the held-out checks took."""
    return 100 * sum(one.seconds for one in view.evaluated) / sum(point.seconds for point in view.points)
