"""Training with rows sorted within a step and the DPO reference's numbers kept, beside the same training with both off.

What is compared runs one after another; two such rows of runs are at work at once, with one thread each, since all is told in
processor seconds.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.harness import fixtures, models
from bench.harness.measure import process_seconds, wait_until
from bench.harness.result import BenchRow, Device, Target, row_against_peer
from bench.suites.training_overhead import LIMIT_SECONDS, count_train_steps, worker_process
from trainer_core.config.changes import with_changes
from trainer_core.config.recipe import Data, Lora, MemoryOptions, MethodChain, Recipe
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.methods.dpo import Dpo
from trainer_core.methods.sft import Sft
from trainer_core.runs.workspace import Workspace

QUESTION = "How many rows or pairs a second, with what we make faster and without, and are the losses the same?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[BenchRow, ...] = ()
SHAPE = {**models.TINY, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6}
"""With the starter's tokenizer 8 million weights: small, so that answers can be long. A template's own 40 tokens are in every
row and would hide in what short answers differ."""
BATCH, ACCUMULATION = 4, 4
ANSWER_WORDS, PROMPT_WORDS = 40, 6
SIGMA, ALIKE = 1.3, 0.5
"""Of the mixed answers' log-normal lengths: the spread, and how far a pair's sides go together. Both as in public pairs, whose
medians are above 200 words."""
OFF = MemoryOptions(probe="off", sort_rows="off", keep_reference="off")
ON = MemoryOptions(probe="off")
WARM_STEPS = 1
"""In it the reference is asked whether its numbers are known or not."""
ROUNDING_STEPS = 3
"""Of the run that only shows how sums in another order are rounded."""
SAME = 1e-6


@dataclass(frozen=True)
class SpeedRun:
    """Pairs per CPU-second after the warm-up, and the loss of each step."""

    pace: float
    losses: tuple[float, ...]


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    os.environ["OMP_NUM_THREADS"] = "1"
    steps = 4 if tiny else 5
    model = models.random_model(
        place / "model", models.base_model(place, tiny=False), "llama", models.TINY if tiny else SHAPE
    )
    for mixed in (False, True):
        write_mixed_pairs(place / f"{kind(mixed)}.jsonl", (steps + 2) * BATCH * ACCUMULATION, mixed)
    with ThreadPoolExecutor(2) as pool:
        longest = pool.submit(option_rows, place, model, steps, mixed=True)
        equal = pool.submit(option_rows, place, model, steps, mixed=False)
        ordered = pool.submit(sft_row, place, model, steps)
        return [*equal.result(), *longest.result(), ordered.result()]


def kind(mixed: bool) -> str:
    return "mixed" if mixed else "equal"


def option_rows(place: Path, model: Path, steps: int, mixed: bool) -> list[BenchRow]:
    """Off, then on without and with what the run before has kept."""
    file, workspace = place / f"{kind(mixed)}.jsonl", Workspace(place / kind(mixed))
    off, first, second = (
        time_speed_run(workspace, speedup_recipe(model, file, steps, how), steps) for how in (OFF, ON, ON)
    )
    apart = max(largest_loss_gap(first, off), largest_loss_gap(second, off))
    said = f"Batches of {BATCH} in steps of {BATCH * ACCUMULATION}; losses at most {apart:.1e} apart."
    what, unit = f"DPO, {kind(mixed)} lengths", "pairs/CPU-s"
    goal = Target("ratio", "≥", 1.8 if mixed else 1.25)
    rounding = batch_rounding_gap(workspace, model, file, steps, off) if mixed else None
    same = (
        f"Peer: neither on, batches of 2 instead of 4, the first {ROUNDING_STEPS} steps. What is added up in another order is "
        "rounded otherwise."
        if mixed
        else ""
    )
    return [
        row_against_peer(
            "G5", f"{what}, reference known ÷ neither", unit, [second.pace], [off.pace], target=goal, note=said
        ),
        row_against_peer("G5", f"{what}, first run ÷ neither", unit, [first.pace], [off.pace]),
        BenchRow(
            "G5", f"{what}, losses apart", "nats", apart, rounding, target=Target("ours", "≤", SAME), n=2, note=same
        ),
    ]


def batch_rounding_gap(workspace: Workspace, model: Path, file: Path, steps: int, off: SpeedRun) -> float:
    """How far the losses of the same steps are apart, in nats, with nothing on and only the batches of another size."""
    halved = with_changes(
        speedup_recipe(model, file, steps, OFF), {"dpo.batch_size": BATCH // 2, "dpo.accumulation": 2 * ACCUMULATION}
    )
    begun = SpeedRun(off.pace, off.losses[:ROUNDING_STEPS])
    return largest_loss_gap(time_speed_run(workspace, halved, ROUNDING_STEPS, leave=True), begun)


def largest_loss_gap(one: SpeedRun, other: SpeedRun) -> float:
    return max(abs(mine - theirs) for mine, theirs in zip(one.losses, other.losses, strict=True))


def sft_row(place: Path, model: Path, steps: int) -> BenchRow:
    """The mixed pairs' chosen answers; there is no reference in it, only the order."""
    workspace, file = Workspace(place / "sft"), place / "mixed.jsonl"
    on, off = (time_speed_run(workspace, speedup_recipe(model, file, steps, how, "sft"), steps) for how in (ON, OFF))
    apart = largest_loss_gap(on, off)
    said = f"Batches of {BATCH} in steps of {BATCH * ACCUMULATION}; losses at most {apart:.1e} apart."
    return row_against_peer(
        "G1", "SFT, mixed lengths, sorted within steps ÷ not", "rows/CPU-s", [on.pace], [off.pace], note=said
    )


