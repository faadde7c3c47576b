"""The guard: what has gone wrong is stopped at its third bad step, and no healthy run is."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from trainer_core.diagnosis.divergence import CONFIRM_STEPS, DivergenceDetector
from trainer_core.runs.event_log import Tail
from trainer_core.runs.events import Stage, TrainStep
from trainer_core.texts import NO_TEXT

HISTORIES = Path(__file__).parents[2] / "support" / "histories"


def sft(seed: int, steps: int = 60) -> list[float]:
    dice = random.Random(seed)
    return [3.5 * math.exp(-3 * at / steps) + 0.4 + dice.gauss(0, 0.15) for at in range(steps)]


def dpo(seed: int, steps: int = 60) -> list[float]:
    """Begins at ln 2 exactly and falls near 0, with single pairs it still gets wrong."""
    dice = random.Random(seed)
    rest = (math.log(2) * math.exp(-5 * at / steps) * dice.lognormvariate(0, 0.6) for at in range(1, steps))
    return [math.log(2), *rest]


def stopped_at(losses: Iterable[float], norm: float = 1.0, stage: Stage = "sft") -> int | None:
    """The step (from 1) at which the guard gives the run up."""
    guard = DivergenceDetector(stage)
    return next((at for at, loss in enumerate(losses, 1) if guard.check_step(loss, norm)), None)


@pytest.mark.parametrize("curve", [sft, dpo])
@pytest.mark.parametrize("seed", range(30))
def test_no_healthy_run_is_stopped(curve, seed: int) -> None:
    assert stopped_at(curve(seed), stage="dpo" if curve is dpo else "sft") is None


def real() -> list[Path]:
    return sorted(HISTORIES.glob("starter-*.jsonl"))


@pytest.mark.parametrize("path", real(), ids=lambda path: path.stem)
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_no_real_healthy_run_is_stopped(path: Path, stage: Stage) -> None:
    losses = [event.loss for event in Tail(path) if isinstance(event, TrainStep) and event.stage == stage]
    assert len(losses) > 3 and stopped_at(losses, stage=stage) is None


@pytest.mark.parametrize("curve", [sft, dpo])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 2, 7, 40])
def test_numbers_that_are_none_stop_it_at_the_third(curve, bad: float, at: int) -> None:
    assert stopped_at([*curve(1)[: at - 1], *[bad] * 10]) == at + CONFIRM_STEPS - 1


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("at", [8, 20, 40, 52])
def test_ten_times_the_loss_stops_it_at_the_third(seed: int, at: int) -> None:
    losses = sft(seed)
    assert stopped_at([*losses[: at - 1], *(10 * loss for loss in losses[at - 1 :])]) == at + CONFIRM_STEPS - 1


@pytest.mark.parametrize(
    ("loss", "norm", "code", "params"),
    [
        (math.inf, 1.0, "diverged.loss", {"loss": math.inf}),
        (2.0, math.inf, "diverged.gradient", {"norm": math.inf}),
        (30.0, 1.0, "diverged.jump", {"loss": 30.0, "usual": 2.0}),
    ],
)
def test_it_says_which_number_went_wrong(loss: float, norm: float, code: str, params: dict[str, float]) -> None:
    guard = DivergenceDetector("sft")
    for _ in range(6):
        assert not guard.check_step(2.0, 1.0)
    wrong = [guard.check_step(loss, norm) for _ in range(CONFIRM_STEPS)][-1]
    assert (wrong.code, wrong.params) == (code, params) and wrong == guard.wrong_now


def test_a_rate_far_too_high_is_stopped_early() -> None:
    assert stopped_at([3.7, 4.0, 47.8, 31.0, 22.0, 15.0]) == 5


def test_a_dpo_that_still_gets_pairs_wrong_goes_on_and_one_that_left_is_stopped() -> None:
    assert stopped_at([0.69, 0.30, 1.46, 1.41, 1.42, 0.21], stage="dpo") is None
    assert stopped_at([0.69, 0.30, 3.46, 5.41, 9.42, 9.21], stage="dpo") == 5
    assert stopped_at([*dpo(1)[:40], 2.1, 2.4, 1.9], stage="dpo") == 43


def test_one_odd_batch_is_forgiven() -> None:
    losses = sft(1)
    losses[30], losses[31] = math.nan, 60.0
    assert stopped_at(losses) is None


def test_bad_steps_count_in_a_row() -> None:
    losses = sft(1)
    for at in (10, 20, 30, 40, 41, 50, 51):
        losses[at] = math.nan
    assert stopped_at(losses) is None


def test_an_endless_gradient_counts_as_well() -> None:
    assert stopped_at(sft(1), norm=math.inf) == CONFIRM_STEPS


LOSS_SCALER = [(5.83, math.inf)] * 7 + [(5.82, 3.1), (5.61, 2.2), (5.57, 1.9)]
"""(loss, gradient norm) of a float16 run on a card of the Turing generation: the scale halves from 65,536 until gradients fit."""


def test_steps_that_the_loss_scaler_skips_are_no_strikes() -> None:
    guard = DivergenceDetector("dpo")
    assert [guard.check_step(loss, norm, math.isinf(norm)) for loss, norm in LOSS_SCALER] == [NO_TEXT] * len(
        LOSS_SCALER
    )
    assert guard.skipped == 7 and guard.bad == 0


def test_a_scale_that_is_never_found_ends_the_run() -> None:
    guard = DivergenceDetector("sft")
    ended = [at for at in range(1, 20) if guard.check_step(5.8, math.inf, True)]
    assert ended[0] == 10 + CONFIRM_STEPS


def test_a_skipped_step_hides_no_loss_that_is_none() -> None:
    guard = DivergenceDetector("sft")
    assert [bool(guard.check_step(math.nan, math.inf, True)) for _ in range(CONFIRM_STEPS)] == [False] * (
        CONFIRM_STEPS - 1
    ) + [True]
