"""Counts of votes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainer_core.evaluation import statistics
from trainer_core.evaluation.preference_data import make_preference_rows
from trainer_core.evaluation.votes import LanePair, Vote
from trainer_core.runs.compare_events import ConfidenceInterval


@dataclass(frozen=True)
class VoteTally:
    """The counts of one contest.

    Fields:
        first, second: decided votes for each lane. ties, bad, skipped: the others. again: votes given again after an undo.
        share: the second lane's share of the decided votes; None with too few votes for a percentage.
        kinds: tag of the prompts → votes for the first lane, ties, votes for the second.
        pairs: training pairs from these votes.
    """

    contest: LanePair
    first: int
    second: int
    ties: int
    bad: int
    skipped: int
    again: int
    share: ConfidenceInterval | None
    p: float
    verdict: statistics.VoteVerdict
    bias: statistics.PositionBias
    lengths: statistics.LengthCheck
    kinds: dict[str, tuple[int, int, int]]
    pairs: int

    @property
    def decided_votes(self) -> int:
        return self.first + self.second

    @property
    def total_votes(self) -> int:
        return self.decided_votes + self.ties + self.bad + self.skipped


def tally_votes(votes: Sequence[Vote], contest: LanePair) -> VoteTally:
    """Count the active votes of one contest."""
    mine = [vote for vote in votes if vote.contest == contest]
    decided = [vote for vote in mine if vote.winner]
    winners = [int(vote.winner == contest.second) for vote in decided]
    lengths = [(len(vote.answers[contest.first]), len(vote.answers[contest.second])) for vote in decided]
    counts = Counter(vote.choice for vote in mine)
    second = sum(winners)
    first = len(winners) - second
    enough = len(winners) >= statistics.MIN_VOTES_FOR_SHARE
    return VoteTally(
        contest,
        first,
        second,
        ties=counts["tie"],
        bad=counts["bad"],
        skipped=counts["skip"],
        again=sum(vote.again for vote in mine),
        share=statistics.wilson_interval(second, len(winners)) if enough else None,
        p=statistics.sign_test(first, second),
        verdict=statistics.decide_verdict(winners),
        bias=statistics.position_bias(counts["left"], len(decided)),
        lengths=statistics.length_check(lengths, winners),
        kinds=count_by_tag(mine),
        pairs=len(make_preference_rows(mine)),
    )


def count_by_tag(votes: Sequence[Vote]) -> dict[str, tuple[int, int, int]]:
    """Tag → votes for the first lane, ties, votes for the second; only for prompts with a tag."""
    found: dict[str, tuple[int, int, int]] = {}
    for vote in votes:
        if vote.tag and vote.choice not in ("bad", "skip"):
            first, ties, second = found.get(vote.tag, (0, 0, 0))
            won = (vote.winner == vote.contest.first, vote.winner is None, vote.winner == vote.contest.second)
            found[vote.tag] = (first + won[0], ties + won[1], second + won[2])
    return found


def lane_strengths(votes: Sequence[Vote], run: str) -> dict[str, ConfidenceInterval]:
    """Bradley-Terry over every contest of a run; empty if fewer than three lanes have votes."""
    games = [
        statistics.Match(vote.messages[-1].content, vote.contest.first, vote.contest.second, first_lane_share(vote))
        for vote in votes
        if vote.contest.run == run and (vote.winner or vote.choice == "tie")
    ]
    lanes = {lane for game in games for lane in (game.first, game.second)}
    return statistics.bradley_terry(games) if len(lanes) > 2 else {}


def first_lane_share(vote: Vote) -> float:
    return 0.5 if vote.winner is None else float(vote.winner == vote.contest.first)
