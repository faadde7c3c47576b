"""How sure a measured number is: shares, means and ratios with 95 % intervals, and whether a lane lost what the base knew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
from scipy import stats

from trainer_core.evaluation.statistics import wilson
from trainer_core.runs.events import Forgetting, Measured

SURE = 0.95
RESAMPLES = 2000
SEED = 1
"""So that the same numbers give the same interval."""


def share(hits: Sequence[bool]) -> Measured:
    """How many of them are true, with Wilson's interval; at least one."""
    found = wilson(sum(hits), len(hits))
    assert found is not None
    return Measured(found.value, found.low, found.high, len(hits))


def mean(values: Sequence[float]) -> Measured:
    """The mean with Student's t interval; of one value there is none."""
    middle = fmean(values)
    if len(values) < 2:
        return Measured(middle, None, None, len(values))
    half = float(stats.t.ppf((1 + SURE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Measured(middle, middle - half, middle + half, len(values))


def ratio(above: Sequence[float], below: Sequence[float], rising=lambda values: values) -> Measured:  # type: ignore[no-untyped-def]
    """Sum ÷ sum over paired values, and a rising function of it, with the percentile bootstrap over the pairs
    (Efron 1979, 2,000 resamples)."""
    tops, bottoms = np.asarray(above, float), np.asarray(below, float)
    value = float(rising(tops.sum() / bottoms.sum()))
    if len(tops) < 2:
        return Measured(value, None, None, len(tops))

    def of(top, bottom, axis):  # type: ignore[no-untyped-def]
        return rising(top.sum(axis) / bottom.sum(axis))

    found = stats.bootstrap(
        (tops, bottoms), of, paired=True, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(SEED)
    )
    interval = found.confidence_interval
    return Measured(value, float(interval.low), float(interval.high), len(tops))


def perplexity(totals: Sequence[float], counts: Sequence[int]) -> Measured:
    """exp(−summed log-probability ÷ tokens), over all answers together."""
    return ratio([-total for total in totals], counts, np.exp)


def forgetting(base: Sequence[bool], lane: Sequence[bool]) -> Forgetting:
    """What a lane lost and gained against the base on the same questions.

    The exact McNemar test (1947): of the questions that only one of the two answers rightly, half would be the base's if
    nothing had changed. The interval is that share's exact one (Clopper and Pearson 1934), turned into a change of the
    share of right answers, so that it lies below 0 just where the two-sided test says p < 0.05.
    """
    lost = sum(one and not other for one, other in zip(base, lane, strict=True))
    gained = sum(other and not one for one, other in zip(base, lane, strict=True))
    apart, total = lost + gained, len(base)
    if not apart:
        return Forgetting(lost, gained, Measured(0.0, 0.0, 0.0, total), 1.0)
    test = stats.binomtest(gained, apart)
    interval = test.proportion_ci(SURE, method="exact")
    low, high = ((2 * float(end) - 1) * apart / total for end in (interval.low, interval.high))
    return Forgetting(lost, gained, Measured((gained - lost) / total, low, high, total), float(test.pvalue))
