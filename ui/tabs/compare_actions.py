"""What a page may do in Compare, beside asking in all lanes: vote, turn a dial, look closer, score, make pairs, load again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field

from trainer_core.errors import BusyError, ConfigError, DataError
from trainer_core.evaluation import preference_data, prompts, votes
from trainer_core.evaluation.judge import Endpoint, Order
from trainer_core.evaluation.prompts import score_request
from trainer_core.jobs import blind_voting
from trainer_core.jobs.comparison import Comparison, history
from trainer_core.jobs.judging import Trial
from trainer_core.jobs.supervisor import Supervisor
from trainer_core.runs.compare_requests import Cancel, Dial, Heat
from trainer_core.runs.compare_requests import Said as Message
from trainer_core.schema import Strict, parse
from ui.payloads.comparison import Chosen, contest_of, standing
from ui.server import path_policy


class Cast(Strict):
    choice: Literal["left", "right", "tie", "bad", "skip"]


class Written(Strict):
    text: str = Field(max_length=100_000)


class Turned(Strict):
    """A lane's dial: strength in percent of its adapter, and the share of another lane's adapter."""

    lane: str
    strength: float = Field(ge=0, le=1.5)
    other: str = ""
    share: float = Field(default=0, ge=0, le=1)


class Looked(Strict):
    """Whose answer is looked at, and under which two lanes."""

    answer: str
    lanes: tuple[str, str]


class Summoned(Strict):
    """A judge, the two lanes it judges, and on how many prompts of which set."""

    lanes: tuple[str, str]
    lane: str = Field(default="", title="Judging lane")
    endpoint: Endpoint = Endpoint()
    source: str = "bundled"
    cases: int = Field(default=20, ge=1, le=500, title="Answers to judge")


class Booth:
    """Answers a page's wishes; each of them with an empty object, or with what the page cannot hear from the bus."""

    def __init__(self, supervisor: Supervisor):
        self.supervisor = supervisor

    @property
    def wishes(self) -> list[Callable[[Any], dict[str, Any]]]:
        return [
            self.vote,
            self.undo,
            self.onward,
            self.again,
            self.leave,
            self.better,
            self.pairs,
            self.reload,
            self.stop,
            self.dial,
            self.heat,
            self.score,
            self.judge,
            self.pardon,
            self.download,
        ]

    def vote(self, asked: Any = None) -> dict[str, Any]:
        """The vote is on the disk when the page hears of it."""
        return {"id": blind_voting.cast(self.supervisor, parse(Cast, asked, "").choice).id}

    def undo(self, asked: Any = None) -> dict[str, Any]:
        blind_voting.take_back(self.supervisor)
        return {}

    def onward(self, asked: Any = None) -> dict[str, Any]:
        blind_voting.onward(self.supervisor)
        return {}

    def again(self, asked: Any = None) -> dict[str, Any]:
        blind_voting.once_more(self.supervisor)
        return {}

    def leave(self, asked: Any = None) -> dict[str, Any]:
        blind_voting.leave(self.supervisor)
        return {}

    def better(self, asked: Any = None) -> dict[str, Any]:
        blind_voting.write_better(self.supervisor, parse(Written, asked, "").text)
        return {}

    def pairs(self, asked: Any = None) -> dict[str, Any]:
        """The votes that are counted on the page as a data set; its name and place."""
        contest = contest_of(self.supervisor, parse(Chosen, asked or {}, ""))
        given = (
            blind_voting.counted(self.supervisor, standing(votes.file_of(self.supervisor.workspace)), contest)
            if contest
            else []
        )
        if contest is None or not given:
            raise DataError("There are no votes on these lanes yet, so there are no pairs to make.")
        place = preference_data.make_data_set(self.supervisor.workspace, given, contest)
        count = len(preference_data.pairs(given))
        return {"source": str(place), "name": place.stem, "count": count}

    def judge(self, asked: Any = None) -> dict[str, Any]:
        """Let a model judge two lanes; one judge at a time."""
        wanted = parse(Summoned, asked, "")
        path_policy.check_source(self.supervisor.workspace, wanted.source, prompts.NAMES)
        if not wanted.lane and path_policy.from_elsewhere():
            raise ConfigError(
                "A judge's URL is taken only at the computer that Tunebench runs on, since its key is sent there. Nothing was "
                "sent. Let one of the lanes judge, or start the judge there."
            )
        current = self.open()
        if current.round:
            raise BusyError("A blind vote is going. End it first, so that the judge does not make you wait.")
        if current.trial and not current.trial.state.over:
            raise BusyError("A judge is at work. Wait for it, or press Stop.")
        between = blind_voting.contest(current.run, [lane.name for lane in current.job.lanes], *wanted.lanes)
        order = Order(
            contest=between, source=wanted.source, lane=wanted.lane, endpoint=wanted.endpoint, cases=wanted.cases
        )
        current.trial = Trial(self.supervisor, current, order).start()
        return {}

    def pardon(self, asked: Any = None) -> dict[str, Any]:
        """No more judging."""
        if trial := self.open().trial:
            trial.stop()
        return {}

    def download(self, asked: Any = None) -> dict[str, Any]:
        """Every vote ever given, as it stands in the file."""
        path = votes.file_of(self.supervisor.workspace)
        return {"text": path.read_text(encoding="utf-8") if path.exists() else ""}

    def reload(self, asked: Any = None) -> dict[str, Any]:
        """The lanes of a worker that is gone, loaded again; an open question is asked once more."""
        current = self.open()
        if current.round:
            blind_voting.load_again(self.supervisor)
        else:
            fresh = self.supervisor.compare_run(current.run, current.job.lanes)
            if current.asked:
                fresh.ask(current.asked, current.sampling, system=current.system)
        return {}

    def stop(self, asked: Any = None) -> dict[str, Any]:
        self.open().send(Cancel())
        return {}

    def dial(self, asked: Any = None) -> dict[str, Any]:
        """From the next answer on. Lanes of an open question are not turned: their names would show."""
        wanted, current = parse(Turned, asked, ""), self.open()
        if current.round:
            raise BusyError("A blind vote is going. End it before you turn a dial.")
        current.send(Dial(id=uuid4().hex[:8], **wanted.model_dump()))
        return {}

    def heat(self, asked: Any = None) -> dict[str, Any]:
        """How likely two lanes find an answer, token by token; it comes over the bus."""
        wanted, current = parse(Looked, asked, ""), self.open()
        said = current.said
        if current.round or said is None or wanted.answer not in said.ends:
            raise BusyError("Look closer once the lanes have answered under their names.")
        end, text = said.ends[wanted.answer], said.answers[wanted.answer]
        if not text:
            raise ConfigError(f"{wanted.answer} said nothing, so there is nothing to look at.")
        said_first = (Message(role="system", content=current.system),) if current.system else ()
        before = (*said_first, *history(current.talk, wanted.answer), Message(role="user", content=current.asked))
        ask = uuid4().hex[:8]
        current.send(Heat(id=ask, messages=before, answer=text, ended=end.ended_itself, lanes=wanted.lanes))
        return {"ask": ask}

    def score(self, asked: Any = None) -> dict[str, Any]:
        """Score the loaded lanes on what their run held out; into the run's scores.json."""
        current = self.open()
        run_dir = self.supervisor.run_dir(current.run)
        held_out = run_dir / "held-out.jsonl"
        if not held_out.exists() or not held_out.stat().st_size:
            raise DataError(f"The run {current.run} held no pairs out, so there is nothing to score on.")
        current.send(score_request(held_out))
        return {}

    def open(self) -> Comparison:
        """The lanes.

        Raises:
            BusyError: none are loaded.
        """
        if self.supervisor.comparison is None:
            raise BusyError("No lanes are loaded. Press Generate.")
        return self.supervisor.comparison
