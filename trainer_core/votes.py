"""Votes on disk: workspace/votes/votes.jsonl, one line for each thing a person did, never rewritten. A tally is a fold of it.

Taking a vote back is a line as well, and so is an answer of one's own where both were bad. A line is on the disk for good
before the page hears that it counts.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock
from pydantic import Field, TypeAdapter, ValidationError

from trainer_core import durable, runs, statistics
from trainer_core.config import Sampling, Strict
from trainer_core.errors import DataError
from trainer_core.event_log import cut_torn_tail
from trainer_core.requests import Said

Choice = Literal["left", "right", "tie", "bad", "skip"]
Messages = tuple[Said, ...]
BLOCK = 10
"""In each run of ten questions every lane stands on the left five times, so forty questions have twenty and twenty."""


class Contest(Strict):
    """Two lanes of one run, in the run's order: the base before what was trained on it."""

    run: str
    first: str
    second: str


class Vote(Strict):
    """One vote, with all that is needed to make a pair of it or to look at it again."""

    kind: Literal["vote"] = "vote"
    id: str
    at: datetime
    contest: Contest
    choice: Choice
    left: str
    """The lane that stood on the left, as A."""
    messages: Messages
    answers: dict[str, str]
    """Lane -> what it said."""
    tag: str = ""
    index: int = Field(ge=0)
    """Which draw of the contest this was; with the seed it says who stood on the left."""
    seed: int
    sampling: Sampling
    model: str = ""
    adapters: dict[str, str] = {}
    """Lane -> SHA-256 of its adapter, and of a system prompt of its own; empty for the base."""
    again: bool = False
    """Given after an undo, when the names had been seen."""
    better: str = ""
    """An answer of one's own, where both were bad."""

    @property
    def winner(self) -> str | None:
        """The lane that was found better, if one was."""
        right = self.contest.second if self.left == self.contest.first else self.contest.first
        return {"left": self.left, "right": right}.get(self.choice)


class Undo(Strict):
    """The vote with this id does not count."""

    kind: Literal["undo"] = "undo"
    vote: str
    at: datetime


class Better(Strict):
    """A better answer to the question of a vote."""

    kind: Literal["better"] = "better"
    vote: str
    at: datetime
    text: str = Field(min_length=1, max_length=100_000)


Line = Annotated[Vote | Undo | Better, Field(discriminator="kind")]
LINE: TypeAdapter[Vote | Undo | Better] = TypeAdapter(Line)


@dataclass(frozen=True)
class Round:
    """One question to two lanes whose names are hidden until the vote.

    Fields:
        contest, messages, tag, index, seed, sampling: as in the vote it leads to.
        ask: the id under which the compare worker's events speak of it.
        source, plain: the prompt set and the sampling that were chosen; `sampling` has another seed where the prompt
            comes once more.
        vote: the vote that was given; None while the names are hidden or, after an undo, while it may be given again.
        again: the names have been seen before.
    """

    contest: Contest
    messages: Messages
    tag: str
    index: int
    seed: int
    sampling: Sampling
    ask: str
    source: str = "bundled"
    plain: Sampling = Sampling()
    vote: Vote | None = None
    again: bool = False

    @property
    def left(self) -> str:
        return self.contest.first if first_is_left(self.seed, self.index) else self.contest.second

    @property
    def right(self) -> str:
        return self.contest.second if self.left == self.contest.first else self.contest.first

    @property
    def blind(self) -> bool:
        """Are the names hidden?"""
        return self.vote is None and not self.again


