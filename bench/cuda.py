"""Everything that needs a card, in ten minutes: each figure of ours beside plain TRL and a bare Unsloth script.

What is compared stands in `cuda_cases`, part by part; a part that has had its time begins no more, and leaves the rest of its
rows "not measured", with the reason. `--device cpu --tiny` runs every part on models of two layers, to see that it is whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import accumulate, count
from math import inf
from pathlib import Path
from statistics import median

from scipy.stats import linregress

from bench import make, models, table
from bench.cuda_cases import COMPARED, LARGE, MIDDLE, SECONDS, SMALL, SWEEP, Compared, Side, packed, swept
from bench.cuda_child import Case, Result, recipe
from bench.lanes import Timed
from bench.result import Device, Row, Target, two_sided
from trainer_core import runs, shape, starter, vram

QUESTION = "On a card: how fast, and in how much memory, against plain TRL + PEFT + bitsandbytes and bare Unsloth?"
DEVICES: tuple[Device, ...] = ("cuda",)
BUDGET_SECONDS = sum(SECONDS.values())
CASE_SECONDS = 150.0
LEAST_SECONDS = 30.0
"""With less time left in all, nothing is begun."""
NOT_REACHED = f"not reached: all parts together have {BUDGET_SECONDS:.0f} s, and this one had had its share"
SIDE_BY_SIDE = 2
"""Tiny, so many at once: their figures say nothing."""
PYTHONS = "BENCH_PYTHONS"
"""Variable that names other Pythons with all our libraries and another torch, separated like the entries of PATH."""
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "4090": 165.2}
"""Dense bfloat16 with 32-bit sums, by a part of the card's name; from NVIDIA's data sheets."""
GIB = 2**30
Part = Callable[["Session", str], list[Row]]


@dataclass
class Session:
    """The data, the models made so far, what was measured, and the clock."""

    place: Path
    tiny: bool
    card: bool = False
    end: float = field(default_factory=lambda: time.monotonic() + BUDGET_SECONDS)
    due: float = inf
    """When the part at work has had its time. What it has begun by then it may end."""
    made: dict[str, Path] = field(default_factory=dict)
    found: dict[Case, Result | str] = field(default_factory=dict)
    number: Iterator[int] = field(default_factory=count)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    @property
    def over(self) -> bool:
        """May nothing more be begun in this part?"""
        return self.left < LEAST_SECONDS or time.monotonic() >= self.due

    def model(self, name: str) -> Path:
        """Random weights in that model's shape; tiny, two layers of its kind."""
        kind, size = models.SHAPES[name]
        name, size = (kind, models.TINY) if self.tiny else (name, size)
        if name not in self.made and not self.over:
            tokenizer = starter.folder(runs.Workspace(runs.default_workspace()))
            asked = self.place / name, tokenizer, kind, size
            self.made[name] = models.apart(models.random_model, *asked) if self.card else models.random_model(*asked)
        return self.made.get(name, self.place / name)

    def data(self, stage: str) -> Path:
        """Rows of mixed lengths, as real data has them: half of them short, some as long as the context."""
        file = self.place / f"{stage}.jsonl"
        if not file.exists():
            if stage.startswith("sft"):
                make.chats(file, 200 if self.tiny else 4000, (20, 40, 80, 160, 320, 1200))
            else:
                make.pairs(file, 200 if self.tiny else 1000, 300 if self.tiny else 8000)
        return file

    def case(self, side: Side) -> Case:
        more = dict(side.settings)
        stage = str(more.pop("stage", "sft"))
        if stage == "sft+dpo":
            more["pairs"] = str(self.data("dpo"))
        if more.get("torch") == release(version("torch")):
            del more["torch"]
        if self.tiny:
            more |= {"precision": "fp32", "batch": 2, "length": 64, "warm": 1, "steps": 3, "packing": False}
            more |= {"skip_layers": "off", "padding": "auto"}
            if more.get("attention") == "rows":
                more["attention"] = "auto"
        model = LARGE if self.tiny and side.way == "bare" else side.model  # one script will do
        files = {"model": str(self.model(model)), "data": str(self.data(stage))}
        return Case.model_validate({"way": side.way, "stage": stage, **files, **more})

    def result(self, side: Side) -> Result | str:
        """What a training gives, or why it gives nothing. The same one is run once."""
        case = self.case(side)
        if case not in self.found:
            self.found[case] = lacks(case, self.card) or self.run(case)
        return self.found[case]

    def run(self, case: Case) -> Result | str:
        if self.over:
            return NOT_REACHED
        file = self.place / f"case-{next(self.number)}.json"
        file.write_text(case.model_dump_json(), encoding="utf-8")
        command = [pythons().get(case.torch, sys.executable), "-m", "bench.cuda_child", str(file)]
        seconds = min(self.left, CASE_SECONDS)
        with file.with_suffix(".log").open("wb") as log:
            try:
                done = subprocess.run(command, cwd=runs.PROJECT, stdout=subprocess.PIPE, stderr=log, timeout=seconds)
            except subprocess.TimeoutExpired:
                return f"not done after {seconds:.0f} s"
        if done.returncode:
            return last_line(file.with_suffix(".log"))
        return Result.model_validate_json(done.stdout.splitlines()[-1])


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "ended without a word"