def write_mixed_pairs(file: Path, count: int, mixed: bool) -> None:
    """Pairs whose answers have the same number of words, or log-normal ones with that median."""
    dice, spoken = random.Random(7), fixtures.TEXT.split()

    def text(words: float) -> str:
        return " ".join(dice.choice(spoken) for _ in range(max(2, round(words))))

    def length(common: float) -> float:
        own = dice.gauss(0, 1)
        return ANSWER_WORDS * math.exp(SIGMA * (math.sqrt(ALIKE) * common + math.sqrt(1 - ALIKE) * own))

    def pair(at: int) -> dict[str, str]:
        common, asked = dice.gauss(0, 1), f"{at}: {text(PROMPT_WORDS)}?"
        sides = {side: text(length(common) if mixed else ANSWER_WORDS) for side in ("chosen", "rejected")}
        return {"prompt": asked, **sides}

    fixtures.write_rows(file, map(pair, range(count)))


def speedup_recipe(model: Path, pairs: Path, steps: int, memory: MemoryOptions, method: str = "dpo") -> Recipe:
    settings: dict[str, Any] = {"max_steps": steps, "batch_size": BATCH, "accumulation": ACCUMULATION}
    settings |= {"max_length": 256, "evaluations": 0}
    return Recipe(
        name="bench",
        model=str(model),
        precision="fp32",
        method=MethodChain(method),
        data=Data(pairs=str(pairs)),
        lora=Lora(rank=16, alpha=16),
        sft=Sft(**settings),
        dpo=Dpo(**settings),
        memory=memory,
        sample_tokens=0,
    )


def time_speed_run(workspace: Workspace, wanted: Recipe, steps: int, leave: bool = False) -> SpeedRun:
    """One run, as the app makes it, to its end, or stopped after so many steps."""
    supervisor = Supervisor(workspace, device="cpu")
    run_id = supervisor.control.start(wanted)

    made = partial(count_train_steps, supervisor, run_id)

    def spent() -> float:
        return process_seconds(worker_process(supervisor, run_id))

    wait_until(lambda: made() >= WARM_STEPS, LIMIT_SECONDS, "the warm-up")
    begun, before = made(), spent()
    wait_until(
        lambda: made() >= steps - 1, LIMIT_SECONDS, "the steps"
    )  # at the last one the worker ends, and cannot be asked
    pace = (made() - begun) * BATCH * ACCUMULATION / (spent() - before)
    if leave:
        wait_until(lambda: made() >= steps, LIMIT_SECONDS, "the last step that is asked for")
        supervisor.control.stop(run_id)
    wait_until(
        lambda: made() and not supervisor.registry.run_state(run_id).phase.is_active,
        LIMIT_SECONDS,
        "the end of the run",
    )
    losses: Sequence[float] = [point.loss for point in supervisor.registry.run_state(run_id).points[:steps]]
    supervisor.close()
    return SpeedRun(pace, tuple(losses))
