"""Intervals and tests against the examples of those who published them."""

from __future__ import annotations

import pytest

from trainer_core.evaluation.confidence import (
    estimate_mean,
    estimate_perplexity,
    estimate_ratio,
    estimate_share,
    measure_forgetting,
)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_equals_newcombes_table(hits: int, count: int, low: float, high: float) -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    found = estimate_share([True] * hits + [False] * (count - hits))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert found.value == hits / count and found.count == count


def test_students_interval_of_the_sleep_data() -> None:
    """Student 1908: the ten differences of hours of sleep have mean 1.58, 95 % interval 0.70 to 2.46 (R's t.test)."""
    found = estimate_mean([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert found.value == pytest.approx(1.58)
    assert (found.low, found.high) == (pytest.approx(0.7001, abs=1e-4), pytest.approx(2.4599, abs=1e-4))


def test_of_one_value_there_is_no_interval() -> None:
    assert estimate_mean([3.0]).low is None and estimate_ratio([3.0], [2.0]).high is None


def test_a_ratio_of_equal_things_is_one_without_doubt() -> None:
    found = estimate_ratio([3, 5, 9], [3, 5, 9])
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_a_ratios_interval_holds_it_and_narrows_with_more_pairs() -> None:
    few, many = (estimate_ratio([1.0, 2.0, 4.0] * times, [2.0, 3.0, 3.0] * times) for times in (3, 300))
    assert few.value == many.value == 7 / 8
    assert few.low < many.low < 7 / 8 < many.high < few.high


def test_perplexity_of_a_fair_coin_is_two() -> None:
    found = estimate_perplexity([-0.693147 * 5, -0.693147 * 9], [5, 9])
    assert found.value == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize(
    ("lost", "gained", "p_value", "harmed"),
    [(0, 0, 1.0, False), (6, 0, 0.03125, True), (5, 0, 0.0625, False), (15, 5, 0.04139, True), (5, 15, 0.04139, False)],
)
def test_forgetting_is_the_exact_mcnemar_test(lost: int, gained: int, p_value: float, harmed: bool) -> None:
    """p-values of the sign test with n = 6, 5 and 20, as in Dixon and Mood 1946."""
    base = [True] * lost + [False] * gained + [True] * 30
    lane = [False] * lost + [True] * gained + [True] * 30
    found = measure_forgetting(base, lane)
    assert found.p_value == pytest.approx(p_value, abs=1e-4) and found.is_significant is harmed
    assert found.change.value == pytest.approx((gained - lost) / len(base)) and (found.lost, found.gained) == (
        lost,
        gained,
    )
    assert found.change.low <= found.change.value <= found.change.high


def test_forgetting_is_red_just_where_the_test_is_below_5_percent() -> None:
    for lost in range(1, 20):
        for gained in range(lost):
            found = measure_forgetting([True] * lost + [False] * gained, [False] * lost + [True] * gained)
            assert found.is_significant == (found.p_value < 0.05), (lost, gained)
