"""Everything that needs a card, in ten minutes: each figure of ours beside plain TRL and a bare Unsloth script.

Cases run in the order of their importance until the time is over; what was not reached says "not measured".
`--device cpu --tiny` runs every case on a model of two layers, to see that the script is whole.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median

from scipy.stats import linregress

from bench import make, models, table
from bench.cuda_child import Case, Result, recipe
from bench.lanes import Timed
from bench.result import Device, Row, Target
from trainer_core import runs, shape, starter, vram

QUESTION = "On a card: how fast, and in how much memory, against plain TRL + PEFT + bitsandbytes and bare Unsloth?"
DEVICES: tuple[Device, ...] = ("cuda",)
BUDGET_SECONDS = 540.0
CASE_SECONDS = 150.0
LEAST_SECONDS = 30.0
"""With less time left nothing is begun."""
LARGE, MIDDLE, SMALL = models.SHAPES
TOKENS = (2048, 8192, 32_768)
"""Of a micro-batch."""
LENGTHS = (1024, 2048, 4096, 8192)
"""Of the memory sweep's rows."""
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "4090": 165.2}
"""Dense bfloat16 with 32-bit sums, by a part of the card's name; from NVIDIA's data sheets."""
GIB = 2**30
Part = Callable[["Session", str], list[Row]]


@dataclass
class Session:
    """The data, the models made so far, and the clock."""

    place: Path
    tiny: bool
    began: float = field(default_factory=time.monotonic)
    made: dict[str, Path] = field(default_factory=dict)
    found: dict[Case, Result | str] = field(default_factory=dict)
    number: Iterator[int] = field(default_factory=count)

    @property
    def left(self) -> float:
        return BUDGET_SECONDS - (time.monotonic() - self.began)

    def model(self, name: str) -> Path:
        """Random weights in that model's shape; tiny, the same two layers for all."""
        name = "tiny" if self.tiny else name
        if name not in self.made and self.left > LEAST_SECONDS:
            tokenizer = starter.folder(runs.Workspace(runs.default_workspace()))
            kind, size = ("llama", models.TINY) if self.tiny else models.SHAPES[name]
            self.made[name] = models.apart(models.random_model, self.place / name, tokenizer, kind, size)
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

    def case(self, way: str, name: str, stage: str = "sft", **more: object) -> Case:
        settings: dict[str, object] = {"way": way, "stage": stage, "model": str(self.model(name))}
        if self.tiny:
            more = {**more, "precision": "fp32", "batch": 2, "length": 64, "steps": 5, "packing": False}
        return Case.model_validate({**settings, "data": str(self.data(stage)), **more})

    def result(self, case: Case) -> Result | str:
        """What a case gives, or why it gives nothing. The same case is run once."""
        if case not in self.found:
            self.found[case] = self.run(case)
        return self.found[case]

    def run(self, case: Case) -> Result | str:
        if self.left < LEAST_SECONDS:
            return f"not reached in {BUDGET_SECONDS:.0f} s"
        file = self.place / f"case-{next(self.number)}.json"
        file.write_text(case.model_dump_json(), encoding="utf-8")
        command = [sys.executable, "-m", "bench.cuda_child", str(file)]
        with file.with_suffix(".log").open("wb") as log:
            try:
                done = subprocess.run(
                    command, cwd=runs.PROJECT, stdout=subprocess.PIPE, stderr=log, timeout=min(self.left, CASE_SECONDS)
                )
            except subprocess.TimeoutExpired:
                return f"not done after {min(self.left, CASE_SECONDS):.0f} s"
        if done.returncode:
            return last_line(file.with_suffix(".log"))
        return Result.model_validate_json(done.stdout.splitlines()[-1])


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "ended without a word"