def lacks(case: Case, card: bool) -> str:
    """Why a training cannot be had on this machine; empty: it can be tried."""
    if case.way == "plain" and not card:
        return "TRL 1.15 alone cannot train on a processor: its fused head needs Triton"
    if case.attention == "xformers" and not find_spec("xformers"):
        return "xformers is not installed"
    if case.torch and case.torch not in pythons():
        return f"no Python with torch {case.torch} is named in {PYTHONS}"
    return ""


@cache
def pythons() -> dict[str, str]:
    """Torch's major and minor version → the Python that has it; this one's among them."""
    found = {release(version("torch")): sys.executable}
    for python in filter(None, os.environ.get(PYTHONS, "").split(os.pathsep)):
        asked = "from importlib.metadata import version; print(version('torch'))"
        told = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
        found.setdefault(release(told.stdout), python)
    return found


def release(full: str) -> str:
    """`2.13.0+cpu` → `2.13`."""
    return ".".join(full.split(".")[:2])


def run(device: Device, tiny: bool) -> list[Row]:
    import torch

    card = torch.cuda.is_available()
    if not tiny and not card:
        raise RuntimeError("There is no card that torch can use.")
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(Path(scratch), tiny, card)
        began, name = time.monotonic(), torch.cuda.get_device_name() if card else "processor"
        if tiny:
            session.end = inf
            os.environ["OMP_NUM_THREADS"] = "1"  # side by side, two threads each would wait for each other
            ahead(session)
        rows = list[Row]()
        for part, due in zip(SECONDS, accumulate(SECONDS.values()), strict=True):
            session.due = inf if tiny else began + due
            rows += done(part, session, name)
    found = {row.what: row for row in rows}
    failed = [row for what, row in found.items() if what not in ROWS]
    return [*(found.get(row.what, row) for row in OPEN), *failed]


def ahead(session: Session) -> None:
    """Run what the parts will ask for, a few at once."""
    sides = [PROOF, *(side for part in COMPARED.values() for row in part for side in (row.ours, row.peer))]
    different = {session.case(side): side for side in sides}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(session.result, different.values()))


def done(part: str, session: Session, card: str) -> list[Row]:
    """The rows of a part, shown in the log at once; one that fails costs the others nothing."""
    began = time.monotonic()
    try:
        rows = [compared(one, session) for one in COMPARED.get(part, ())]
        rows += SPECIAL[part](session, card) if part in SPECIAL else []
    except Exception as error:
        rows = [Row("G1", part, "", error=traceback.format_exc(), note=f"{type(error).__name__}: {error}")]
    sys.stderr.write(f"{part}: {time.monotonic() - began:.0f} s\n{table.table(rows)}")
    return rows


def compared(one: Compared, session: Session) -> Row:
    """One figure of two trainings; one that gave nothing leaves its words in the note."""
    ours, peer = session.result(one.ours), session.result(one.peer)
    said = "; ".join(f"{who}: {why}" for who, why in (("ours", ours), ("peer", peer)) if isinstance(why, str))
    a, b = figures(ours, one), figures(peer, one)
    unit = one.open.unit
    if a and b:
        return two_sided(one.goal, one.what, unit, a, b, target=one.target)
    alone = median(a) if a else None, median(b) if b else None
    return Row(one.goal, one.what, unit, *alone, target=one.target, n=len(a), note=said)


def figures(result: Result | str, one: Compared) -> tuple[float, ...]:
    """One for each stretch of the run; none where there is none, as the peak without a card."""
    if isinstance(result, str):
        return ()
    read = getattr(result, one.read)
    return tuple(value for value in (read if isinstance(read, tuple) else (read,)) if value)


def utilisation(session: Session, card: str) -> list[Row]:
    """Share of the card's arithmetic, at the sums that the design counts for a token; recomputing is among them."""
    return [utilised(session, card, *one) for one in LIMITED.items()]


