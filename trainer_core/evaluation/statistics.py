"""Statistics of votes: tests and intervals for two lanes, strengths for more, and bias by side or length.

The user sees the score after every vote. Testing p < 0.05 after each of 5 to 40 votes would call a winner in 15 % of fair
comparisons, so a verdict is given at four fixed numbers of votes only, with a bound for four looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainer_core.runs.compare_events import ConfidenceInterval

Array = NDArray[np.float64]

LOOKS = (10, 20, 30, 40)
"""Numbers of decided votes at which the verdict is updated; it stays the same in between and after the last."""
CLEAR_BELOW = 0.022
"""Two-sided p at a look. A constant bound over equal looks (Pocock, Biometrika 64, 1977, 191-199), applied to the exact
binomial: 9-1, 16-4, 22-8 and 28-12 are clear, and two equal lanes are called different in 4.7 % of all comparisons."""
LEANING_BELOW = 0.3
CONFIDENCE_SHARE = 0.95
MIN_VOTES_FOR_SHARE = 5
"""With fewer decided votes, a percentage claims more than is known."""
MIN_VOTES_FOR_BIAS = 10
BIAS_BELOW = 0.05
SAME_LENGTH = 0.1
"""Two answers count as equally long if their lengths differ by at most this share of the longer one."""
BOOTSTRAP_DRAWS = 1000
MAX_ITERATIONS = 2000
CONVERGENCE_TOLERANCE = 1e-9

VerdictLabel = Literal["Not decided yet", "Leaning", "Clear", "No difference seen"]


@dataclass(frozen=True)
class VoteVerdict:
    """The verdict at the newest look.

    Fields:
        word: "Clear" and "Leaning" refer to `side`; the other two to neither.
        side: 0 for the first lane, 1 for the second.
        at: decided votes at that look; 0 before the first look.
        p: two-sided p-value at that look.
        next_look: decided votes at the next update; None after the last look.
    """

    word: VerdictLabel
    side: int | None
    at: int
    p: float
    next_look: int | None


def sign_test(first: int, second: int) -> float:
    """Two-sided exact p-value of these votes if both sides are equally good; 1 without votes."""
    from scipy.special import bdtr  # takes half a second, which would delay the start of the app

    return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5)))


def wilson_interval(wins: int, decided: int) -> ConfidenceInterval | None:
    """The share of wins with its score interval (Wilson, JASA 22, 1927, 209-212); None without votes."""
    if not decided:
        return None
    share, z = wins / decided, NormalDist().inv_cdf((1 + CONFIDENCE_SHARE) / 2)
    middle = (share + z**2 / (2 * decided)) / (1 + z**2 / decided)
    half = z / (1 + z**2 / decided) * math.sqrt(share * (1 - share) / decided + z**2 / (4 * decided**2))
    return ConfidenceInterval(share, max(0.0, middle - half), min(1.0, middle + half), decided)


def repetition_share(units: Sequence[object], width: int = 4) -> float:
    """The share of an answer's phrases of `width` tokens or words that it repeats (rep-4 of Welleck 2020)."""
    phrases = [tuple(units[start : start + width]) for start in range(len(units) - width + 1)]
    return 1 - len(set(phrases)) / len(phrases) if phrases else 0.0


def decide_verdict(winners: Sequence[int]) -> VoteVerdict:
    """The verdict after these decided votes.

    Args:
        winners: 0 or 1 for each decided vote, in voting order.
    """
    at = max((look for look in LOOKS if look <= len(winners)), default=0)
    next_look = next((look for look in LOOKS if look > len(winners)), None)
    second = sum(winners[:at])
    first = at - second
    p = sign_test(first, second)
    word = verdict_label(p, at)
    side = int(second > first) if word in ("Clear", "Leaning") else None
    return VoteVerdict(word, side, at, p, next_look)


def verdict_label(p: float, at: int) -> VerdictLabel:
    if at and p < CLEAR_BELOW:
        return "Clear"
    if at and p < LEANING_BELOW:
        return "Leaning"
    return "No difference seen" if at == LOOKS[-1] else "Not decided yet"


@dataclass(frozen=True)
class PositionBias:
    """Wins of the left side, and whether that is unlikely by chance."""

    left: int
    decided: int
    share: ConfidenceInterval | None
    suspicious: bool


def position_bias(left: int, decided: int) -> PositionBias:
    """Tests for a habit. Sides are random, so without a habit the left one wins half."""
    odd = decided >= MIN_VOTES_FOR_BIAS and sign_test(left, decided - left) < BIAS_BELOW
    return PositionBias(left, decided, wilson_interval(left, decided), odd)