def run(device: Device, tiny: bool) -> list[Row]:
    import torch

    if not tiny and not torch.cuda.is_available():
        raise RuntimeError("There is no card that torch can use.")
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(Path(scratch), tiny)
        card = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
        found = {row.what: row for part in PARTS for row in done(part, session, card)}
    failed = [row for what, row in found.items() if what not in ROWS]
    return [*(found.get(row.what, row) for row in OPEN), *failed]


def done(part: Part, session: Session, card: str) -> list[Row]:
    """The rows of a part, shown in the log at once; one that fails costs the others nothing."""
    try:
        rows = part(session, card)
    except Exception as error:
        rows = [Row("G1", part.__name__, "", error=traceback.format_exc(), note=f"{type(error).__name__}: {error}")]
    sys.stderr.write(table.table(rows))
    return rows


def beside(
    goal: str, what: str, ours: Result | str, peer: Result | str, read: str, unit: str, target: Target | None = None
) -> Row:
    """One figure of two cases; a case that gave nothing leaves its words in the note."""
    a, b = (None if isinstance(one, str) else getattr(one, read) for one in (ours, peer))
    said = "; ".join(f"{who}: {one}" for who, one in (("ours", ours), ("peer", peer)) if isinstance(one, str))
    ratio = a / b if a and b else None
    return Row(goal, what, unit, a, b, ratio, target, n=int(a is not None), note=said)


def sft(session: Session, card: str) -> list[Row]:
    """The large model in 4 bit, mixed lengths: G1, G3 and the card's utilisation."""
    ours = session.result(session.case("ours", LARGE, packing=True, batch=4))
    padded = session.result(session.case("ours", LARGE, batch=4))
    plain = session.result(session.case("plain", LARGE, batch=4))
    bare = session.result(session.case("bare", LARGE, packing=True, batch=4))
    speed, unit = "tokens_per_second", "tokens/s"
    return [
        beside("G1", ROWS[0], ours, plain, speed, unit, Target("ratio", "≥", 2.5)),
        beside("G1", ROWS[1], padded, plain, speed, unit, Target("ratio", "≥", 1.5)),
        beside("G3", ROWS[2], ours, bare, speed, unit, Target("ratio", "≥", 0.99)),
        beside("G1", ROWS[3], ours, plain, "peak_gib", "GiB"),
        utilisation(ours, card),
    ]


def utilisation(ours: Result | str, card: str) -> Row:
    """Share of the card's arithmetic: 46.1 GFLOP a token for 8B at 2,048 tokens, recomputing included."""
    most = next((value for name, value in PEAK_TFLOPS.items() if name in card), None)
    known = None if isinstance(ours, str) or most is None else ours.tokens_per_second * 46.1e9 / (most * 1e12)
    target = Target("ours", "≥", 0.55 if "4090" in card else 0.45)
    return Row("G12", ROWS[4], "of the peak", known, target=target, n=int(known is not None))


def dpo(session: Session, card: str) -> list[Row]:
    """The large model's DPO: memory and speed against plain TRL, and against the full logits."""
    more = {"batch": 2, "length": 1024, "steps": 9}
    ours = session.result(session.case("ours", LARGE, "dpo", **more))
    full = session.result(session.case("logits", LARGE, "dpo", **more))
    plain = session.result(session.case("plain", LARGE, "dpo", **more))
    return [
        beside("G4", ROWS[5], ours, full, "peak_gib", "GiB", Target("ratio", "≤", 0.6)),
        beside("G4", ROWS[6], ours, plain, "peak_gib", "GiB", Target("ratio", "≤", 0.9)),
        beside("G4", ROWS[7], ours, plain, "steps_per_second", "steps/s"),
    ]


