"""Votes on disk: workspace/votes/votes.jsonl, one line per action of the user, append-only. A tally is a fold over the lines.

An undo is a line too, and so is the user's own answer if both were bad. A line is durable on disk before the page counts it.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from trainer_core.config.recipe import Sampling
from trainer_core.errors import DataError
from trainer_core.runs.compare_requests import ChatMessage
from trainer_core.runs.event_log import cut_partial_line
from trainer_core.runs.workspace import Workspace, ensure_dir
from trainer_core.schema import StrictModel
from trainer_core.system import durable
from trainer_core.system.file_lock import ProcessLock

VoteChoice = Literal["left", "right", "tie", "bad", "skip"]
Messages = tuple[ChatMessage, ...]
BALANCED_BLOCK = 10
"""Each block of ten questions shows every lane on the left five times, so forty questions give twenty and twenty."""


class LanePair(StrictModel):
    """Two lanes of one run, in the run's order: the base before an adapter trained on it."""

    run: str
    first: str
    second: str


class Vote(StrictModel):
    """One vote, with everything needed to make a pair from it or to review it."""

    kind: Literal["vote"] = "vote"
    id: str
    at: datetime
    contest: LanePair
    choice: VoteChoice
    left: str
    """The lane on the left, shown as A."""
    messages: Messages
    answers: dict[str, str]
    """Lane → its answer."""
    tag: str = ""
    index: int = Field(ge=0)
    """Number of the contest's draw; with the seed it determines the left lane."""
    seed: int
    sampling: Sampling
    model: str = ""
    adapters: dict[str, str] = {}
    """Lane → SHA-256 of its adapter and of its own system prompt; empty for the base."""
    again: bool = False
    """Given after an undo, with the names already revealed."""
    better: str = ""
    """The user's own answer, if both were bad."""

    @property
    def winner(self) -> str | None:
        """The better lane, if there is one."""
        right = self.contest.second if self.left == self.contest.first else self.contest.first
        return {"left": self.left, "right": right}.get(self.choice)


class Undo(StrictModel):
    """The vote with this id does not count."""

    kind: Literal["undo"] = "undo"
    vote: str
    at: datetime


class WrittenAnswer(StrictModel):
    """The user's better answer to the question of a vote."""

    kind: Literal["better"] = "better"
    vote: str
    at: datetime
    text: str = Field(min_length=1, max_length=100_000)


VoteRecord = Annotated[Vote | Undo | WrittenAnswer, Field(discriminator="kind")]
VOTE_RECORD_ADAPTER: TypeAdapter[Vote | Undo | WrittenAnswer] = TypeAdapter(VoteRecord)


@dataclass(frozen=True)
class BlindQuestion:
    """One question to two lanes whose names are hidden until the vote.

    Fields:
        contest, messages, tag, index, seed, sampling: as in the resulting vote.
        ask: the id of the question in the compare worker's events.
        source, plain: the chosen prompt set and sampling; `sampling` has another seed if the prompt repeats.
        vote: the vote; None while the names are hidden or, after an undo, until the new vote.
        again: the names were already revealed.
    """

    contest: LanePair
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
    def left_lane(self) -> str:
        return self.contest.first if is_first_lane_left(self.seed, self.index) else self.contest.second

    @property
    def right_lane(self) -> str:
        return self.contest.second if self.left_lane == self.contest.first else self.contest.first

    @property
    def is_blind(self) -> bool:
        """Are the names hidden?"""
        return self.vote is None and not self.again


def is_first_lane_left(seed: int, index: int) -> bool:
    """Is the contest's first lane on the left at this draw? Half of each block, shuffled by the seed."""
    block, at = divmod(index, BALANCED_BLOCK)
    sides = [True, False] * (BALANCED_BLOCK // 2)
    random.Random(f"{seed}:{block}").shuffle(sides)
    return sides[at]


def votes_path(workspace: Workspace) -> Path:
    return ensure_dir(workspace.root / "votes") / "votes.jsonl"


def append_record(path: Path, line: StrictModel) -> None:
    """Append a line; once this returns, it survives a kill and a power cut.

    Raises:
        DiskError: it cannot be written; the file is unchanged.
    """
    data = (line.model_dump_json() + "\n").encode()
    with ProcessLock(f"{path}.lock"), durable.disk_errors(path):
        cut_partial_line(path)
        whole = path.stat().st_size if path.exists() else 0
        if not whole:  # first the name: a kill behind the line would leave it without a flush for good
            path.touch()
            durable.flush_to_disk(path.parent)
        durable.fault_point(path)
        with path.open("ab", buffering=0) as file:
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                durable.flush_to_disk(path)
            except OSError:
                file.truncate(whole)
                raise


def read_vote_records(path: Path) -> list[Vote | Undo | WrittenAnswer]:
    """Every complete line, oldest first; a partial last line was never acknowledged and is skipped.

    Raises:
        DataError: a line is not a vote record, with its number.
    """
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    return [parse_vote_record(line, path, number) for number, line in enumerate(whole, start=1)]


def parse_vote_record(line: bytes, path: Path, number: int) -> Vote | Undo | WrittenAnswer:
    try:
        return VOTE_RECORD_ADAPTER.validate_json(line)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise DataError("votes.other_version", path=str(path), line=number, reason=reason) from error


def active_votes(all_lines: Iterable[Vote | Undo | WrittenAnswer]) -> list[Vote]:
    """The votes that count, oldest first: without undone ones, and with the written answers in their votes."""
    votes: dict[str, Vote] = {}
    for line in all_lines:
        match line:
            case Vote():
                votes[line.id] = line
            case Undo():
                votes.pop(line.vote, None)
            case WrittenAnswer() if line.vote in votes:
                votes[line.vote] = votes[line.vote].model_copy(update={"better": line.text})
    return list(votes.values())


def votes_on_current_lanes(votes: Iterable[Vote], run: str, made_of: Mapping[str, str]) -> list[Vote]:
    """The votes on the lanes of a run as they are now. A lane of the same name is another model once the user keeps an earlier
    step, resumes the run, or changes the system prompt.

    Args:
        made_of: lane → its Vote.adapters hash, for the loaded ones; others are taken to match their newest vote.
    """
    mine = [vote for vote in votes if vote.contest.run == run]
    now = {lane: made for vote in mine for lane, made in vote.adapters.items()} | dict(made_of)
    return [vote for vote in mine if all(now[lane] == made for lane, made in vote.adapters.items())]


def next_draw(all_lines: Sequence[Vote | Undo | WrittenAnswer], contest: LanePair, fresh_seed: int) -> tuple[int, int]:
    """Seed and index of a contest's next question. An undone vote has used up its draw."""
    given = [line for line in all_lines if isinstance(line, Vote) and line.contest == contest]
    if not given:
        return fresh_seed, 0
    return given[-1].seed, 1 + max(vote.index for vote in given)
