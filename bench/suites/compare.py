"""Compare: three lanes in one batch, against loading and asking one lane after another."""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.harness import models
from bench.harness.measure import wait_until
from bench.harness.result import BenchRow, Device, Target, row_against_peer, row_against_target
from bench.suites.gpu_case import GpuCase, GpuCaseJob, GpuCaseResult
from trainer_core.config.jobs import Lane
from trainer_core.config.recipe import Sampling
from trainer_core.evaluation import prompts
from trainer_core.jobs.comparison import CompareSession
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.events import Phase
from trainer_core.runs.workspace import Workspace

QUESTION = "How much faster do three lanes answer eight prompts in one batch than one after another, each loaded anew?"
DEVICES: tuple[Device, ...] = ("cpu",)
OPEN: tuple[BenchRow, ...] = ()
WAYS = ("ours", "reload", "batched")
LOAD_SECONDS, ANSWER_SECONDS = 300.0, 120.0
LOOK_SECONDS = 0.02


def run(place: Path, device: Device, tiny: bool) -> list[BenchRow]:
    base, adapters = models.model_with_adapters(place, tiny)
    return [*speedup_rows(time_ways(base, adapters, place, tiny)), first_token_row(base, adapters, place, tiny)]


def time_ways(base: Path, adapters: Sequence[Path], place: Path, tiny: bool) -> dict[str, list[GpuCaseResult]]:
    """Every way in turns, each time in a process of its own with one thread; both rounds at once, since all is told in processor
    seconds and each way then has itself as its neighbour."""
    prompts, tokens, rounds = (2, 4, 1) if tiny else (8, 12, 2)

    def answer(way: str) -> GpuCaseResult:
        case = GpuCase(way="lanes", model=base.name, batch=prompts, length=tokens, group=way)
        folder = Path(tempfile.mkdtemp(dir=place))
        job = GpuCaseJob(case=case, model=base, adapters=tuple(adapters), folder=folder)
        return job.run(sys.executable, math.inf, {"OMP_NUM_THREADS": "1"})

    with ThreadPoolExecutor(rounds) as pool:
        return {way: list(pool.map(answer, [way] * rounds)) for way in WAYS}


def speedup_rows(found: Mapping[str, Sequence[GpuCaseResult]]) -> list[BenchRow]:
    """Lanes of ours are loaded once and stay; a peer loads for each lane."""
    first = found["ours"][0].said
    same = all(one.said == first for group in found.values() for one in group)
    told = "Greedy, 32 bit, one thread; " + ("all answers alike, token for token." if same else "**answers differ.**")
    load = statistics.median(one.numbers["load"] for one in found["ours"])
    ours = [one.numbers["answer"] for one in found["ours"]]
    whole, reload, batched = ([one.numbers["load"] + one.numbers["answer"] for one in found[way]] for way in WAYS)
    best, name = Target("ratio", "≥", 3.5), "3 lanes × 8 prompts: "
    said = f"{told} Ours without its one load of {load:.1f} CPU-s."
    return [
        row_against_peer(
            "G7", f"{name}reload, prompt by prompt ÷ ours", "CPU-s", ours, reload, True, target=best, note=said
        ),
        row_against_peer("G7", f"{name}the same, our load included", "CPU-s", whole, reload, True),
        row_against_peer("G7", f"{name}reload, one batch a lane ÷ ours", "CPU-s", ours, batched, True),
    ]


def first_token_row(base: Path, adapters: Sequence[Path], place: Path, tiny: bool) -> BenchRow:
    """From the request to the first text of any lane, as the app sees it, with the lanes resident."""
    supervisor = Supervisor(Workspace(place / "app"), device="cpu")
    named = zip(("SFT", "DPO"), adapters, strict=True)
    lanes = [Lane(name="Base"), *(Lane(name=name, adapter=str(folder)) for name, folder in named)]
    try:
        comparison = supervisor.compare.open_comparison(str(base), "fp32", lanes)
        wait_until(lambda: is_ready(comparison), LOAD_SECONDS, "the lanes")
        waited = [seconds_to_text(comparison, prompt) for prompt in prompts.read_bundled_prompts()[: 2 if tiny else 6]]
    finally:
        supervisor.close()
    return row_against_target(
        "G7", "Request to first token, lanes resident", "s", waited[1:], target=Target("ours", "≤", 1)
    )


def is_ready(comparison: CompareSession) -> bool:
    comparison.refresh()
    view = comparison.state
    assert view.phase.is_active, view.error
    return view.phase is Phase.READY


def seconds_to_text(comparison: CompareSession, prompt: str) -> float:
    """Seconds until there is text; then waits for the end of the answer."""
    began = time.monotonic()
    ask = comparison.ask(prompt, Sampling(temperature=0, max_new_tokens=8))

    def said() -> bool:
        comparison.refresh()
        time.sleep(LOOK_SECONDS)
        found = comparison.state.answers_to(ask)
        return bool(found and any(found.answers.values()))

    def ended() -> bool:
        return said() and is_ready(comparison) and bool((found := comparison.state.answers_to(ask)) and found.ends)

    wait_until(said, ANSWER_SECONDS, "the first token")
    waited = time.monotonic() - began
    wait_until(ended, ANSWER_SECONDS, "the answer")
    return waited
