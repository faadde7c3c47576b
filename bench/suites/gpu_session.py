"""One call of `bench cuda`: which cases are known from the results file, and measuring those that are not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

from bench.harness import fixtures, models
from bench.harness.child import ChildError
from bench.harness.journal import BenchCall, JournalEntry, plain_version
from bench.harness.result import BenchRow, Device, stamp_measured_row
from bench.suites.gpu_case import GpuCase, GpuCaseJob, GpuCaseResult
from bench.suites.gpu_reading import MIDDLE, SMALL, FigureSpec
from trainer_core.system import hardware

CASE_SECONDS = 240.0
PYTHONS = "BENCH_PYTHONS"
"""Variable that names other Pythons with all our libraries and another torch, separated like the entries of PATH."""
STARTER = "starter"


@dataclass
class GpuSession:
    """One call: the machine, the data, and what was measured in it."""

    call: BenchCall
    place: Path
    tiny: bool
    gpu: hardware.Gpu | None
    found: dict[GpuCase, GpuCaseResult] = field(default_factory=dict)
    tried: set[GpuCase] = field(default_factory=set)
    """In this call: what failed in an earlier one is tried once more."""

    @property
    def card(self) -> str:
        return self.gpu.name if self.gpu else hardware.cpu_name()

    @property
    def case_time_limit(self) -> float:
        """Seconds that a case may take."""
        return inf if self.tiny else CASE_SECONDS

    def find_result(self, case: GpuCase) -> GpuCaseResult:
        """What was measured of a case so far; or why there is nothing, without a reason where nobody tried."""
        wanted = self.case_here(case)
        if wanted not in self.found:
            entry = self.call.journal.find(self.key(wanted), self.card, version_in(wanted.torch))
            self.found |= {wanted: read_entry(entry)} if entry else {}
        return self.found.get(wanted, GpuCaseResult(missing=True))

    def measure(self, case: GpuCase) -> None:
        """Measure a case that is not known, as far as there is time. It is in the results file when this returns."""
        wanted = self.case_here(case)
        if not self.find_result(case).missing or wanted in self.tried:
            return
        if why := missing_requirement(wanted, self.gpu is not None):
            self.found[wanted] = GpuCaseResult(error=why, missing=True)
        elif not self.call.is_over:
            self.tried.add(wanted)
            self.found[wanted] = self.run(wanted)

    def case_here(self, case: GpuCase) -> GpuCase:
        """What stands for a case here."""
        own = case.model_copy(update={"torch": "" if case.torch == minor_version(version("torch")) else case.torch})
        return tiny_case(own) if self.tiny else own

    def key(self, case: GpuCase) -> dict[str, Any]:
        return {"cuda": case.model_dump(mode="json", exclude_defaults=True), "tiny": self.tiny}

    def run(self, case: GpuCase) -> GpuCaseResult:
        began = time.monotonic()
        order, seconds = self.order(case), min(self.call.seconds_left, self.case_time_limit)
        try:
            result = order.run(python_by_torch().get(case.torch, sys.executable), seconds, self.environment())
            value = {"result": result.model_dump(mode="json", exclude={"missing", "where", "date"})}
            entry = JournalEntry(self.key(case), value, result.where)
            if result.error and not result.proof:
                entry = self.failure_entry(case, result.error, order.log)
        except ChildError as error:
            entry = self.failure_entry(case, str(error), order.log)
        except subprocess.TimeoutExpired:
            if seconds < self.case_time_limit:
                why = f"cut after {seconds:.0f} s by the end of the budget; the next call measures it"
                return GpuCaseResult(error=why, missing=True)
            entry = self.failure_entry(case, f"not done after {seconds:.0f} s", order.log)
        self.call.journal.add(entry)
        what = " ".join(f"{name} {value}" for name, value in case.model_dump(exclude_defaults=True).items())
        sys.stderr.write(f"{time.monotonic() - began:4.0f} s  {what}: {entry.value.get('failed', 'measured')}\n")
        return read_entry(entry)

    def failure_entry(self, case: GpuCase, why: str, log: Path) -> JournalEntry:
        where = {"card": self.card, "torch": version_in(case.torch)}
        return JournalEntry(self.key(case), {"failed": why, "log": ChildError(log).log}, where)

    def order(self, case: GpuCase) -> GpuCaseJob:
        folder = Path(tempfile.mkdtemp(dir=self.place))
        model = self.model(case.model)
        adapters = models.cache_adapters(model) if case.way == "lanes" else ()
        chats, pairs = self.data(case.answers)
        return GpuCaseJob(case=case, model=model, adapters=adapters, chats=chats, pairs=pairs, folder=folder)

    def model(self, name: str) -> Path:
        if name == STARTER:
            return models.starter_model()
        return models.cache_model(SMALL if name == "tiny" else name, self.tiny or name == "tiny")

    def data(self, answers: int) -> tuple[Path, Path]:
        """Chats and pairs: of mixed lengths, as real data has them, half of them short; or all of that many tokens."""
        chats, pairs = (self.place / f"{name}-{answers}.jsonl" for name in ("chats", "pairs"))
        if not pairs.exists():
            fixtures.write_chats(
                chats, 200 if self.tiny or answers else 4000, (answers,) if answers else (20, 40, 80, 160, 320, 1200)
            )
            if answers:
                fixtures.write_answer_pairs(pairs, 40, (answers,))
            else:
                fixtures.write_pair_file(pairs, 200 if self.tiny else 1000, 300 if self.tiny else 8000)
        return chats, pairs

    def environment(self) -> dict[str, str]:
        """Nothing is fetched, and the cases of one results file share what is compiled."""
        name = self.call.journal.file.stem
        return {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "UNSLOTH_DISABLE_STATISTICS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUTF8": "1",
            "UNSLOTH_COMPILE_LOCATION": str(models.bench_home() / "compiled" / name / "unsloth"),
            **models.compile_caches(name),
            **({"OMP_NUM_THREADS": "1"} if self.tiny else {}),
        }

    def row(self, figure: FigureSpec, device: Device) -> BenchRow:
        """A row from what is known."""
        results = [self.find_result(case) for case in figure.cases]
        row = figure.read(figure, results, self.card)
        measured = [one for one in results if not one.missing]
        return stamp_measured_row(row, device, self.tiny, measured[0].where, measured[0].date) if measured else row


def read_entry(entry: JournalEntry) -> GpuCaseResult:
    if "failed" in entry.value:
        return GpuCaseResult(error=f"failed: {entry.value['failed']}", missing=True)
    return GpuCaseResult.model_validate(entry.value["result"] | {"where": entry.where, "date": entry.date})


def tiny_case(case: GpuCase) -> GpuCase:
    """The same case as the processor can have it in seconds; many become one."""
    kind = MIDDLE if case.model in models.SHAPES and models.SHAPES[case.model][0] == "qwen3" else SMALL
    if case.way in ("kernel", "noise"):
        return case
    if case.way == "lanes":
        return case.model_copy(update={"model": SMALL, "batch": min(2, case.batch), "length": 4})
    small: dict[str, Any] = {"precision": "fp32", "batch": 2, "length": 64, "warm": 1, "steps": 3, "packing": False}
    off: dict[str, Any] = {"skip_layers": "off", "padding": "auto", "blocks": "compiled", "probe": "off"}
    few = {"samples": min(4, case.samples), "checks": min(1, case.checks), "answers": min(8, case.answers)}
    attention = "auto" if case.attention == "rows" else case.attention
    one = {"model": SMALL if case.way == "bare" else kind, "attention": attention}
    return case.model_copy(update=small | off | few | one)


def missing_requirement(case: GpuCase, card: bool) -> str:
    """Why a case cannot be had on this machine; empty: it can be tried."""
    if case.way == "plain" and not card:
        return "TRL 1.15 alone cannot train on a processor: its fused head needs Triton"
    if case.way == "kernel" and not card:
        return "there is no card"
    if case.attention == "xformers" and not find_spec("xformers"):
        return "xformers is not installed"
    if case.torch and case.torch not in python_by_torch():
        return f"no Python with torch {case.torch} is named in {PYTHONS}"
    return ""


@cache
def python_by_torch() -> dict[str, str]:
    """Torch's major and minor version → the Python that has it; this one's among them."""
    found = {minor_version(version("torch")): sys.executable}
    for python in filter(None, os.environ.get(PYTHONS, "").split(os.pathsep)):
        found.setdefault(minor_version(torch_of(python)), python)
    return found


@cache
def torch_of(python: str) -> str:
    asked = "from importlib.metadata import version; print(version('torch'))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def version_in(torch: str) -> str:
    """The full version of that torch, or of this Python's; what is not there has none."""
    python = python_by_torch().get(torch, "") if torch else sys.executable
    return version("torch") if python == sys.executable else torch_of(python) if python else torch


def minor_version(full: str) -> str:
    """`2.13.0+cpu` → `2.13`."""
    return ".".join(plain_version(full).split(".")[:2])
