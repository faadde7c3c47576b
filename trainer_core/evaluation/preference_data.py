"""Votes as DPO pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from trainer_core.errors import DataError
from trainer_core.evaluation.votes import LanePair, Messages, Vote
from trainer_core.runs import run_folder
from trainer_core.runs.workspace import Workspace
from trainer_core.schema import StrictModel
from trainer_core.system import durable


class PreferenceRow(StrictModel):
    """A row of a preference data set made from votes."""

    prompt: Messages
    chosen: str
    rejected: str
    vote: str


def make_preference_rows(votes: Sequence[Vote]) -> list[PreferenceRow]:
    """A row for each decided vote, and for each pair of bad answers with a better one written.

    If both were bad, the second lane's answer is the rejected one: it was trained further, so it is closest to the model that
    learns from the pair. Identical answers are left out: they teach nothing.
    """
    return [
        pair for vote in votes if (pair := make_preference_row(vote)) and pair.chosen.strip() != pair.rejected.strip()
    ]


def make_preference_row(vote: Vote) -> PreferenceRow | None:
    contest = vote.contest
    if vote.winner:
        loser = contest.second if vote.winner == contest.first else contest.first
        chosen, rejected = vote.answers[vote.winner], vote.answers[loser]
    elif vote.choice == "bad" and vote.better:
        chosen, rejected = vote.better, vote.answers[contest.second]
    else:
        return None
    return (
        PreferenceRow(prompt=vote.messages, chosen=chosen, rejected=rejected, vote=vote.id)
        if chosen and rejected
        else None
    )


class Provenance(StrictModel):
    """Origin of a data set made from votes."""

    made: datetime
    contest: LanePair
    model: str
    adapters: dict[str, str]
    pairs: int
    votes: dict[str, int]
    """Choice → number of votes."""

    @property
    def title(self) -> str:
        return f"{self.pairs} pairs from votes: {self.contest.first} and {self.contest.second}, {self.made:%d %b %Y}"


def write_vote_data_set(workspace: Workspace, votes: Sequence[Vote], contest: LanePair) -> Path:
    """Write a contest's pairs to the workspace's data, with a provenance file beside them.

    Raises:
        DataError: no vote gives a pair.
        DiskError: a file cannot be written.
    """
    mine = [vote for vote in votes if vote.contest == contest]
    rows = make_preference_rows(mine)
    if not rows:
        raise DataError("vote_pairs.none", votes=len(mine))
    about = Provenance(
        made=datetime.now(UTC),
        contest=contest,
        model=mine[-1].model,
        adapters=mine[-1].adapters,
        pairs=len(rows),
        votes=dict(Counter(vote.choice for vote in mine)),
    )
    place = free_data_path(workspace, contest)
    durable.write_atomically(place, "".join(row.model_dump_json(exclude={"vote"}) + "\n" for row in rows))
    durable.write_atomically(provenance_path(place), about.model_dump_json(indent=1))
    return place


def free_data_path(workspace: Workspace, contest: LanePair) -> Path:
    stem = "-".join(
        [
            "votes",
            run_folder.slugify_name(contest.first),
            run_folder.slugify_name(contest.second),
            f"{datetime.now(UTC):%Y%m%d}",
        ]
    )
    number = next(number for number in range(1, 10_000) if not (workspace.data / f"{stem}-{number}.jsonl").exists())
    return workspace.data / f"{stem}-{number}.jsonl"


def provenance_path(place: Path) -> Path:
    return place.with_name(f"{place.name}.provenance.json")


def list_vote_data_sets(workspace: Workspace) -> list[tuple[str, Path]]:
    """Title and file of every data set made from votes, newest first."""
    found = []
    for about in workspace.data.glob("*.jsonl.provenance.json"):
        place = about.with_name(about.name.removesuffix(".provenance.json"))
        if place.exists():
            found.append((Provenance.model_validate_json(about.read_bytes()), place))
    return [(about.title, place) for about, place in sorted(found, key=lambda one: one[0].made, reverse=True)]
