"""The learning rate of each step: above 0 at every one, and at its height before the run is over."""

from __future__ import annotations

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.methods.base import Scheduler
from trainer_core.methods.sft import Sft
from trainer_core.methods.steps import rate_factor, warmup_steps, warmup_text

SETTINGS = st.builds(Sft, scheduler=st.sampled_from(get_args(Scheduler)), warmup=st.floats(0, 0.5))


@given(SETTINGS, st.integers(1, 400))
def test_no_step_has_rate_0_and_warm_up_never_covers_the_run(settings: Sft, total: int) -> None:
    factors = [rate_factor(step, settings, total) for step in range(total)]
    assert min(factors) > 0 and max(factors) == 1.0
    assert factors[warmup_steps(settings, total)] == 1.0 and warmup_steps(settings, total) < total


@given(st.floats(0.01, 0.5), st.integers(2, 400))
def test_after_warm_up_the_rate_falls_as_transformers_would_have_it(share: float, total: int) -> None:
    """get_cosine_schedule_with_warmup: ½ (1 + cos π p), p = (step - warm-up) / (total - warm-up)."""
    settings, warm = Sft(warmup=share), warmup_steps(Sft(warmup=share), total)
    assert warm == min(math.ceil(share * total), total - 1)
    for step in range(warm, total):
        assert rate_factor(step, settings, total) == pytest.approx(
            0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
        )


def test_it_rises_evenly_from_above_0() -> None:
    settings = Sft(warmup=0.3, scheduler="linear")
    assert [rate_factor(step, settings, 10) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    ("total", "scheduler", "text"),
    [
        (1, "cosine", ""),
        (2, "cosine", "warm-up 1 of 2 steps"),
        (40, "linear", "warm-up 4 of 40 steps"),
        (40, "constant", ""),
    ],
)
def test_the_effective_warm_up_is_told(total: int, scheduler: Scheduler, text: str) -> None:
    assert warmup_text(Sft(scheduler=scheduler), total) == text
