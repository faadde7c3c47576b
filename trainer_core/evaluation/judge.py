"""A language model judges two lanes: its prompt, asked with both orders, and its verdicts compared with the user's votes.

The judge is an endpoint with OpenAI's chat completions API, or one of the lanes. Its key is read from an environment variable
when needed and sent only to the endpoint. Verdicts have their own file and never count as votes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from trainer_core.evaluation import prompts, statistics
from trainer_core.evaluation.judge_endpoint import AskJudge, JudgeEndpoint, JudgeError
from trainer_core.evaluation.votes import LanePair, Messages, Vote, append_record
from trainer_core.runs.compare_events import ConfidenceInterval
from trainer_core.runs.compare_requests import ChatMessage
from trainer_core.runs.workspace import Workspace, ensure_dir
from trainer_core.schema import StrictModel

JudgeAnswer = Literal["A", "B", "tie"]
JUDGE_INSTRUCTION = (
    "Two assistants, A and B, answered the same conversation. Which answer helps its user more? Length alone is no merit, "
    "and the order of the two means nothing. Reply with one word: A, B or tie."
)
VERDICT_PATTERN = re.compile(
    r"\W*(?:(?:the )?(?:better )?(?:answer|verdict|winner|assistant)(?: is)?\W+)?(A|B|tie)\b\W*(?:$|is\b|\n)",
    re.IGNORECASE,
)
"""A, **B**, "Verdict: tie", "A is better"; but not a sentence that begins with the article "A"."""


@dataclass(frozen=True)
class JudgeCase:
    """One conversation with the answers of two lanes."""

    contest: LanePair
    messages: Messages
    first: str
    second: str


class JudgeVerdict(StrictModel):
    """A judge's two verdicts on a case: first with the first lane as A, then with it as B."""

    at: datetime
    judge: str
    contest: LanePair
    messages: Messages
    answers: tuple[str, str]
    words: tuple[JudgeAnswer, JudgeAnswer]

    @property
    def winner(self) -> str | None:
        """The lane that won on both sides; None for a tie, or if the side decided."""
        match self.words:
            case ("A", "B"):
                return self.contest.first
            case ("B", "A"):
                return self.contest.second
        return None

    @property
    def position_biased(self) -> bool:
        return self.words in (("A", "A"), ("B", "B"))


def judge_case(case: JudgeCase, ask: AskJudge, judge: str) -> JudgeVerdict:
    """Ask twice, with the sides swapped.

    Raises:
        JudgeError: the judge gives no verdict.
    """
    words = (
        parse_verdict(ask(build_judge_prompt(case, case.first, case.second))),
        parse_verdict(ask(build_judge_prompt(case, case.second, case.first))),
    )
    return JudgeVerdict(
        at=datetime.now(UTC),
        judge=judge,
        contest=case.contest,
        messages=case.messages,
        answers=(case.first, case.second),
        words=words,
    )


def build_judge_prompt(case: JudgeCase, a: str, b: str) -> tuple[ChatMessage, ...]:
    """The case as one message. Tags enclose the answers, so that a heading in one does not read as part of the prompt."""
    talk = "\n".join(f"{one.role}: {one.content}" for one in case.messages)
    parts = [f"<{name}>\n{text}\n</{name}>" for name, text in (("conversation", talk), ("A", a), ("B", b))]
    return (ChatMessage(role="user", content="\n\n".join([JUDGE_INSTRUCTION, *parts, JUDGE_INSTRUCTION])),)


def parse_verdict(text: str) -> JudgeAnswer:
    """The verdict at the start of an answer.

    Raises:
        JudgeError: there is none.
    """
    found = VERDICT_PATTERN.match(text)
    if not found:
        raise JudgeError("judge.no_verdict", answer=text[:80])
    said = found[1].lower()
    return "tie" if said == "tie" else "A" if said == "a" else "B"


def verdicts_path(workspace: Workspace) -> Path:
    return ensure_dir(workspace.root / "votes") / "judged.jsonl"


def save_verdict(workspace: Workspace, found: JudgeVerdict) -> None:
    """Append a verdict to the file.

    Raises:
        DiskError: it cannot be written.
    """
    append_record(verdicts_path(workspace), found)


def read_verdicts(workspace: Workspace, contest: LanePair) -> list[JudgeVerdict]:
    """The verdicts on a contest; the newest if a judge judged a case twice."""
    path = verdicts_path(workspace)
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found: dict[Any, JudgeVerdict] = {}
    for line in lines:
        try:
            one = JudgeVerdict.model_validate_json(line)
        except ValidationError:  # of another version; verdicts can be made again
            continue
        if one.contest == contest:
            found[one.judge, one.messages, one.answers] = one
    return list(found.values())


@dataclass(frozen=True)
class JudgeSummary:
    """One judge's verdicts on a contest.

    Fields:
        first, second: cases that a lane won on both sides; torn: cases where the side decided; ties: the others.
        share: the second lane's share of first + second. p: exact sign test.
        agreed, of_both: cases that the user and the judge both decided (of_both), and those with the same winner (agreed).
    """

    judge: str
    first: int
    second: int
    ties: int
    torn: int
    share: ConfidenceInterval | None
    p: float
    agreed: int
    of_both: int


def summarise_judges(found: Sequence[JudgeVerdict], votes: Sequence[Vote]) -> list[JudgeSummary]:
    """Each judge's summary, compared with the active votes on the same answers."""
    return [
        summarise_judge(judge, [one for one in found if one.judge == judge], votes)
        for judge in sorted({one.judge for one in found})
    ]


def summarise_judge(judge: str, mine: Sequence[JudgeVerdict], votes: Sequence[Vote]) -> JudgeSummary:
    winners = [one.winner for one in mine]
    first = sum(bool(one.winner) and one.winner == one.contest.first for one in mine)
    second = sum(bool(one.winner) and one.winner == one.contest.second for one in mine)
    torn = sum(one.position_biased for one in mine)
    person = {(vote.contest, vote.messages, answers_in_order(vote)): vote.winner for vote in votes if vote.winner}
    both = [(one.winner, person[case]) for one in mine if one.winner and (case := verdict_case(one)) in person]
    return JudgeSummary(
        judge,
        first,
        second,
        len(winners) - first - second - torn,
        torn,
        statistics.wilson_interval(second, first + second),
        statistics.sign_test(first, second),
        sum(machine == human for machine, human in both),
        len(both),
    )


def answers_in_order(vote: Vote) -> tuple[str, str]:
    return vote.answers[vote.contest.first], vote.answers[vote.contest.second]


def verdict_case(one: JudgeVerdict) -> tuple[LanePair, Messages, tuple[str, str]]:
    return one.contest, one.messages, one.answers


class JudgeTask(StrictModel):
    """What to judge, and the judge.

    lane: a loaded lane that judges; empty: the endpoint does.
    cases: maximum number of cases.
    """

    contest: LanePair
    source: str = prompts.BUNDLED
    lane: str = ""
    endpoint: JudgeEndpoint = JudgeEndpoint()
    cases: int = 20

    @property
    def judge_name(self) -> str:
        return f"lane {self.lane}" if self.lane else self.endpoint.model


@dataclass(frozen=True)
class JudgeProgress:
    """Cases judged so far; `problem` is why it ended early."""

    done: int
    total: int
    over: bool = False
    problem: str = ""


class RunningJudge(Protocol):
    """A judge task that runs beside the app."""

    order: JudgeTask
    state: JudgeProgress

    def stop(self) -> None: ...
