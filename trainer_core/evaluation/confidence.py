"""Shares, means and ratios with 95 % intervals, and a test for what a lane forgot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
from scipy import stats

from trainer_core.evaluation.statistics import wilson_interval
from trainer_core.runs.compare_events import ConfidenceInterval, ForgettingCheck

CONFIDENCE_LEVEL = 0.95
BOOTSTRAP_RESAMPLES = 2000
BOOTSTRAP_SEED = 1
"""Fixed, so that the same numbers give the same interval."""


def estimate_share(hits: Sequence[bool]) -> ConfidenceInterval:
    """Share of true values with Wilson's interval. Needs at least one value."""
    found = wilson_interval(sum(hits), len(hits))
    assert found is not None
    return found


def estimate_mean(values: Sequence[float]) -> ConfidenceInterval:
    """The mean with Student's t interval; no interval for a single value."""
    middle = fmean(values)
    if len(values) < 2:
        return ConfidenceInterval(middle, None, None, len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return ConfidenceInterval(middle, middle - half, middle + half, len(values))


def estimate_ratio(above: Sequence[float], below: Sequence[float], rising=lambda values: values) -> ConfidenceInterval:  # type: ignore[no-untyped-def]
    """Sum ÷ sum over paired values, transformed by a rising function, with the percentile bootstrap over the pairs
    (Efron 1979, 2,000 resamples)."""
    tops, bottoms = np.asarray(above, float), np.asarray(below, float)
    value = float(rising(tops.sum() / bottoms.sum()))
    if len(tops) < 2:
        return ConfidenceInterval(value, None, None, len(tops))

    def ratio(top, bottom, axis):  # type: ignore[no-untyped-def]
        return rising(top.sum(axis) / bottom.sum(axis))

    found = stats.bootstrap(
        (tops, bottoms),
        ratio,
        paired=True,
        n_resamples=BOOTSTRAP_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    )
    interval = found.confidence_interval
    return ConfidenceInterval(value, float(interval.low), float(interval.high), len(tops))


def estimate_perplexity(totals: Sequence[float], counts: Sequence[int]) -> ConfidenceInterval:
    """exp(−summed log-probability ÷ tokens), over all answers together."""
    return estimate_ratio([-total for total in totals], counts, np.exp)


def measure_forgetting(base: Sequence[bool], lane: Sequence[bool]) -> ForgettingCheck:
    """What a lane lost and gained against the base on the same questions.

    Exact McNemar test (1947): of the questions that only one of the two answers correctly, the base answers half if nothing
    changed. The interval is the exact one of that share (Clopper and Pearson 1934), converted to a change in the share of
    correct answers, so it excludes 0 exactly when the two-sided test gives p < 0.05.
    """
    lost = sum(one and not other for one, other in zip(base, lane, strict=True))
    gained = sum(other and not one for one, other in zip(base, lane, strict=True))
    apart, total = lost + gained, len(base)
    if not apart:
        return ForgettingCheck(lost, gained, ConfidenceInterval(0.0, 0.0, 0.0, total), 1.0)
    test = stats.binomtest(gained, apart)
    interval = test.proportion_ci(CONFIDENCE_LEVEL, method="exact")
    low, high = ((2 * float(end) - 1) * apart / total for end in (interval.low, interval.high))
    return ForgettingCheck(
        lost, gained, ConfidenceInterval((gained - lost) / total, low, high, total), float(test.pvalue)
    )
