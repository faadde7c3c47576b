"""How a row of the card's table is read from what its cases gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import log
from statistics import median

from scipy.stats import linregress

from bench.harness import models
from bench.harness.result import BenchRow, Target, row_against_peer
from bench.suites.gpu_case import GpuCase, GpuCaseResult, StageMeasurement
from bench.suites.gpu_child import gpu_recipe
from trainer_core.models import architecture
from trainer_core.planning import memory_model
from trainer_core.runs.events import Stage

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "4090": 165.2}
"""Dense bfloat16 with 32-bit sums, by a part of the card's name; from NVIDIA's data sheets."""
GIB = 2**30
STRETCHES = 5
"""The measured steps are cut into so many, each a repetition of its own."""
LARGE, MIDDLE, SMALL = models.SHAPES
ERROR = "Estimate without a probe: worst error"
NUMBERS = "Plan: numbers per token of a layer, in MLP widths"
HEAD = "Plan: workspace of the loss"
CONTEXT = "Plan: CUDA context"
AFTER = f"Estimate with these three, for {LARGE}: worst error"
FigureReader = Callable[["FigureSpec", Sequence[GpuCaseResult], str], BenchRow]
"""Reads a row from what its cases gave, on the card of that name."""


@dataclass(frozen=True)
class FigureSpec:
    """One row: the cases that it needs, ours first, and how it is read from their results."""

    goal: str
    what: str
    unit: str
    cases: tuple[GpuCase, ...]
    read: FigureReader
    target: Target | None = None

    @property
    def open_row(self) -> BenchRow:
        return BenchRow(self.goal, self.what, self.unit, target=self.target)


ValuePicker = Callable[[GpuCase, GpuCaseResult], Sequence[float]]
"""The repetitions of a figure in a result; none: it is not there, as a peak without a card."""


CaseNote = Callable[[GpuCaseResult], str]
"""What is said beside a figure."""


def no_note(found: GpuCaseResult) -> str:
    return ""


def read_single(pick: ValuePicker, note: CaseNote = no_note) -> FigureReader:
    """A figure of one case."""

    def read(figure: FigureSpec, results: Sequence[GpuCaseResult], card: str) -> BenchRow:
        (found,), (case,) = results, figure.cases
        values = pick(case, found)
        said = found.error if found.missing else note(found) or found.error
        said = said or ("" if values or found.missing else "this run says nothing of it")
        return replace(figure.open_row, ours=median(values) if values else None, n=len(values), note=said)

    return read


def read_against_peer(pick: ValuePicker, faster: bool = False) -> FigureReader:
    """A figure of two cases. faster: the ratio is peer ÷ ours, where both are costs; else ours ÷ peer."""

    def read(figure: FigureSpec, results: Sequence[GpuCaseResult], card: str) -> BenchRow:
        said = "; ".join(f"{who}: {one.error}" for who, one in zip(("ours", "peer"), results, strict=True) if one.error)
        a, b = (pick(case, one) for case, one in zip(figure.cases, results, strict=True))
        if a and b:
            row = row_against_peer(figure.goal, figure.what, figure.unit, a, b, faster, target=figure.target)
            return replace(row, note=said)
        alone = median(a) if a else None, median(b) if b else None
        return replace(figure.open_row, ours=alone[0], peer=alone[1], n=len(a), note=said)

    return read


def stretches(case: GpuCase, stage: StageMeasurement, counts: Sequence[float]) -> list[float]:
    """Of the last steps, those after the warm-up: a second's worth of what is counted, in stretches of equal numbers of steps."""
    measured = list(zip(stage.seconds, counts, strict=True))[case.warm - case.steps :]
    size = max(1, len(measured) // STRETCHES)
    cut = [measured[at : at + size] for at in range(0, len(measured) - size + 1, size)]
    return [sum(count for _, count in one) / sum(seconds for seconds, _ in one) for one in cut]


def tokens_per_second(case: GpuCase, found: GpuCaseResult, stage: Stage | None = None) -> list[float]:
    one = found.stages.get(stage or stage_of(case))
    return stretches(case, one, one.tokens) if one else []


def pairs_per_second(case: GpuCase, found: GpuCaseResult) -> list[float]:
    one = found.stages.get("dpo")
    return stretches(case, one, [case.batch] * len(one.seconds)) if one else []


def stage_of(case: GpuCase) -> Stage:
    return "dpo" if case.stage == "dpo" else "sft"


def torch_reserved_gib(case: GpuCase, found: GpuCaseResult) -> list[float]:
    """GiB that torch reserved at most."""
    return [one.peak_gib for one in found.stages.values() if one.peak_gib]


def step_peak_gib(case: GpuCase, found: GpuCaseResult, stage: Stage) -> list[float]:
    """GiB that torch held at most within a step."""
    one = found.stages.get(stage)
    return [one.step_gib] if one and one.step_gib else []


def first_step(case: GpuCase, found: GpuCaseResult, stage: Stage) -> list[float]:
    """Seconds of the first step, and of the probe before it, beyond the usual step."""
    one = found.stages.get(stage)
    return [one.probe + one.seconds[0] - median(one.seconds[1:])] if one and len(one.seconds) > 1 else []


def first_aside(case: GpuCase, found: GpuCaseResult, name: str) -> list[float]:
    """Seconds of the first held-out check or sample answers beyond the second's."""
    told = [getattr(one, name) for one in found.stages.values()]
    return [one[0] - one[1] for one in told[:1] if len(one) > 1]


def number(case: GpuCase, found: GpuCaseResult, name: str) -> list[float]:
    return [found.numbers[name]] if name in found.numbers else []


def lane_pace(case: GpuCase, found: GpuCaseResult) -> list[float]:
    """Tokens a second of one lane."""
    return [sum(map(len, found.said["0"])) / found.numbers["seconds"]] if found.said else []


def whole(case: GpuCase, found: GpuCaseResult) -> list[float]:
    return [] if found.missing else [float(not found.error)]


def proof_holds(case: GpuCase, found: GpuCaseResult) -> list[float]:
    return [] if found.missing else [float(found.proof is not None and not found.error)]


def first_margin(case: GpuCase, found: GpuCaseResult) -> list[float]:
    """Of DPO's first step, whose kernels are those of training; the proof's own, where it ended the run before."""
    told = found.stages["dpo"].margins if "dpo" in found.stages else found.proof and found.proof[1:]
    return [abs(told[0])] if told else []


def first_loss_note(found: GpuCaseResult) -> str:
    losses = found.stages["dpo"].losses if "dpo" in found.stages else ()
    told = [f"loss of the first step − ln 2: {loss - log(2):+.2e}" for loss in losses[:1]]
    return "; ".join(filter(None, (*told, proof_note(found))))


def proof_note(found: GpuCaseResult) -> str:
    told = f"proof: loss − expected {found.proof[0]:+.2e} nats, margin {found.proof[1]:+.2e}" if found.proof else ""
    return "; ".join(filter(None, (told, found.error)))


def compile_note(found: GpuCaseResult) -> str:
    return (
        f"{found.compiled} files were in the compile cache before" if found.compiled else "the compile cache was empty"
    )


def seconds_note(found: GpuCaseResult) -> str:
    return found.error or ", ".join(f"{stage.upper()} {sum(one.seconds):.0f} s" for stage, one in found.stages.items())


def kept_layers(case: GpuCase, found: GpuCaseResult) -> list[float]:
    return [float(found.kept_layers[0])] if found.kept_layers else []


def resume_row(figure: FigureSpec, results: Sequence[GpuCaseResult], card: str) -> BenchRow:
    """How far the losses of a killed run are from those of one that was not."""
    killed, whole_run = results
    if why := [one.error for one in results if one.missing or one.error]:
        return replace(figure.open_row, note=why[0])
    apart = [
        abs(one - other)
        for stage, result in killed.stages.items()
        for one, other in zip(result.losses, whole_run.stages[stage].losses, strict=True)
    ]
    eight, every = killed.stages["dpo"].states
    note = f"{eight} of the optimiser's {every} tensors are 8-bit, read back from its checkpoint"
    return replace(figure.open_row, ours=max(apart), n=len(apart), note=note)


def lanes_row(figure: FigureSpec, results: Sequence[GpuCaseResult], card: str) -> BenchRow:
    """Seconds of both, and whether the answers are the same."""
    row = read_against_peer(partial(number, name="seconds"), faster=True)(figure, results, card)
    if any(one.missing for one in results):
        return row
    said, other = ([one for lane in sorted(way.said) for one in way.said[lane]] for way in results)
    alike = sum(one == two for one, two in zip(said, other, strict=True))
    return replace(row, note=f"{alike} of {len(said)} answers are the same, token for token")


def utilisation_row(figure: FigureSpec, results: Sequence[GpuCaseResult], card: str) -> BenchRow:
    """Share of the card's arithmetic, at the sums that the design counts for a token; recomputing is among them."""
    (found,), (case,) = results, figure.cases
    most = next((value for name, value in PEAK_TFLOPS.items() if name in card), None)
    if found.missing or most is None:
        why = found.error if found.missing else f"the peak of this device ({card}) is not known"
        return replace(figure.open_row, note=why)
    shares = [pace * flops_per_token(case.model) / (most * 1e12) for pace in tokens_per_second(case, found)]
    target = Target("ours", "≥", 0.55 if "4090" in card else 0.45) if case.model == LARGE else None
    return replace(figure.open_row, ours=median(shares), n=len(shares), target=target)


def flops_per_token(name: str, length: int = 2048) -> float:
    """Floating-point operations for a token of a row of that length: forward, again and backward over the base, the head's
    forward and backward, attention."""
    found = shape_of(name)
    return 6.0 * found.linear_weights + 4 * found.vocabulary * found.hidden + 8 * length * found.query * found.layers


def shape_of(name: str) -> architecture.Architecture:
    kind, sizes = models.SHAPES[name]
    return architecture.parse_architecture({"model_type": kind, **sizes})


Taken = Sequence[tuple[GpuCase, GpuCaseResult]]


def plan_error_row(figure: FigureSpec, results: Sequence[GpuCaseResult], card: str) -> BenchRow:
    """The plan's estimate with its constants and with those measured, and the constants themselves.

    The middle model's micro-batches of 2k to 32k tokens give them; the large model's packed run, which had no part in it, judges
    them. `bench/suites/memory_probe.py` asks the same after a probe, `bench/suites/auto_settings.py` about smaller cards.
    """
    known = [one for one in zip(figure.cases, results, strict=True) if torch_reserved_gib(*one)]
    taken, others = ([(case, one) for case, one in known if case.model == model] for model in (MIDDLE, LARGE))
    low_plan, high_plan = memory_model.LOW_COEFFICIENTS, memory_model.HIGH_COEFFICIENTS
    if figure.what == ERROR:
        return replace(figure.open_row, ours=worst_error(known, low_plan, high_plan), n=len(known))
    if len(taken) < 3:
        return figure.open_row
    fitted = fit_coefficients(taken)
    if figure.what == AFTER:
        return replace(figure.open_row, ours=worst_error(others, fitted, fitted), n=len(others))
    name, size = {NUMBERS: ("activation", 1), HEAD: ("head", GIB), CONTEXT: ("context", GIB)}[figure.what]
    low, high, found = (getattr(one, name) / size for one in (low_plan, high_plan, fitted))
    target = Target("ratio", "±", round((high - low) / (low + high), 2))
    middle = (low + high) / 2
    row = replace(figure.open_row, ours=found, peer=middle, ratio=found / middle, target=target, n=1)
    return replace(row, note=f"assumed: {low:.2f} to {high:.2f}")


def fit_coefficients(taken: Taken) -> memory_model.MemoryCoefficients:
    """Numbers alive per token in MLP widths, and the loss's workspace: the line through the peaks less all that is known."""
    middle = (memory_model.LOW_COEFFICIENTS.fragmentation + memory_model.HIGH_COEFFICIENTS.fragmentation) / 2
    nothing = memory_model.MemoryCoefficients(activation=0, head=0, context=0, fragmentation=0)
    widths, rests = list[float](), list[float]()
    for case, found in taken:
        wanted, reserved = case_setup(case), max(torch_reserved_gib(case, found)) * GIB
        widths.append(wanted.batch_tokens * wanted.shape.mlp * memory_model.BYTES_PER_NUMBER[wanted.base])
        rests.append(reserved / (1 + middle) - memory_model.estimate_memory(wanted, nothing, nothing).middle)
    line = linregress(widths, rests)
    context = median(found.context_gib for _, found in taken) * GIB
    return memory_model.MemoryCoefficients(
        activation=line.slope, head=max(0.0, line.intercept), context=context, fragmentation=middle
    )


def worst_error(
    taken: Taken, low: memory_model.MemoryCoefficients, high: memory_model.MemoryCoefficients
) -> float | None:
    """The largest error of the plan's middle value, in percent of what torch reserved and the context took."""
    errors = []
    for case, found in taken:
        planned = memory_model.estimate_memory(case_setup(case), low, high).middle
        errors.append(abs(planned / ((max(torch_reserved_gib(case, found)) + found.context_gib) * GIB) - 1))
    return 100 * max(errors) if errors else None


def case_setup(case: GpuCase) -> memory_model.StageSetup:
    wanted = gpu_recipe(case, case.model, "chats", "pairs")
    return memory_model.StageSetup(
        shape_of(case.model), wanted.lora, wanted.sft, "nf4" if case.precision == "auto" else case.precision
    )