@dataclass(frozen=True)
class LengthCheck:
    """Lengths of the answers in decided votes.

    Fields:
        ratio: median length of the second lane's answers ÷ that of the first lane's; None without votes.
        longer: decided votes for the longer answer. of_unequal: votes where the lengths differ.
        second: wins of the second lane among answers of about equal length. of_similar: number of those votes.
    """

    ratio: float | None
    longer: int
    of_unequal: int
    second: int
    of_similar: int


def length_check(lengths: Sequence[tuple[int, int]], winners: Sequence[int]) -> LengthCheck:
    """Tests whether length decided the votes.

    Args:
        lengths: characters of the first and the second lane's answer, one pair per decided vote.
        winners: 0 or 1 for each of them.
    """
    pairs = list(zip(lengths, winners, strict=True))
    medians = [float(np.median([length[lane] for length, _ in pairs])) for lane in (0, 1)] if pairs else [0.0, 0.0]
    unequal = [(length, winner) for length, winner in pairs if length[0] != length[1]]
    similar = [winner for length, winner in pairs if abs(length[0] - length[1]) <= SAME_LENGTH * max(length)]
    return LengthCheck(
        ratio=medians[1] / medians[0] if medians[0] else None,
        longer=sum(length[winner] > length[1 - winner] for length, winner in unequal),
        of_unequal=len(unequal),
        second=sum(similar),
        of_similar=len(similar),
    )


@dataclass(frozen=True)
class Match:
    """One vote between two of several lanes; `share` is the first lane's score: 1, 0, or 0.5 for a tie."""

    prompt: str
    first: str
    second: str
    share: float


def bradley_terry(games: Sequence[Match], prior: float = 0.5, seed: int = 0) -> dict[str, ConfidenceInterval]:
    """The strength of each lane on a logarithmic scale with mean 0: P(a beats b) = 1 / (1 + exp(b - a)).

    Intervals are percentiles of a bootstrap over prompts, because votes on one prompt are not independent.

    Args:
        prior: wins added to each side of every pair, so that a lane that never lost stays finite. 0 is plain maximum
            likelihood, which then may not exist.
    """
    names = sorted({name for game in games for name in (game.first, game.second)})
    if len(names) < 2:
        return {}
    tables = np.stack(
        [win_matrix([game for game in games if game.prompt == one], names) for one in match_prompts(games)]
    )
    best = fit_strengths(tables.sum(0) + prior)
    counts = np.random.default_rng(seed).multinomial(
        len(tables), np.full(len(tables), 1 / len(tables)), size=BOOTSTRAP_DRAWS
    )
    drawn = fit_strengths(np.einsum("dp,pij->dij", counts, tables) + prior) if prior else best[None]
    tail = 50 * (1 - CONFIDENCE_SHARE)
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    played = {name: sum(name in (game.first, game.second) for game in games) for name in names}
    return {
        name: ConfidenceInterval(float(best[at]), float(low[at]), float(high[at]), played[name])
        for at, name in enumerate(names)
    }


def match_prompts(games: Sequence[Match]) -> list[str]:
    return list(dict.fromkeys(game.prompt for game in games))


def win_matrix(games: Sequence[Match], names: Sequence[str]) -> Array:
    """Wins of row over column."""
    wins = np.zeros((len(names), len(names)))
    for game in games:
        first, second = names.index(game.first), names.index(game.second)
        wins[first, second] += game.share
        wins[second, first] += 1 - game.share
    return wins


def fit_strengths(wins: Array) -> Array:
    """Maximum likelihood by minorise-maximise (Hunter, Annals of Statistics 32, 2004, 384-406, equation 3).

    Args:
        wins: wins of row over column, shape (..., lanes, lanes); the diagonal is ignored.

    Returns:
        Logarithms of the strengths with mean 0, shape (..., lanes).
    """
    off = 1 - np.eye(wins.shape[-1])
    wins = wins * off
    played, won = wins + np.swapaxes(wins, -1, -2), wins.sum(-1)
    power = np.ones(won.shape)
    for _ in range(MAX_ITERATIONS):
        new = won / (played / (power[..., :, None] + power[..., None, :])).sum(-1)
        new = new / np.exp(np.log(new).mean(-1, keepdims=True))
        if np.abs(new - power).max() < CONVERGENCE_TOLERANCE:
            break
        power = new
    logs: Array = np.log(new)
    return logs