def first_is_left(seed: int, index: int) -> bool:
    """Does the contest's first lane stand on the left at this draw? Half of each block, in an order drawn from the seed."""
    block, at = divmod(index, BLOCK)
    sides = [True, False] * (BLOCK // 2)
    random.Random(f"{seed}:{block}").shuffle(sides)
    return sides[at]


def file_of(workspace: runs.Workspace) -> Path:
    return runs.made(workspace.root / "votes") / "votes.jsonl"


def append(path: Path, line: Strict) -> None:
    """Add a line; when this returns it outlives a kill and a power cut.

    Raises:
        DiskError: it cannot be kept; the file is as it was before.
    """
    data = (line.model_dump_json() + "\n").encode()
    with FileLock(f"{path}.lock"), durable.disk_errors(path):
        cut_torn_tail(path)
        whole = path.stat().st_size if path.exists() else 0
        durable.point(path)
        with path.open("ab", buffering=0) as file:
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                durable.flush(path)
            except OSError:
                file.truncate(whole)
                raise
        if not whole:
            durable.flush(path.parent)


def lines(path: Path) -> list[Vote | Undo | Better]:
    """Every whole line, oldest first; a torn last one was never acknowledged and is not read.

    Raises:
        DataError: a line is none of ours, with its number.
    """
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    return [decoded(line, f"{path}, line {number}") for number, line in enumerate(whole, start=1)]


def decoded(line: bytes, where: str) -> Vote | Undo | Better:
    try:
        return LINE.validate_json(line)
    except ValidationError as error:
        raise DataError(
            f"{where}: this is no vote of this version ({error.errors()[0]['msg']}). "
            "Nothing was changed. Remove that line, or move the file away to begin a new count."
        ) from error


def standing(all_lines: Iterable[Vote | Undo | Better]) -> list[Vote]:
    """The votes that count, oldest first: what was taken back is gone, what was written is in its vote."""
    votes: dict[str, Vote] = {}
    for line in all_lines:
        match line:
            case Vote():
                votes[line.id] = line
            case Undo():
                votes.pop(line.vote, None)
            case Better() if line.vote in votes:
                votes[line.vote] = votes[line.vote].model_copy(update={"better": line.text})
    return list(votes.values())


def on_same_lanes(votes: Iterable[Vote], run: str, made_of: Mapping[str, str]) -> list[Vote]:
    """The votes on the lanes of a run as they are. Under one name a lane is another model once an earlier step was kept, the
    run was made longer, or the system prompt was changed.

    Args:
        made_of: lane → what it is made of, for those that are loaded; another is taken to be as in its newest vote.
    """
    mine = [vote for vote in votes if vote.contest.run == run]
    now = {lane: made for vote in mine for lane, made in vote.adapters.items()} | dict(made_of)
    return [vote for vote in mine if all(now[lane] == made for lane, made in vote.adapters.items())]


def next_draw(all_lines: Sequence[Vote | Undo | Better], contest: Contest, fresh_seed: int) -> tuple[int, int]:
    """Seed and index of a contest's next question. A vote that was taken back has used its draw up."""
    given = [line for line in all_lines if isinstance(line, Vote) and line.contest == contest]
    if not given:
        return fresh_seed, 0
    return given[-1].seed, 1 + max(vote.index for vote in given)


@dataclass(frozen=True)
class Tally:
    """A contest, counted.

    Fields:
        first, second: decided votes for each lane. ties, bad, skipped: the others. again: votes given once more.
        share: the second lane's part of the decided votes; None below the number where a percentage means something.
        kinds: tag of the prompts -> votes for the first lane, ties, votes for the second.
        pairs: training pairs these votes give.
    """

    contest: Contest
    first: int
    second: int
    ties: int
    bad: int
    skipped: int
    again: int
    share: statistics.Interval | None
    p: float
    verdict: statistics.Verdict
    bias: statistics.Bias
    lengths: statistics.LengthCheck
    kinds: dict[str, tuple[int, int, int]]
    pairs: int

    @property
    def decided(self) -> int:
        return self.first + self.second

    @property
    def all(self) -> int:
        """Votes of any kind."""
        return self.decided + self.ties + self.bad + self.skipped


def tally(votes: Sequence[Vote], contest: Contest) -> Tally:
    """Count the standing votes of one contest."""
    mine = [vote for vote in votes if vote.contest == contest]
    decided = [vote for vote in mine if vote.winner]
    winners = [int(vote.winner == contest.second) for vote in decided]
    lengths = [(len(vote.answers[contest.first]), len(vote.answers[contest.second])) for vote in decided]
    counts = Counter(vote.choice for vote in mine)
    second = sum(winners)
    first = len(winners) - second
    enough = len(winners) >= statistics.FEWEST_FOR_SHARE
    return Tally(
        contest,
        first,
        second,
        ties=counts["tie"],
        bad=counts["bad"],
        skipped=counts["skip"],
        again=sum(vote.again for vote in mine),
        share=statistics.wilson(second, len(winners)) if enough else None,
        p=statistics.sign_test(first, second),
        verdict=statistics.verdict(winners),
        bias=statistics.position_bias(counts["left"], len(decided)),
        lengths=statistics.length_check(lengths, winners),
        kinds=by_kind(mine),
        pairs=len(pairs(mine)),
    )


def by_kind(votes: Sequence[Vote]) -> dict[str, tuple[int, int, int]]:
    """Votes for the first lane, ties and votes for the second, for each tag; only where prompts have tags."""
    found: dict[str, tuple[int, int, int]] = {}
    for vote in votes:
        if vote.tag and vote.choice not in ("bad", "skip"):
            first, ties, second = found.get(vote.tag, (0, 0, 0))
            won = (vote.winner == vote.contest.first, vote.winner is None, vote.winner == vote.contest.second)
            found[vote.tag] = (first + won[0], ties + won[1], second + won[2])
    return found


def strengths(votes: Sequence[Vote], run: str) -> dict[str, statistics.Interval]:
    """Bradley-Terry over every contest of a run; empty where fewer than three lanes were voted on."""
    games = [
        statistics.Game(vote.messages[-1].content, vote.contest.first, vote.contest.second, share_of_first(vote))
        for vote in votes
        if vote.contest.run == run and (vote.winner or vote.choice == "tie")
    ]
    lanes = {lane for game in games for lane in (game.first, game.second)}
    return statistics.bradley_terry(games) if len(lanes) > 2 else {}


def share_of_first(vote: Vote) -> float:
    return 0.5 if vote.winner is None else float(vote.winner == vote.contest.first)


class Pair(Strict):
    """One row of a preference data set made of votes."""

    prompt: Messages
    chosen: str
    rejected: str
    vote: str


def pairs(votes: Sequence[Vote]) -> list[Pair]:
    """A row for each decided vote, and for each bad pair of answers with a better one written.

    Where both were bad, the second lane's answer is the rejected one: it was trained further, so it is nearest to the
    model that learns from the pair. Answers that are the same text teach nothing and are left out.
    """
    return [pair for vote in votes if (pair := pair_of(vote)) and pair.chosen.strip() != pair.rejected.strip()]


def pair_of(vote: Vote) -> Pair | None:
    contest = vote.contest
    if vote.winner:
        loser = contest.second if vote.winner == contest.first else contest.first
        chosen, rejected = vote.answers[vote.winner], vote.answers[loser]
    elif vote.choice == "bad" and vote.better:
        chosen, rejected = vote.better, vote.answers[contest.second]
    else:
        return None
    return Pair(prompt=vote.messages, chosen=chosen, rejected=rejected, vote=vote.id) if chosen and rejected else None


class Provenance(Strict):
    """Where a data set made of votes comes from."""

    made: datetime
    contest: Contest
    model: str
    adapters: dict[str, str]
    pairs: int
    votes: dict[str, int]
    """What was voted -> how often."""

    @property
    def title(self) -> str:
        return f"{self.pairs} pairs from votes: {self.contest.first} and {self.contest.second}, {self.made:%d %b %Y}"


def make_data_set(workspace: runs.Workspace, votes: Sequence[Vote], contest: Contest) -> Path:
    """Write a contest's pairs to the workspace's data, with a file beside them that says where they are from.

    Raises:
        DataError: no vote gives a pair.
        DiskError: a file cannot be written.
    """
    mine = [vote for vote in votes if vote.contest == contest]
    rows = pairs(mine)
    if not rows:
        raise DataError(
            f"None of the {len(mine)} votes gives a pair yet. A pair needs one answer that you found better than the other."
        )
    about = Provenance(
        made=datetime.now(UTC),
        contest=contest,
        model=mine[-1].model,
        adapters=mine[-1].adapters,
        pairs=len(rows),
        votes=dict(Counter(vote.choice for vote in mine)),
    )
    place = free_name(workspace, contest)
    durable.write_atomically(place, "".join(row.model_dump_json(exclude={"vote"}) + "\n" for row in rows))
    durable.write_atomically(provenance_of(place), about.model_dump_json(indent=1))
    return place


def free_name(workspace: runs.Workspace, contest: Contest) -> Path:
    stem = "-".join(["votes", runs.slug(contest.first), runs.slug(contest.second), f"{datetime.now(UTC):%Y%m%d}"])
    number = next(number for number in range(1, 10_000) if not (workspace.data / f"{stem}-{number}.jsonl").exists())
    return workspace.data / f"{stem}-{number}.jsonl"


def provenance_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.provenance.json")


def data_sets(workspace: runs.Workspace) -> list[tuple[str, Path]]:
    """Title and file of every data set made of votes, newest first."""
    found = []
    for about in workspace.data.glob("*.jsonl.provenance.json"):
        place = about.with_name(about.name.removesuffix(".provenance.json"))
        if place.exists():
            found.append((Provenance.model_validate_json(about.read_bytes()), place))
    return [(about.title, place) for about, place in sorted(found, key=lambda one: one[0].made, reverse=True)]
