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
from ui.format import page_text

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
        "advice": page_text("vote_tally.few_pairs", pairs=found.pairs) if 0 < found.pairs < MIN_PAIRS else "",
    }


def missing_count_text(given: Sequence[Vote], found: VoteTally) -> str:
    """Text that replaces an empty count; empty if there are votes."""
    if found.total_votes:
        return ""
    return page_text("vote_tally.no_votes_on_models" if given else "vote_tally.no_votes")


def describe_earlier(count: int) -> str:
    return page_text("vote_tally.earlier", votes=count) if count else ""


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
    counts = (
        (found.ties, page_text("vote_tally.ties", votes=found.ties)),
        (found.bad, page_text("vote_tally.both_bad", votes=found.bad)),
        (found.skipped, page_text("vote_tally.skipped", votes=found.skipped)),
        (found.again, page_text("vote_tally.given_again", votes=found.again)),
    )
    return " · ".join(words for count, words in counts if count)


def interval_bounds(share: ConfidenceInterval | None) -> list[float] | None:
    return [round(one, 4) for one in (share.value, *share.ends)] if share else None


def describe_share(found: VoteTally) -> str:
    """Share and p-value; no percentage below five decided votes."""
    if found.share is None:
        return page_text("vote_tally.few_votes", missing=5 - found.decided_votes)
    low, high = (100 * end for end in found.share.ends)
    lane, share = found.contest.second, found.share.value
    return page_text("vote_tally.share", share=share, lane=lane, low=low, high=high, p=found.p)


def describe_verdict(found: VoteTally) -> str:
    """The verdict of the last check, and when the next one is due."""
    verdict = found.verdict
    side = (found.contest.first, found.contest.second)[verdict.side] if verdict.side is not None else ""
    match verdict.word:
        case "Clear":
            said = page_text("vote_tally.clear", lane=side, votes=verdict.at)
        case "Leaning":
            said = page_text("vote_tally.leaning", lane=side)
        case "No difference seen":
            return page_text("vote_tally.no_difference", votes=verdict.at)
        case _:
            said = page_text("vote_tally.undecided")
    return f"{said} {page_text('vote_tally.next_check', votes=verdict.next_look)}" if verdict.next_look else said


def describe_bias(found: VoteTally) -> str:
    one = found.bias
    if one.share is None or one.decided < MIN_SIDES:
        return ""
    said = page_text("vote_tally.left_share", share=one.share.value)
    return f"{said} {page_text('vote_tally.side_habit')}" if one.suspicious else said


def describe_length_effect(found: VoteTally) -> str:
    """Does answer length explain the votes?"""
    one = found.lengths
    if one.ratio is None or found.decided_votes < 5:
        return ""
    lane, difference = found.contest.second, abs(one.ratio - 1)
    said = page_text(
        "vote_tally.shorter" if one.ratio < 1 else "vote_tally.longer",
        lane=lane,
        difference=difference,
        won=one.longer,
        unequal=one.of_unequal,
    )
    if not one.of_similar:
        return said
    return f"{said} {page_text('vote_tally.similar_lengths', votes=one.of_similar, lane=lane, won=one.second)}"


def rank_lanes(given: Sequence[Vote], run: str) -> list[str]:
    """Bradley-Terry strengths over all contests of a run, the best first; only with votes on three lanes."""
    found = sorted(lane_strengths(given, run).items(), key=lambda one: -one[1].value)
    return ["{} {:+.2f} [{:+.2f}, {:+.2f}]".format(name, one.value, *one.ends) for name, one in found]