def utilised(session: Session, card: str, what: str, side: Side) -> Row:
    most = next((value for name, value in PEAK_TFLOPS.items() if name in card), None)
    target = Target("ours", "≥", 0.55 if "4090" in card else 0.45) if side.model == LARGE else None
    result = session.result(side)
    if isinstance(result, str) or most is None:
        why = result if isinstance(result, str) else f"the peak of this device ({card}) is not known"
        return Row("G12", what, "of the peak", target=target, note=why)
    shares = [pace * operations(side.model) / (most * 1e12) for pace in result.tokens_per_second]
    return Row("G12", what, "of the peak", median(shares), target=target, n=len(shares))


def operations(name: str, length: int = 2048) -> float:
    """Floating-point operations for a token of a row of that length: forward, again and backward over the base, the head's
    forward and backward, attention."""
    found = shape.shape_of({"model_type": models.SHAPES[name][0], **models.SHAPES[name][1]})
    linear = found.linear_weights
    return 6.0 * linear + 4 * found.vocabulary * found.hidden + 8 * length * found.query * found.layers


def memory(session: Session, card: str) -> list[Row]:
    """The plan's constants as this card has them, and its estimate with the old ones and the new ones.

    The middle model's micro-batches of 2k to 32k tokens give the constants; the large model's packed runs, which had no part in
    it, judge them. `bench/probe.py` asks the same after a probe, `bench/picked.py` about smaller cards.
    """
    for rows in SWEEP:
        session.result(swept(rows))
    sweep = [session.case(swept(rows)) for rows in SWEEP]
    known = {case: one for case, one in session.found.items() if isinstance(one, Result) and one.peak_gib}
    taken = [(case, known[case]) for case in sweep if case in known]
    others = [(case, one) for case, one in known.items() if judges(case) and case not in sweep]
    before = worst([*taken, *others], vram.LOW, vram.HIGH)
    first = Row("G9", ERROR, "%", before, target=Target("ours", "≤", 10), n=len(taken) + len(others))
    if len(taken) < 3:
        return [first]
    fitted = fit(taken)
    return [
        first,
        beside_prior(NUMBERS, "numbers", fitted.activation, (vram.LOW.activation, vram.HIGH.activation)),
        beside_prior(HEAD, "GiB", fitted.head / GIB, (vram.LOW.head / GIB, vram.HIGH.head / GIB)),
        beside_prior(CONTEXT, "GiB", fitted.context / GIB, (vram.LOW.context / GIB, vram.HIGH.context / GIB)),
        Row("G9", AFTER, "%", worst(others, fitted, fitted), target=Target("ours", "≤", 5), n=len(others)),
    ]


def judges(case: Case) -> bool:
    """Runs whose peak the plan knows all about: the large model's packed SFT in which every layer is recomputed."""
    mine = case.way == "ours" and case.stage == "sft" and Path(case.model).name == LARGE
    return mine and case.packing and case.skip_layers == "off"


def fit(taken: Sequence[tuple[Case, Result]]) -> vram.Prior:
    """Numbers alive per token in MLP widths, and the loss's workspace: the line through the peaks less all that is known."""
    middle = (vram.LOW.fragmentation + vram.HIGH.fragmentation) / 2
    nothing = vram.Prior(activation=0, head=0, context=0, fragmentation=0)
    widths, rests = list[float](), list[float]()
    for case, found in taken:
        wanted = setup(case)
        widths.append(wanted.tokens * wanted.shape.mlp * vram.BYTES[wanted.base])
        rests.append(found.peak_gib * GIB / (1 + middle) - vram.estimate(wanted, nothing, nothing).middle)
    line = linregress(widths, rests)
    context = median(found.context_gib for _, found in taken) * GIB
    return vram.Prior(activation=line.slope, head=max(0.0, line.intercept), context=context, fragmentation=middle)


def worst(taken: Sequence[tuple[Case, Result]], low: vram.Prior, high: vram.Prior) -> float | None:
    """The largest error of the plan's middle value, in percent of what torch reserved and the context took."""
    errors = [
        abs(vram.estimate(setup(case), low, high).middle / ((found.peak_gib + found.context_gib) * GIB) - 1)
        for case, found in taken
    ]
    return 100 * max(errors, default=0.0) if errors else None


def beside_prior(what: str, unit: str, fitted: float, bounds: tuple[float, float]) -> Row:
    """A constant as measured beside the middle of what the plan assumes; it should lie within its bounds."""
    low, high = bounds
    middle = (low + high) / 2
    target = Target("ratio", "±", round((high - low) / (low + high), 2))
    return Row("G9", what, unit, fitted, middle, fitted / middle, target, n=1, note=f"assumed: {low:.2f} to {high:.2f}")


