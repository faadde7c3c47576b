"""What is measured on a card, and what comes out: what a results file holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bench.harness.child import run_child
from trainer_core.config.recipe import Precision

Way = Literal["ours", "bare", "plain", "logits", "lanes", "kernel", "noise"]
"""By whom, or what; `gpu_child.py` says more."""


class GpuCase(BaseModel):
    """What to measure. The key of a measurement in the results file.

    Args:
        model: a name in `bench/harness/models.py`.
        answers: tokens of each answer in the data; 0: mixed lengths, half of them short, some as long as the context.
        batch: rows (DPO: pairs) in memory at once; lanes: prompts.
        length: tokens of a row at most; lanes: of an answer.
        warm: of the steps, those not measured.
        samples: tokens of each sample answer; 0: none. checks: held-out checks of a stage.
        killed: the stage before whose last step but one the worker is killed and started again.
        group: lanes: how, see `compare_ways.py`. dice: lanes: with them, else the likeliest token.
        torch: release of another Python's torch, empty for this one's.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())
    way: Way
    stage: Literal["sft", "dpo", "sft+dpo"] = "sft"
    model: str
    answers: int = 0
    precision: Precision = "nf4"
    batch: int = 4
    length: int = 2048
    warm: int = 10
    steps: int = 20
    packing: bool = False
    skip_layers: Literal["auto", "off"] = "off"
    attention: Literal["auto", "rows", "xformers", "flex"] = "auto"
    padding: Literal["auto", "free", "padded"] = "auto"
    blocks: Literal["compiled", "eager"] = "compiled"
    probe: Literal["on", "off"] = "off"
    samples: int = 0
    checks: int = 0
    killed: Literal["", "sft", "dpo"] = ""
    group: str = ""
    dice: bool = False
    torch: str = ""


class GpuCaseJob(BaseModel):
    """A case with where its files are. folder: empty, for the child alone."""

    case: GpuCase
    model: Path
    adapters: tuple[Path, ...] = ()
    chats: Path = Path()
    pairs: Path = Path()
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def result_path(self) -> Path:
        return self.folder / "result.json"

    def run(self, python: str, seconds: float, environment: Mapping[str, str]) -> GpuCaseResult:
        """Measure it in a process of its own.

        Raises:
            ChildError: it failed.
            subprocess.TimeoutExpired: it took longer than that.
        """
        file = self.folder / "order.json"
        file.write_text(self.model_dump_json(), encoding="utf-8")
        run_child([python, "-m", "bench.suites.gpu_child", str(file)], self.log, seconds, environment)
        return GpuCaseResult.model_validate_json(self.result_path.read_bytes())


class StageMeasurement(BaseModel):
    """One stage, step by step; filled in while it trains.

    Args:
        seconds: of each step, from the end of the one before; sample answers and held-out checks are not in it.
        tokens: real (non-padding) tokens of each step; of a pair both sides, each with its prompt.
        losses: nats. margins: of DPO, in β·nats.
        peak_gib: what torch reserved at most.
        step_gib: what torch held at most within a step.
        samples, checks: seconds of each.
        probe: seconds of it.
        states: how many of the optimiser's tensors are 8-bit, and all of them.
    """

    seconds: list[float] = []
    tokens: list[int] = []
    losses: list[float] = []
    margins: list[float] = []
    peak_gib: float = 0.0
    step_gib: float = 0.0
    samples: list[float] = []
    checks: list[float] = []
    probe: float = 0.0
    states: tuple[int, int] = (0, 0)


class GpuCaseResult(BaseModel):
    """What a case gave, or why there is nothing.

    Args:
        stages: "sft" and "dpo", as far as they were trained.
        context_gib: what the card lost beside what torch reserved: the CUDA context and the libraries' own memory.
        proof: of DPO before its first step, loss less expected loss in nats, and margin; None: there was none.
        kept_layers: how many layers are not recomputed, and all; None: nothing was said about it.
        numbers: seconds, by name (kernel, noise, lanes).
        said: token ids of each lane's answers.
        compiled: files in the compile cache before.
        error: why the run failed, after what is told here; or why there was none.
        missing: nothing was measured.
        where, date: the card and the versions that it is of, and its day.
    """

    stages: dict[str, StageMeasurement] = {}
    context_gib: float = 0.0
    proof: tuple[float, float] | None = None
    kept_layers: tuple[int, int] | None = None
    numbers: dict[str, float] = {}
    said: dict[str, list[list[int]]] = {}
    compiled: int = 0
    error: str = ""
    missing: bool = False
    where: dict[str, str] = {}
    date: str = ""
