"""The votes on two lanes in words and plain values: counts, shares, and conclusions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer_core.evaluation import votes
from trainer_core.evaluation.statistics import ConfidenceInterval
from trainer_core.evaluation.tally import VoteTally, lane_strengths, tally_votes
from trainer_core.evaluation.votes import LanePair, Vote

MIN_PAIRS = 30
MIN_SIDES = 10
"""Fewest votes for a statement about side bias."""


@lru_cache(maxsize=8)
def count_votes(
    path: Path, size: int, changed: int, contest: LanePair, made: frozenset[tuple[str, str]]
) -> dict[str, Any]:
    """A contest in words. Cached, because the bootstrap over all lanes is too slow for every second."""
    every = read_votes(path, size, changed)
    given = votes.votes_on_current_lanes(every, contest.run, dict(made))
    found = tally_votes(given, contest)
    earlier = tally_votes(every, contest).total_votes - found.total_votes
    return {
        "run": contest.run,
        "first": contest.first,
        "second": contest.second,
        "wins": [found.first, found.second],
        "undecided": describe_undecided(found),
        "share": interval_bounds(found.share),
        "share_text": describe_share(found),
        "verdict": describe_verdict(found),
        "word": found.verdict.word,
        "kinds": [[tag, *counts] for tag, counts in sorted(found.kinds.items())],
        "empty": missing_count_text(given, found),
        "checks": [
            line for line in (describe_bias(found), describe_length_effect(found), describe_earlier(earlier)) if line
        ],
        "strengths": rank_lanes(given, contest.run),
        "pairs": found.pairs,
        "advice": f"{found.pairs} pairs are enough to experiment; 200+ for a lasting effect."
        if 0 < found.pairs < MIN_PAIRS
        else "",
    }


def missing_count_text(given: Sequence[Vote], found: VoteTally) -> str:
    """Text that replaces an empty count; empty if there are votes."""
    if found.total_votes:
        return ""
    return f"No votes {'on these two models' if given else 'for this run'} yet. Press B."


def describe_earlier(count: int) -> str:
    if not count:
        return ""
    votes_are = "vote is" if count == 1 else "votes are"
    return f"{count} earlier {votes_are} not counted: the adapter or the system prompt of a model was different then."


def current_votes(path: Path) -> tuple[Vote, ...]:
    return read_votes(path, *file_stamp(path))


def file_stamp(path: Path) -> tuple[int, int]:
    """Size and modification time; a file is read again when they change."""
    stat = path.stat() if path.exists() else None
    return (stat.st_size, stat.st_mtime_ns) if stat else (0, 0)


@lru_cache(maxsize=4)
def read_votes(path: Path, size: int, changed: int) -> tuple[Vote, ...]:
    return tuple(votes.active_votes(votes.read_vote_records(path)))


def describe_undecided(found: VoteTally) -> str:
    counts = ((found.ties, "tie", "ties"), (found.bad, "both bad", "both bad"), (found.skipped, "skipped", "skipped"))
    parts = [f"{count} {one if count == 1 else more}" for count, one, more in counts if count]
    return " · ".join([*parts, *([f"{found.again} given again after an undo"] if found.again else [])])


def interval_bounds(share: ConfidenceInterval | None) -> list[float] | None:
    return [round(one, 4) for one in (share.value, *share.ends)] if share else None


def describe_share(found: VoteTally) -> str:
    """Share and p-value; no percentage below five decided votes."""
    if found.share is None:
        missing = 5 - found.decided_votes
        return f"{missing} more decided vote{'s' * (missing != 1)} until there is a percentage."
    low, high = (f"{100 * end:.0f}" for end in found.share.ends)
    return f"{found.share.value:.0%} {found.contest.second} (95 % interval {low}–{high}) · p = {found.p:.2g}, exact sign test"


def describe_verdict(found: VoteTally) -> str:
    """The verdict of the last check, and when the next one is due."""
    verdict = found.verdict
    coming = f" Next check at {verdict.next_look} decided votes." if verdict.next_look else ""
    side = (found.contest.first, found.contest.second)[verdict.side] if verdict.side is not None else ""
    match verdict.word:
        case "Clear":
            return f"{side} is clearly better (check at {verdict.at} votes).{coming}"
        case "Leaning":
            return f"Leaning towards {side}, not settled.{coming}"
        case "No difference seen":
            return f"No difference seen in {verdict.at} votes."
    return f"Not decided yet.{coming}"


def describe_bias(found: VoteTally) -> str:
    one = found.bias
    if one.share is None or one.decided < MIN_SIDES:
        return ""
    odd = " That is more than chance: look at the other side first for a while." if one.suspicious else ""
    return f"You picked the left side {one.share.value:.0%} of the time.{odd}"


def describe_length_effect(found: VoteTally) -> str:
    """Does answer length explain the votes?"""
    one = found.lengths
    if one.ratio is None or found.decided_votes < 5:
        return ""
    similar = (
        f" Of {one.of_similar} with about equal lengths, {found.contest.second} won {one.second}."
        if one.of_similar
        else ""
    )
    apart = f"{abs(one.ratio - 1):.0%} {'shorter' if one.ratio < 1 else 'longer'}"
    return f"{found.contest.second}'s answers are {apart}; the longer answer won {one.longer} of {one.of_unequal}.{similar}"


def rank_lanes(given: Sequence[Vote], run: str) -> list[str]:
    """Bradley-Terry strengths over all contests of a run, the best first; only with votes on three lanes."""
    found = sorted(lane_strengths(given, run).items(), key=lambda one: -one[1].value)
    return ["{} {:+.2f} [{:+.2f}, {:+.2f}]".format(name, one.value, *one.ends) for name, one in found]