def proof(session: Session, card: str) -> list[Row]:
    """SFT, then DPO with its frozen copy as the reference: the worker ends with an error where the step-0 proof does not hold."""
    found = session.result(PROOF)
    held = None if isinstance(found, str) else 1.0
    note = found if isinstance(found, str) else ""
    return [Row("G4", PROVED, "of 1", held, target=Target("ours", "≥", 1), n=int(held is not None), note=note)]


def setup(case: Case) -> vram.Setup:
    wanted = recipe(case)
    config = json.loads((Path(case.model) / "config.json").read_text(encoding="utf-8"))
    base = case.precision if case.precision != "auto" else "nf4"
    return vram.Setup(shape.shape_of(config), wanted.lora, wanted.sft, base)


def lanes(session: Session, card: str) -> list[Row]:
    """Three lanes on a 4-bit base in one batch, against one adapter at a time: on the same base, and loaded anew for each."""
    asked = session.place / "lanes", session.tiny
    base, adapters = models.apart(models.with_adapters, *asked) if session.card else models.with_adapters(*asked)
    ways = ("ours", *AT_A_TIME)
    with ThreadPoolExecutor(SIDE_BY_SIDE if session.tiny else 1) as pool:
        told = dict(zip(ways, pool.map(lambda way: answered(session, way, base, adapters), ways), strict=True))
    return [beside_lanes(told["ours"], told[way], what) for way, what in AT_A_TIME.items()]


def answered(session: Session, way: str, base: Path, adapters: Sequence[Path]) -> Timed | None:
    """None: there was no time left for it."""
    if session.over:
        return None
    sizes = ("2", "4") if session.tiny else ("8", "64")
    command = [sys.executable, "-m", "bench.lanes_child", way, *sizes, str(base), *map(str, adapters)]
    seconds = min(session.left, CASE_SECONDS)
    done = subprocess.run(command, cwd=runs.PROJECT, stdout=subprocess.PIPE, check=True, timeout=seconds)
    return Timed.model_validate_json(done.stdout.splitlines()[-1])


def beside_lanes(ours: Timed | None, peer: Timed | None, what: str) -> Row:
    target = Target("ratio", "≥", 6) if what == AT_A_TIME["batched"] else None
    if not ours or not peer:
        return Row("G7", what, "s", target=target, note=NOT_REACHED)
    said, alone = ([one for lane in sorted(way.said) for one in way.said[lane]] for way in (ours, peer))
    alike = sum(one == other for one, other in zip(said, alone, strict=True))
    note = f"{alike} of {len(said)} answers are the same, token for token"
    return Row("G7", what, "s", ours.seconds, peer.seconds, peer.seconds / ours.seconds, target, n=1, note=note)


PROOF = Side("ours", SMALL, {"stage": "sft+dpo", "precision": "bf16", "length": 1024, "warm": 3, "steps": 5})
PROVED = "DPO on SFT: reference and step-0 proof hold"
AT_A_TIME = {
    "resident": "3 lanes × 8 prompts, one base: one adapter at a time ÷ ours",
    "batched": "3 lanes × 8 prompts: reload, one batch a lane ÷ ours",
}
LIMITED: Mapping[str, Side] = {
    f"SFT {LARGE} NF4: utilisation": packed(LARGE),
    f"SFT {MIDDLE} NF4, 32k tokens a micro-batch: utilisation": swept(SWEEP[-1]),
}
ERROR = "Estimate without a probe: worst error"
NUMBERS = "Plan: numbers per token of a layer, in MLP widths"
HEAD = "Plan: workspace of the loss"
CONTEXT = "Plan: CUDA context"
AFTER = f"Estimate with these three, for {LARGE}: worst error"
SPECIAL: Mapping[str, Part] = {"proof": proof, "lanes": lanes, "memory": memory, "utilisation": utilisation}
SPECIAL_OPEN: Mapping[str, tuple[tuple[str, str], ...]] = {
    "proof": (("G4", PROVED),),
    "lanes": tuple(("G7", what) for what in AT_A_TIME.values()),
    "memory": tuple(("G9", what) for what in (ERROR, NUMBERS, HEAD, CONTEXT, AFTER)),
    "utilisation": tuple(("G12", what) for what in LIMITED),
}
OPEN: tuple[Row, ...] = tuple(
    row
    for part in SECONDS
    for row in (
        *(one.open for one in COMPARED.get(part, ())),
        *(Row(goal, what, "") for goal, what in SPECIAL_OPEN.get(part, ())),
    )
)
ROWS = tuple(row.what for row in OPEN)