def batches(session: Session, card: str) -> list[Row]:
    """The same with other micro-batches, and with layers kept while memory is left."""
    found = {size: session.case("ours", LARGE, packing=True, batch=size // 2048, steps=9) for size in TOKENS}
    base, *others = (session.result(case) for case in found.values())
    kept = session.result(session.case("ours", LARGE, packing=True, batch=4, skip_layers="auto"))
    speed = "tokens_per_second"
    return [
        *(beside("G1", what, one, base, speed, "tokens/s") for what, one in zip(ROWS[8:10], others, strict=True)),
        beside("G1", ROWS[10], kept, others[0], speed, "tokens/s"),
    ]


def smaller(session: Session, card: str) -> list[Row]:
    """Two smaller models in 4 and 16 bit."""
    rows = []
    for name, precision, what in zip((MIDDLE, MIDDLE, SMALL), ("nf4", "bf16", "bf16"), ROWS[11:14], strict=True):
        ours, plain = (
            session.result(session.case(way, name, precision=precision, packing=way == "ours", batch=4))
            for way in ("ours", "plain")
        )
        rows.append(beside("G1", what, ours, plain, "tokens_per_second", "tokens/s"))
    return rows


def attention(session: Session, card: str) -> list[Row]:
    """Torch's own kernel for packed rows, which Unsloth takes where it can, beside the others that this machine has."""
    own, rows, xformers = (
        session.result(session.case("ours", MIDDLE, packing=True, batch=4, attention=kernel))
        for kernel in ("auto", "rows", "xformers")
    )
    flex, usual = (session.result(session.case("plain", MIDDLE, batch=4, attention=one)) for one in ("flex", "auto"))
    speed, unit = "tokens_per_second", "tokens/s"
    return [
        beside("G1", ROWS[14], own, rows, speed, unit),
        beside("G1", ROWS[15], own, xformers, speed, unit),
        beside("G1", ROWS[16], flex, usual, speed, unit),
    ]


def memory(session: Session, card: str) -> list[Row]:
    """The plan's constants as this card has them, and its estimate with the old ones and the new ones.

    The middle model at four lengths gives the constants; the large model's packed runs, which had no part in it, judge them.
    `bench/probe.py` asks the same after a probe, `bench/picked.py` about smaller cards.
    """
    sweep = [session.case("ours", MIDDLE, batch=2, length=length, packing=True, steps=5) for length in LENGTHS]
    taken = [(case, found) for case in sweep if isinstance(found := session.result(case), Result) and found.peak_gib]
    others = [
        (case, found)
        for case, found in session.found.items()
        if isinstance(found, Result) and found.peak_gib and judges(case) and case not in sweep
    ]
    before = worst([*taken, *others], vram.LOW, vram.HIGH)
    if len(taken) < 3:
        return [Row("G9", ROWS[17], "%", before, target=Target("ours", "≤", 10), n=len(taken)), *OPEN[18:22]]
    fitted = fit(taken)
    return [
        Row("G9", ROWS[17], "%", before, target=Target("ours", "≤", 10), n=len(taken) + len(others)),
        beside_prior(ROWS[18], "numbers", fitted.activation, (vram.LOW.activation, vram.HIGH.activation)),
        beside_prior(ROWS[19], "GiB", fitted.head / GIB, (vram.LOW.head / GIB, vram.HIGH.head / GIB)),
        beside_prior(ROWS[20], "GiB", fitted.context / GIB, (vram.LOW.context / GIB, vram.HIGH.context / GIB)),
        Row("G9", ROWS[21], "%", worst(others, fitted, fitted), target=Target("ours", "≤", 5), n=len(others)),
    ]


def judges(case: Case) -> bool:
    """Runs whose peak the plan knows all about: packed SFT in which every layer is recomputed."""
    return case.way == "ours" and case.stage == "sft" and case.packing and case.skip_layers == "off"


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
    case = session.case(
        "ours", SMALL, "sft+dpo", pairs=str(session.data("dpo")), precision="bf16", length=1024, steps=5
    )
    found = session.result(case)
    held = None if isinstance(found, str) else 1.0
    note = found if isinstance(found, str) else ""
    return [Row("G4", ROWS[22], "of 1", held, target=Target("ours", "≥", 1), n=int(held is not None), note=note)]


def setup(case: Case) -> vram.Setup:
    wanted = recipe(case)
    config = json.loads((Path(case.model) / "config.json").read_text(encoding="utf-8"))
    base = case.precision if case.precision != "auto" else "nf4"
    return vram.Setup(shape.shape_of(config), wanted.lora, wanted.sft, base)


def lanes(session: Session, card: str) -> list[Row]:
    """Three lanes on a 4-bit base in one batch, against one lane after another with its prompts in a batch."""
    base, adapters = models.apart(models.with_adapters, session.place / "lanes", session.tiny)
    sizes = ("2", "4") if session.tiny else ("8", "64")
    told = list[Timed]()
    for way in ("ours", "batched"):
        if session.left < LEAST_SECONDS:
            return [OPEN[23]]
        command = [sys.executable, "-m", "bench.lanes_child", way, *sizes, str(base), *map(str, adapters)]
        done = subprocess.run(
            command, cwd=runs.PROJECT, stdout=subprocess.PIPE, check=True, timeout=min(session.left, CASE_SECONDS)
        )
        told.append(Timed.model_validate_json(done.stdout.splitlines()[-1]))
    ours, peer = told
    said, alone = ([one for lane in sorted(way.said) for one in way.said[lane]] for way in told)
    alike = sum(one == other for one, other in zip(said, alone, strict=True))
    note = f"{alike} of {len(said)} answers are the same, token for token"
    ratio = peer.seconds / ours.seconds
    return [Row("G7", ROWS[23], "s", ours.seconds, peer.seconds, ratio, Target("ratio", "≥", 6), n=1, note=note)]


PARTS = (proof, lanes, sft, dpo, memory, smaller, batches, attention)
"""What must be right first, then what costs most to be wrong about."""
ROWS = (
    f"SFT {LARGE} NF4, packed, mixed lengths ÷ plain TRL",
    f"SFT {LARGE} NF4, not packed ÷ plain TRL",
    f"SFT {LARGE} NF4 ÷ bare Unsloth script",
    f"SFT {LARGE} NF4: peak memory ÷ plain TRL",
    f"SFT {LARGE} NF4: utilisation",
    f"DPO {LARGE} NF4: peak memory ÷ full 32-bit logits",
    f"DPO {LARGE} NF4: peak memory ÷ plain TRL",
    f"DPO {LARGE} NF4: steps ÷ plain TRL",
    f"SFT {LARGE} NF4: 8k ÷ 2k tokens a micro-batch",
    f"SFT {LARGE} NF4: 32k ÷ 2k tokens a micro-batch",
    f"SFT {LARGE} NF4: layers kept where memory allows ÷ all recomputed",
    f"SFT {MIDDLE} NF4, packed ÷ plain TRL",
    f"SFT {MIDDLE} bf16, packed ÷ plain TRL",
    f"SFT {SMALL} bf16, packed ÷ plain TRL",
    f"SFT {MIDDLE} NF4, packed: torch's kernel ÷ row by row",
    f"SFT {MIDDLE} NF4, packed: torch's kernel ÷ xformers",
    f"SFT {MIDDLE} NF4, plain TRL: flex ÷ SDPA",
    "Estimate without a probe: worst error",
    "Plan: numbers per token of a layer, in MLP widths",
    "Plan: workspace of the loss",
    "Plan: CUDA context",
    f"Estimate with these three, for {LARGE}: worst error",
    "DPO on SFT: reference and step-0 proof hold",
    "3 lanes × 8 prompts: reload, one batch a lane ÷ ours",
)


def opened(goals: Sequence[str]) -> tuple[Row, ...]:
    return tuple(Row(goal, what, "") for goal, what in zip(goals, ROWS, strict=True))


OPEN = opened(["G1", "G1", "G3", "G1", "G12", "G4", "G4", "G4", *["G1"] * 9, *["G9"] * 5, "G4", "G7"])
