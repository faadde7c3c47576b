"""The statistics of votes against published numbers; each case names its source."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from trainer_core.evaluation import statistics
from trainer_core.evaluation.statistics import (
    Match,
    bradley_terry,
    decide_verdict,
    length_check,
    position_bias,
    sign_test,
    wilson_interval,
)

COUNTED = "counted by hand: 2 * (ways to be this uneven) / 2^n"
WORKED = "Wilson 1927: (w + z^2/2 +- z sqrt(w l / n + z^2/4)) / (n + z^2), worked through with z = 1.959964"

SIGN_TESTS = [
    (0, 0, 1.0, "no votes: nothing was seen"),
    (6, 0, 2 / 64, COUNTED),
    (9, 1, 2 * 11 / 1024, COUNTED),
    (1, 9, 2 * 11 / 1024, COUNTED),
    (5, 5, 1.0, "no more uneven than anything"),
    (15, 5, 2 * 21_700 / 2**20, COUNTED),
    (16, 4, 2 * 6_196 / 2**20, COUNTED),
    (11, 3, 0.05737305, "Siegel 1956, Nonparametric Statistics, p. 70: one-tailed .029 for 3 of 14"),
    (12, 5, 2 * 9_402 / 2**17, COUNTED),
]

WILSON = [
    (81, 263, 0.2553, 0.3662, "Newcombe 1998, Statistics in Medicine 17, Table I, method 3"),
    (15, 148, 0.0624, 0.1605, "Newcombe 1998, Table I, method 3"),
    (0, 20, 0.0000, 0.1611, "Newcombe 1998, Table I, method 3"),
    (1, 29, 0.0061, 0.1718, "Newcombe 1998, Table I, method 3"),
    (6, 6, 0.6097, 1.0000, "1 / (1 + 1.959964^2 / 6): the closed form where nothing was lost"),
    (15, 20, 0.5313, 0.8881, WORKED),
    (16, 20, 0.5840, 0.9193, WORKED),
]

TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
BASEBALL = [
    [0, 7, 9, 7, 7, 9, 11],
    [6, 0, 7, 5, 11, 9, 9],
    [4, 6, 0, 7, 7, 8, 12],
    [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12],
    [4, 4, 5, 6, 6, 0, 6],
    [2, 4, 1, 3, 1, 7, 0],
]
"""Agresti, Categorical Data Analysis, 2nd ed. 2002, Table 10.10: American League East 1987, wins of row over column."""


@pytest.mark.parametrize(("first", "second", "p", "source"), SIGN_TESTS)
def test_sign_test(first, second, p, source):
    assert sign_test(first, second) == pytest.approx(p, abs=1e-6), source


@pytest.mark.parametrize(("wins", "decided", "low", "high", "source"), WILSON)
def test_wilson(wins, decided, low, high, source):
    found = wilson_interval(wins, decided)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5), source
    assert found.value == wins / decided


def test_without_decided_votes_there_is_no_share():
    assert wilson_interval(0, 0) is None
    assert decide_verdict([]) == statistics.VoteVerdict("Not decided yet", None, 0, 1.0, 10)


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        (6, 0, "Not decided yet"),
        (9, 1, "Clear"),
        (8, 2, "Leaning"),
        (5, 5, "Not decided yet"),
        (15, 5, "Leaning"),
        (16, 4, "Clear"),
        (22, 8, "Clear"),
        (21, 9, "Leaning"),
        (28, 12, "Clear"),
        (27, 13, "Leaning"),
        (21, 19, "No difference seen"),
    ],
)
def test_the_word_at_each_look(first, second, word):
    """The bounds that ux.md section 8 gives."""
    found = decide_verdict(([0, 1] * first)[: 2 * min(first, second)] + [int(second > first)] * abs(first - second))
    assert found.word == word
    assert found.side == (int(second > first) if word in ("Clear", "Leaning") else None)


def test_between_two_looks_the_verdict_stays():
    clear = [1] * 9 + [0]
    assert decide_verdict(clear).word == "Clear"
    later = decide_verdict([*clear, 0, 0, 0, 0, 0, 0, 0])
    assert (later.word, later.side, later.at, later.next_look) == ("Clear", 1, 10, 20)
    assert decide_verdict([*clear, 1, 1, 1, 0, 1, 1, 1]) == later


def test_equal_lanes_are_called_different_in_one_comparison_of_twenty_at_most():
    """Exact, by walking through every number of wins from look to look: 4.7 % (Pocock aims at 5 %)."""
    undecided, called, before = {0: 1.0}, 0.0, 0
    for look in statistics.LOOKS:
        more, reached = look - before, {}
        for (wins, chance), added in itertools.product(undecided.items(), range(more + 1)):
            total = wins + added
            reached[total] = reached.get(total, 0.0) + chance * math.comb(more, added) / 2**more
        clear = {wins for wins in reached if sign_test(wins, look - wins) < statistics.CLEAR_BELOW}
        called += sum(reached[wins] for wins in clear)
        undecided, before = {wins: chance for wins, chance in reached.items() if wins not in clear}, look
    assert called == pytest.approx(0.047, abs=0.0005)


def test_strengths_of_baseball_teams():
    """Agresti 2002, Table 10.11; log-strengths with Baltimore at 0."""
    found = statistics.fit_strengths(np.array(BASEBALL, float))
    published = [1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0.0]
    assert found - found[-1] == pytest.approx(published, abs=0.005)


def test_two_lanes_have_the_log_odds_of_their_share():
    """With two lanes the maximum likelihood is the share itself (Bradley and Terry 1952, Biometrika 39, section 4)."""
    games = [Match(str(at), "a", "b", float(at < 15)) for at in range(20)]
    found = bradley_terry(games, prior=0)
    assert found["a"].value - found["b"].value == pytest.approx(math.log(15 / 5), abs=1e-6)


def test_ties_alone_leave_all_lanes_equal():
    games = [Match(str(at), *pair, 0.5) for at, pair in enumerate(itertools.permutations("abc", 2))]
    for found in bradley_terry(games).values():
        assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-6)


def test_a_lane_that_never_lost_has_a_finite_strength_and_the_order_is_kept():
    games = [
        Match(f"{at}{pair}", *pair, float(at > 0 or pair == ("a", "c")))
        for at in range(8)
        for pair in (("a", "b"), ("b", "c"), ("a", "c"))
    ]
    found = bradley_terry(games)
    assert found["a"].value > found["b"].value > found["c"].value
    assert all(math.isfinite(bound) for one in found.values() for bound in (one.low, one.high))
    assert found["a"].low > found["c"].high
    assert all(one.low < one.value < one.high for one in found.values()), "eight prompts leave room"
    assert bradley_terry(games) == found, "the same votes give the same intervals"


def test_the_bootstrap_draws_prompts_not_votes():
    """Forty votes on one prompt are one observation: nothing can vary, so the interval is a point."""
    found = bradley_terry([Match("only", "a", "b", 1.0)] * 40)
    assert found["a"].low == pytest.approx(found["a"].high)


def test_no_votes_have_no_strengths():
    assert bradley_terry([]) == {}


def test_side_bias():
    assert position_bias(0, 0) == statistics.PositionBias(0, 0, None, False)
    assert not position_bias(8, 9).suspicious, "nine votes are too few to speak of a habit"
    assert not position_bias(14, 20).suspicious  # p = 0.115
    assert position_bias(15, 20).suspicious  # p = 0.041
    assert position_bias(5, 20).suspicious


def test_length_check():
    lengths = [(100, 200), (100, 130), (100, 105), (100, 95), (80, 80)]
    found = length_check(lengths, [1, 1, 0, 1, 1])
    assert found.ratio == pytest.approx(105 / 100)
    assert (found.longer, found.of_unequal) == (2, 4)
    assert (found.second, found.of_similar) == (2, 3)
    assert length_check([], []) == statistics.LengthCheck(None, 0, 0, 0, 0)
